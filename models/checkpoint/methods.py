"""Methods of quantisation by their name: each reads its description into rules.

Sizes are those that the libraries write: GPTQ and AWQ pack zero points as wide as elements
beside fp16 scales; ``g_idx`` is counted where the order of columns counts (``desc_act``),
for only then is it read. Other files carry it, too, and say nothing with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sympy import Integer, Rational

from costgraph.errors import ModelError, clip, nearest
from costgraph.ir.dtypes import DType
from costgraph.models.checkpoint.compressed import compressed_tensors, mixed_layers, modelopt
from costgraph.models.checkpoint.described import (
    EMBED,
    EXPERTS,
    HEAD,
    IN_LAYERS,
    INSTEAD,
    LINEARS,
    ROUTER,
    Described,
    Rule,
    chosen,
    finished,
    group_of,
    width,
)
from costgraph.models.checkpoint.layout import (
    E4M3,
    E5M2,
    FP16,
    FP32,
    INTEGERS,
    MXFP4,
    Layout,
    Operand,
    bnb4,
)
from costgraph.models.checkpoint.names import ENDS, Pattern, pattern_of, patterns_of
from costgraph.models.fields import Fields

#: Keys that say how weights were found, or which kernel is to be taken: no bytes.
_HOW = frozenset((
    "_load_in_4bit", "_load_in_8bit", "actorder", "autoround_version", "backend", "batch_size",
    "block_name_to_quantize", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage",
    "cache_block_outputs", "cache_examples_on_gpu", "damp_auto_increment", "damp_percent",
    "dataset", "do_fuse", "enable_minmax_tuning", "enable_norm_bias_tuning",
    "enable_quanted_input", "exllama_config", "format", "fuse_max_seq_len",
    "gradient_accumulate_steps", "is_marlin_format", "iters",
    "linear_weights_not_to_quantize_shapes", "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight", "llm_int8_threshold", "low_gpu_mem_usage", "lr",
    "max_input_length", "meta", "minmax_lr", "model_file_base_name", "model_name_or_path",
    "model_seqlen", "module_name_preceding_first_block", "modules_to_fuse", "mse", "nsamples",
    "pack_dtype", "pad_token_id", "parallel_packing", "quant_method", "quantizer", "scale_dtype",
    "seqlen", "static_groups", "sym", "to_quant_block_names", "tokenizer", "train_bs",
    "true_sequential", "use_cuda_fp16", "use_exllama",
))  # fmt: skip


def packed_integers(bits: int, group: int | None, ordered: bool) -> Layout:
    """GPTQ and AWQ: fp16 scale and a packed zero point per group; the group of each column."""
    return Layout(INTEGERS[bits], group, 1, FP16, bits, column_bits=32 if ordered else 0)


def _gptq(stated: Fields, key: str) -> Described:
    bits = width(stated, "bits", (2, 3, 4, 8))
    group = group_of(stated, "group_size", 128)
    ordered = stated.flag("desc_act", False)
    chosen(stated, "checkpoint_format", {"gptq": 0, "gptq_v2": 0}, "gptq")
    chosen(
        stated,
        "packing_format",
        {"auto_round:auto_gptq": 0, "auto_gptq": 0, "auto_round:gptq_exllamav2": 0},
        "auto_gptq",
    )
    rules = [*_overrides(stated, bits, group, ordered)]
    inside = stated.values.get("modules_in_block_to_quantize")
    targets: tuple[Pattern, ...] = ()
    if inside:
        lists = inside if isinstance(inside, list) else [inside]
        flat = [n for part in lists for n in (part if isinstance(part, list) else [part])]
        targets = patterns_of(flat, f"{stated.name}: 'modules_in_block_to_quantize'")
    head = stated.flag("lm_head", False)
    rules.append(Rule(packed_integers(bits, group, ordered), targets=targets))
    kept = patterns_of(
        stated.values.get("modules_to_not_convert"), f"{stated.name}: 'modules_to_not_convert'"
    )
    finished(stated, _HOW)
    reach = IN_LAYERS | {HEAD} if head else IN_LAYERS
    return Described(key, "gptq", tuple(rules), reach, kept)


def _overrides(stated: Fields, bits: int, group: int | None, ordered: bool) -> list[Rule]:
    """GPTQModel's ``dynamic``: names that are left out (``-:``) or stored otherwise (``+:``)."""
    given = stated.values.get("dynamic")
    if not given:
        return []
    if not isinstance(given, Mapping):
        raise ModelError(f"{stated.name}: 'dynamic' must be an object, not {clip(given)}")
    found = []
    for name, changes in given.items():
        where = f"{stated.name}: 'dynamic'"
        pattern = (pattern_of("re:" + str(name).removeprefix("+:").removeprefix("-:"), where),)
        if str(name).startswith("-:"):
            found.append(Rule(None, targets=pattern))
            continue
        one = Fields(f"{where}: {clip(name)}", changes if isinstance(changes, Mapping) else {})
        own = width(one, "bits", (2, 3, 4, 8), bits)
        layout = packed_integers(
            own, group_of(one, "group_size", group), one.flag("desc_act", ordered)
        )
        finished(one, _HOW)
        found.append(Rule(layout, targets=pattern))
    return found


def _awq(stated: Fields, key: str) -> Described:
    bits = width(stated, "bits", (4,), default=stated.size("w_bit", default=4))
    group = group_of(stated, "group_size", stated.size("q_group_size", default=128))
    version = stated.word("version", default="gemm").lower()
    if version not in ("gemm", "marlin", "exllama", "ipex"):
        raise ModelError(
            f"{stated.name}: 'version' = {clip(version)}: its layout is not read, 'gemm' is; "
            f"{INSTEAD}"
        )
    stated.flag("zero_point", True)  # stored either way
    kept = patterns_of(
        stated.values.get("modules_to_not_convert"), f"{stated.name}: 'modules_to_not_convert'"
    )
    finished(stated, _HOW)
    rule = Rule(packed_integers(bits, group, ordered=False))
    return Described(key, "awq", (rule,), IN_LAYERS, kept)


_FP8 = MappingProxyType(
    {"e4m3": E4M3, "float8_e4m3fn": E4M3, "e4m3fn": E4M3, "e5m2": E5M2, "float8_e5m2": E5M2}
)


def _fp8(stated: Fields, key: str) -> Described:
    base = _FP8[chosen(stated, "fmt", _FP8, "e4m3")]
    scheme = chosen(stated, "activation_scheme", {"dynamic": 0, "static": 0}, "dynamic")
    block = stated.values.get("weight_block_size")
    if block is not None:
        if not (
            isinstance(block, (list, tuple))
            and len(block) == 2
            and all(type(n) is int and 0 < n <= 2**20 for n in block)
        ):
            raise ModelError(
                f"{stated.name}: 'weight_block_size' must be two numbers, not {clip(block)}"
            )
        if scheme != "dynamic":
            raise ModelError(
                f"{stated.name}: 'weight_block_size' with activation_scheme = 'static' is not "
                f"understood, 'dynamic' would be; {INSTEAD}"
            )
        layout = Layout(base, block[1], block[0], FP32)
        operand = Operand(base, block[1])
    else:
        # One fp32 scale of the weights, and one of static activations.
        static = scheme == "static"
        layout = Layout(base, rows=None, matrix_bits=FP32 * (1 + static))
        operand = Operand(base, whole=True, dynamic=not static)
    said = "scales of fp8 blocks are taken to be stored in fp32"
    assumed = () if block is None else (said,)
    rules: tuple[Rule, ...] = (Rule(layout, operand),)
    how = _HOW | {"scale_fmt"}
    if stated.values.get("quantized_layers"):
        # modelopt converted some of an fp8 file's layers: what it ignored stays in fp8.
        chosen(stated, "quant_algo", {"MIXED_PRECISION": 0}, "MIXED_PRECISION")
        rules = (*mixed_layers(stated), *rules)
        kept = _kept(stated, "modules_to_not_convert", "ignored_layers")
        how |= {"config_groups", "group_size", "ignore", "moe_quant_algo", "producer"}
    else:
        kept = _kept(stated, "modules_to_not_convert", "ignored_layers", "ignore")
    finished(stated, how)
    return Described(key, "fp8", rules, LINEARS, kept, assumed=assumed, converts=False)


def _kept(stated: Fields, *keys: str) -> tuple[Pattern, ...]:
    return tuple(
        p for k in keys for p in patterns_of(stated.values.get(k), f"{stated.name}: {k!r}")
    )


def _fbgemm(stated: Fields, key: str) -> Described:
    kept = _kept(stated, "modules_to_not_convert")
    finished(stated, _HOW | {"activation_scale_ub"})
    rule = Rule(Layout(E4M3, None, 1, FP32), Operand(E4M3))
    return Described(key, "fbgemm_fp8", (rule,), LINEARS, kept)


def _bitsandbytes(stated: Fields, key: str) -> Described:
    kept = _kept(stated, "llm_int8_skip_modules")
    four, eight = stated.flag("load_in_4bit", False), stated.flag("load_in_8bit", False)
    kinds = {"nf4": 0, "fp4": 0}
    kind = chosen(stated, "bnb_4bit_quant_type", kinds, "fp4")
    double = stated.flag("bnb_4bit_use_double_quant", False)
    finished(stated, _HOW)
    if four == eight:
        raise ModelError(f"{stated.name}: one of 'load_in_4bit' and 'load_in_8bit' must be true")
    if four:
        rule = Rule(bnb4(kind, double))
        return Described(key, "bitsandbytes", (rule,), LINEARS, kept, converts=True)
    # LLM.int8(): an fp32 maximum per row; rows of the operand are narrowed at run time.
    rule = Rule(Layout(INTEGERS[8], None, 1, FP32, matrix_bits=8), Operand(INTEGERS[8]))
    said = "outliers that LLM.int8() multiplies in 16 bit are found at run time, and not counted"
    return Described(key, "bitsandbytes", (rule,), LINEARS, kept, assumed=(said,), converts=True)


def _mxfp4(stated: Fields, key: str) -> Described:
    kept = _kept(stated, "modules_to_not_convert")
    finished(stated, _HOW | {"dequantize", "use_kernels"})
    return Described(key, "mxfp4", (Rule(MXFP4),), frozenset((EXPERTS,)), kept)


def _bitnet(stated: Fields, key: str) -> Described:
    """Signs in two bits, four rows to a byte, and one scale a matrix; operands in int8."""
    chosen(stated, "linear_class", {"bitlinear": 0, "autobitlinear": 0}, "bitlinear")
    chosen(stated, "quantization_mode", {"offline": 0}, "offline")
    stated.refuse("use_rms_norm", f"norms in front of every product are not read; {INSTEAD}")
    kept = _kept(stated, "modules_to_not_convert")
    finished(stated, _HOW | {"rms_norm_eps"})
    rule = Rule(Layout(INTEGERS[2], rows=None, matrix_bits=FP16), Operand(INTEGERS[8]))
    return Described(key, "bitnet", (rule,), LINEARS, kept)


def _hqq(stated: Fields, key: str) -> Described:
    outer = stated.section("quant_config")
    given = outer.section("weight_quant_params")
    bits = width(given, "nbits", (1, 2, 3, 4, 8), 4)
    group = group_of(given, "group_size", 64)
    for name in ("scale_quant_params", "zero_quant_params"):
        outer.refuse(name, f"scales that are quantised themselves are not read; {INSTEAD}")
    base = INTEGERS[bits] if bits in INTEGERS else DType("int1", Integer(1), "int4")
    # Three bits are packed ten to a word of 32.
    payload = Rational(32, 10) if bits == 3 else None
    layout = Layout(base, group, 1, FP16, FP16, flat=True, payload=payload)
    kept = _kept(stated, "skip_modules")
    stated.refuse("dynamic_config", f"settings per layer are not read; {INSTEAD}")
    finished(
        given,
        frozenset(("axis", "channel_wise", "optimize", "round_zero", "view_as_float", "packing")),
    )
    finished(outer, frozenset(("offload_meta",)))
    finished(stated, _HOW)
    return Described(key, "hqq", (Rule(layout),), LINEARS, kept, converts=True)


def _aqlm(stated: Fields, key: str) -> Described:
    into, out = stated.size("in_group_size", default=8), stated.size("out_group_size", default=1)
    books = stated.size("num_codebooks", default=1)
    bits = stated.size("nbits_per_codebook", default=16)
    if bits > 16:
        raise ModelError(f"{stated.name}: 'nbits_per_codebook' = {bits}: at most 16")
    if into > 64 or out > 64 or books > 16:
        raise ModelError(f"{stated.name}: groups of up to 64 and 16 code books are understood")
    held = 8 if bits <= 8 else 16
    payload = Rational(books * held, into * out)
    # Codes stand in whole integers; the books hold fp16, and rows have an fp16 scale.
    tables = books * 2**bits * into * out * FP16
    base = DType(f"aqlm-{books}x{bits}", payload, "")
    layout = Layout(
        base, None, out, FP16, matrix_bits=tables, payload=payload, coded=into * out,
        label=base.name,
    )  # fmt: skip
    kept = _kept(stated, "linear_weights_not_to_quantize")
    finished(stated, _HOW)
    return Described(key, "aqlm", (Rule(layout),), LINEARS, kept, converts=True)


def _torchao(stated: Fields, key: str) -> Described:
    kind, given = stated.values.get("quant_type"), stated.values.get("quant_type_kwargs") or {}
    if isinstance(kind, Mapping):
        inner = kind.get("default", kind)
        if set(kind) - {"default", "_type", "_data", "_version"} or not isinstance(inner, Mapping):
            raise ModelError(
                f"{stated.name}: 'quant_type' of several modules is not read; {INSTEAD}"
            )
        kind, given = inner.get("_type"), inner.get("_data") or {}
    if not isinstance(kind, str) or not isinstance(given, Mapping):
        raise ModelError(f"{stated.name}: 'quant_type' must name a configuration, not {clip(kind)}")
    name = "".join(part for part in kind.removesuffix("Config").lower().split("_"))
    if name not in _AO:
        raise ModelError(
            f"{stated.name}: 'quant_type' = {clip(kind)} is not read{nearest(name, _AO)}; {INSTEAD}"
        )
    data = Fields(f"{stated.name}: 'quant_type'", dict(given))
    rule = _AO[name](data)
    finished(
        data,
        frozenset(
            (
                "layout",
                "use_hqq",
                "zero_point_domain",
                "set_inductor_config",
                "preserve_zero",
                "mapping_type",
                "act_mapping_type",
                "weight_only_decode",
                "mm_config",
                "int4_packing_format",
                "int4_choose_qparams_algorithm",
                "weight_dtype",
                "activation_dtype",
                "packing_format",
                "version",
                "kernel_preference",
                "activation_value_lb",
                "activation_value_ub",
            )
        ),
    )
    kept = _kept(stated, "modules_to_not_convert")
    stated.refuse("include_input_output_embeddings", f"quantised look-ups are not read; {INSTEAD}")
    finished(stated, _HOW | {"quant_type_kwargs", "untie_embedding_weights"})
    return Described(key, "torchao", (rule,), LINEARS, kept, converts=True)


def _granular(data: Fields) -> bool:
    """Whether scales belong to rows (and not to whole tensors)."""
    value = data.values.get("granularity")
    shown = value.get("_type") if isinstance(value, Mapping) else value
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        shown = value[0].get("_type")
    if shown not in (None, "PerTensor", "PerRow"):
        raise ModelError(f"{data.name}: 'granularity' = {clip(shown)}: PerTensor or PerRow")
    return shown == "PerRow"


def _ao_fp8(data: Fields) -> Rule:
    if _granular(data):
        return Rule(Layout(E4M3, None, 1, FP32), Operand(E4M3))
    return Rule(Layout(E4M3, rows=None, matrix_bits=FP32), Operand(E4M3, whole=True))


_AO: Mapping[str, Callable[[Fields], Rule]] = MappingProxyType(
    {
        "int4weightonly": lambda d: Rule(
            Layout(INTEGERS[4], group_of(d, "group_size", 128), 1, FP16, FP16)
        ),
        "int8weightonly": lambda d: Rule(
            Layout(INTEGERS[8], group_of(d, "group_size", None), 1, FP16)
        ),
        "float8weightonly": lambda d: Rule(Layout(E4M3, None, 1, FP32)),
        "float8dynamicactivationfloat8weight": _ao_fp8,
        "int8dynamicactivationint8weight": lambda d: Rule(
            Layout(INTEGERS[8], None, 1, FP16), Operand(INTEGERS[8])
        ),
        "int8dynamicactivationint4weight": lambda d: Rule(
            Layout(INTEGERS[4], group_of(d, "group_size", 32), 1, FP32), Operand(INTEGERS[8])
        ),
    }
)


#: Modules around the layers, which no dot tells from options.
_OUTER = frozenset(name for names in ENDS.values() for name in names)


def _mlx(stated: Fields, key: str) -> Described:
    """MLX: scale and bias in 16 bit per group; look-ups and routers are converted, too."""
    mode = chosen(stated, "mode", {"affine": 0, "mxfp4": 0}, "affine")
    usual = _mlx_layout(stated, mode, 4, 64)
    rules = []
    for name in stated.unread:
        value = stated.values[name]
        if name in ("bits", "group_size", "mode", "quant_method") or value is None:
            continue
        module = "." in name or name in _OUTER or isinstance(value, Mapping)
        if not module or not (isinstance(value, (bool, Mapping))):
            raise ModelError(
                f"{stated.name}: {name!r} = {clip(value, 60)} is no key of MLX: "
                f"'quant_method' must name the method; {INSTEAD}"
            )
        target = (pattern_of(name, stated.name),)
        if value is False:
            rules.append(Rule(None, targets=target))
        elif isinstance(value, Mapping):
            one = Fields(f"{stated.name}: {clip(name)}", value)
            own = _mlx_layout(one, chosen(one, "mode", {"affine": 0, "mxfp4": 0}, mode), 4, 64)
            finished(one, _HOW)
            rules.append(Rule(own, targets=target))
    reach = LINEARS | {HEAD, EMBED, ROUTER}
    return Described(key, "mlx", (*rules, Rule(usual)), reach)


def _mlx_layout(stated: Fields, mode: str, bits: int, group: int) -> Layout:
    own = width(stated, "bits", (2, 3, 4, 5, 6, 8), bits)
    if mode == "mxfp4":
        return MXFP4
    return Layout(INTEGERS[own], group_of(stated, "group_size", group), 1, FP16, FP16)


Method = Callable[[Fields, str], Described]
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "gptq": _gptq,
        "gptqmodel": _gptq,
        "auto-round": _gptq,
        "awq": _awq,
        "fp8": _fp8,
        "fbgemm_fp8": _fbgemm,
        "compressed-tensors": compressed_tensors,
        "bitsandbytes": _bitsandbytes,
        "mxfp4": _mxfp4,
        "bitnet": _bitnet,
        "modelopt": modelopt,
        "modelopt_fp4": modelopt,
        "torchao": _torchao,
        "hqq": _hqq,
        "aqlm": _aqlm,
        "mlx": _mlx,
    }
)


def described(name: str, key: str, stated: Mapping[str, Any]) -> Described:
    """The formats that a description under ``key`` gives.

    Raises:
        ModelError: its method is unknown, or something in it is not understood.
    """
    fields = Fields(f"{name}: {key}", stated)
    method, sign = _method(key, stated)
    if method not in METHODS:
        shown = clip(method) if method else "without a method"
        raise ModelError(
            f"{name}: {key} {shown} is not read{nearest(str(method), METHODS)}: "
            f"{', '.join(METHODS)} would be; {INSTEAD}"
        )
    made = METHODS[method](fields, key)
    guess = f"{key} names no method: read as that of {method}, by its {sign}"
    assumed = (*made.assumed, guess) if sign else made.assumed
    return replace(made, kept=tuple(dict.fromkeys(made.kept)), assumed=assumed)


def _method(key: str, stated: Mapping[str, Any]) -> tuple[str, str]:
    """The method, and the sign by which it is known where it is not named."""
    given = stated.get("quant_method")
    if isinstance(given, str):
        return given.lower(), ""
    if given is not None:
        return str(given), ""
    for name, method in _SIGNS.items():
        if name in stated:
            return method, repr(name)
    if key == "compression_config":
        return "compressed-tensors", "key"
    if {"bits", "group_size"} <= set(stated):
        return "mlx", "'bits' and 'group_size'"
    return "", ""


#: Keys that one method has and no other.
_SIGNS: Mapping[str, str] = MappingProxyType(
    {
        # modelopt lists groups, too.
        "quant_algo": "modelopt",
        "config_groups": "compressed-tensors",
        "load_in_4bit": "bitsandbytes",
        "load_in_8bit": "bitsandbytes",
    }
)
