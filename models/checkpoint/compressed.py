"""Descriptions of llm-compressor (compressed-tensors) and of NVIDIA's modelopt."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from costgraph.errors import ModelError, clip
from costgraph.ir.dtypes import DType, dtype
from costgraph.models.checkpoint.described import (
    HEAD,
    INSTEAD,
    LINEARS,
    Described,
    Rule,
    chosen,
    finished,
    width,
)
from costgraph.models.checkpoint.layout import (
    E4M3,
    FP16,
    FP32,
    INTEGERS,
    MXFP4,
    MXFP8,
    NVFP4,
    Layout,
    Operand,
)
from costgraph.models.checkpoint.names import pattern_of, patterns_of
from costgraph.models.fields import Fields

#: Storage of weights by the name of a format: whether elements are packed into words.
_FORMATS = MappingProxyType(
    {
        "dense": False, "naive-quantized": False, "int-quantized": False,
        "float-quantized": False, "pack-quantized": True, "nvfp4-pack-quantized": True,
        "mxfp4-pack-quantized": True, "mixed-precision": False,
    }
)  # fmt: skip
#: Bits of weights that are read, by their type.
_BITS: Mapping[str, tuple[int, ...]] = MappingProxyType({"int": tuple(INTEGERS), "float": (4, 8)})
#: What a format stores, where it says so: type and bits.
_STORES: Mapping[str, tuple[str, tuple[int, ...]]] = MappingProxyType(
    {
        "int-quantized": ("int", _BITS["int"]),
        "float-quantized": ("float", (8,)),
        "pack-quantized": ("int", _BITS["int"]),
        "nvfp4-pack-quantized": ("float", (4,)),
        "mxfp4-pack-quantized": ("float", (4,)),
    }
)
#: What a packed matrix was before: two whole numbers of 64 bit beside it.
_SHAPE = 2 * 64
_HOW = frozenset(
    ("block_structure", "quant_method", "quantization_status", "global_compression_ratio",
     "version", "observer", "observer_kwargs", "scale_dtype", "zp_dtype", "kv_cache_scheme",
     "producer", "run_compressed")
)  # fmt: skip


def compressed_tensors(stated: Fields, key: str) -> Described:
    """Groups of modules, each with formats of its weights and of what they multiply."""
    _dense(stated)
    inner = stated.values.get("quantization_config")
    if isinstance(inner, Mapping):  # as it stood beside a sparsity configuration
        stated = Fields(f"{stated.name}: quantization_config", inner)
        _dense(stated)
    usual = chosen(stated, "format", _FORMATS, "dense")
    groups = stated.values.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ModelError(
            f"{stated.name}: 'config_groups' must hold the groups of modules, not {clip(groups)}; "
            f"{INSTEAD}"
        )
    rules = []
    for name, given in groups.items():
        where = f"{stated.name}: {clip(name)[1:-1]}"
        if not isinstance(given, Mapping):
            raise ModelError(f"{where} must be an object, not {clip(given)}")
        rules.append(_group(Fields(where, given), usual))
    kept = patterns_of(stated.values.get("ignore"), f"{stated.name}: 'ignore'")
    # Groups that name modules go before those that mean all linear ones.
    rules.sort(key=lambda rule: not rule.targets)
    kv = _cache(stated.values.get("kv_cache_scheme"), stated.name)
    finished(stated, _HOW)
    reach = LINEARS | {HEAD}
    return Described(key, "compressed-tensors", tuple(rules), reach, kept, kv, converts=True)


def _dense(stated: Fields) -> None:
    sparsity = stated.values.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format") not in (None, "dense"):
        raise ModelError(
            f"{stated.name}: 'sparsity_config' of format {clip(sparsity.get('format'))} is not "
            f"read; {INSTEAD}"
        )
    stated.refuse("transform_config", f"transforms around products are not read; {INSTEAD}")


def _group(stated: Fields, usual: str) -> Rule:
    name = chosen(stated, "format", _FORMATS, usual)
    weights = stated.section("weights")
    given = stated.values.get("input_activations")
    operand = None
    if given is not None:
        operand = _operand(stated.section("input_activations"))
    stated.refuse("output_activations", f"results that are quantised are not read; {INSTEAD}")
    targets = stated.values.get("targets") or ["Linear"]
    every = {"Linear", "LinearBase"} & set(map(str, targets)) if isinstance(targets, list) else ()
    found = () if every else patterns_of(targets, f"{stated.name}: 'targets'")
    layout = _weights(weights, name, operand)
    finished(stated, _HOW)
    return Rule(layout, operand, found)


def _weights(stated: Fields, form: str, operand: Operand | None) -> Layout:
    kind, packed = chosen(stated, "type", _BITS, "int"), _FORMATS[form]
    bits = width(stated, "num_bits", _BITS[kind])
    stores = _STORES.get(form)
    if stores is not None and (kind != stores[0] or bits not in stores[1]):
        raise ModelError(
            f"{stated.name}: 'format' = {form!r} does not store weights of type {kind!r} and "
            f"{bits} bits; {INSTEAD}"
        )
    symmetric = stated.flag("symmetric", True)
    group = None if stated.values.get("group_size") in (None, -1) else stated.size("group_size")
    usual = "channel" if group is None else "group"
    strategies = dict.fromkeys(("tensor", "channel", "group", "block", "tensor_group"))
    strategy = chosen(stated, "strategy", strategies, usual)
    if strategy == "group" and group is None:
        raise ModelError(f"{stated.name}: 'strategy' = 'group' needs a 'group_size'")
    ordered = stated.values.get("actorder")
    if ordered not in (None, False, True, "weight", "static", "group", "dynamic"):
        raise ModelError(f"{stated.name}: 'actorder' = {clip(ordered)}: 'weight' or 'group'")
    stated.refuse("dynamic", f"weights with scales found at run time are not read; {INSTEAD}")
    if kind == "float" and bits == 4:
        finished(stated, _HOW)
        if strategy == "group" and group == 32:
            return MXFP4
        if group != 16:
            raise ModelError(f"{stated.name}: fp4 in groups of {group}: 16 (NVFP4) or 32 (MXFP4)")
        return NVFP4.with_side(FP32) if operand is not None else NVFP4
    base = E4M3 if kind == "float" else INTEGERS[bits]
    zero = 0 if symmetric else (bits if packed else 8)
    side = _SHAPE if packed else 0
    columns = 32 if ordered in (True, "group", "dynamic") else 0
    if strategy == "tensor":
        extra = 0 if operand is None or operand.dynamic else FP16
        made = Layout(base, rows=None, matrix_bits=FP16 + zero + extra + side)
    elif strategy == "block":
        block = stated.values.get("block_structure")
        if isinstance(block, str):
            block = [int(n) for n in block.split("x") if n.isdecimal() and len(n) < 6]
        if not (
            isinstance(block, list)
            and len(block) == 2
            and all(type(n) is int and n > 0 for n in block)
        ):
            raise ModelError(
                f"{stated.name}: 'block_structure' must be two numbers, not {clip(block)}"
            )
        made = Layout(base, block[1], block[0], FP16, matrix_bits=side)
    else:
        made = Layout(
            base, group if strategy == "group" else None, 1, FP16, zero,
            column_bits=columns, matrix_bits=side,
        )  # fmt: skip
    finished(stated, _HOW)
    return made


def _operand(stated: Fields) -> Operand:
    kind = chosen(stated, "type", {"int": 0, "float": 0}, "int")
    bits = width(stated, "num_bits", (4, 8))
    dynamic = stated.values.get("dynamic", False)
    if dynamic not in (True, False, "local"):
        raise ModelError(f"{stated.name}: 'dynamic' must be true, false or 'local'")
    stated.flag("symmetric", True)
    strategies = dict.fromkeys(("tensor", "token", "group", "tensor_group", "block", "channel"))
    strategy = chosen(stated, "strategy", strategies, "tensor")
    group = stated.values.get("group_size")
    size = None if group in (None, -1) else stated.size("group_size")
    finished(stated, _HOW | {"actorder"})
    if kind == "float" and bits == 4:
        wide = size == 32
        base = DType("mxfp4" if wide else "nvfp4", dtype("fp4").bits, "fp4")
        return Operand(base, size or 16, scale_bits=8)
    base = E4M3 if kind == "float" else INTEGERS[bits]
    if strategy in ("group", "block"):
        return Operand(base, size or 128, dynamic=True)
    return Operand(base, whole=strategy == "tensor", dynamic=bool(dynamic))


def _cache(given: Any, where: str) -> DType | None:
    if not given:
        return None
    if isinstance(given, str) and given in _CACHES:  # as modelopt's first files write it
        return _CACHES[given]
    if not isinstance(given, Mapping):
        raise ModelError(f"{where}: 'kv_cache_scheme' must be an object, not {clip(given)}")
    kind, bits = given.get("type", "int"), given.get("num_bits")
    if bits != 8 or kind not in ("int", "float"):
        raise ModelError(
            f"{where}: 'kv_cache_scheme' of {clip(bits)} bit {clip(kind)} is not read, "
            f"8 bit would be; {INSTEAD}"
        )
    return E4M3 if kind == "float" else INTEGERS[8]


#: modelopt's algorithms: format of weights and of operands.
_ALGORITHMS: Mapping[str, tuple[Layout, Operand | None]] = MappingProxyType(
    {
        # An fp32 scale of the weights and one of the activations.
        "FP8": (
            Layout(E4M3, rows=None, matrix_bits=2 * FP32),
            Operand(E4M3, whole=True, dynamic=False),
        ),
        "FP8_PER_CHANNEL_PER_TOKEN": (Layout(E4M3, None, 1, FP32), Operand(E4M3)),
        # Blocks of 128 × 128, operands in stretches of 128; TensorRT-LLM's name for the same.
        **dict.fromkeys(
            ("FP8_PB_WO", "FP8_BLOCK_SCALES"),
            (Layout(E4M3, 128, 128, FP32), Operand(E4M3, 128)),
        ),
        "MXFP8": (MXFP8, Operand(DType("mxfp8", dtype("fp8").bits, "fp8"), 32, scale_bits=8)),
        "NVFP4": (
            NVFP4.with_side(FP32),
            Operand(DType("nvfp4", dtype("fp4").bits, "fp4"), 16, scale_bits=8),
        ),
        "NVFP4_AWQ": (
            NVFP4.with_side(FP32),
            Operand(DType("nvfp4", dtype("fp4").bits, "fp4"), 16, scale_bits=8),
        ),
        "W4A16_NVFP4": (NVFP4, None),
        "W4A16_AWQ": (Layout(INTEGERS[4], 128, 1, FP16), None),
        "W8A16": (Layout(INTEGERS[8], None, 1, FP16), None),
        "W8A8_SQ_PER_CHANNEL": (Layout(INTEGERS[8], None, 1, FP32), Operand(INTEGERS[8])),
    }
)  # fmt: skip
_CACHES: Mapping[str, DType] = MappingProxyType(
    {"FP8": E4M3, "INT8": INTEGERS[8], "NVFP4": dtype("nvfp4")}
)


def modelopt(stated: Fields, key: str) -> Described:
    """NVIDIA's modelopt, in ``config.json`` or as in ``hf_quant_config.json``."""
    inner = stated.values.get("quantization")
    if isinstance(inner, Mapping):
        finished(stated, _HOW | {"quantization"})
        stated = Fields(f"{stated.name}: quantization", inner)
    kept = [
        p
        for k in ("exclude_modules", "ignore")
        for p in patterns_of(stated.values.get(k), f"{stated.name}: {k!r}")
    ]
    kv = None
    cache = stated.values.get("kv_cache_quant_algo")
    if cache:
        kv = _CACHES[chosen(stated, "kv_cache_quant_algo", _CACHES, "FP8")]
    elif stated.values.get("kv_cache_scheme"):
        kv = _cache(stated.values["kv_cache_scheme"], stated.name)
    reach = LINEARS | {HEAD}
    known = {**_ALGORITHMS, "MIXED_PRECISION": None}
    if stated.values.get("quant_algo") is None:
        raise ModelError(f"{stated.name}: missing key 'quant_algo': {', '.join(known)}; {INSTEAD}")
    algorithm = chosen(stated, "quant_algo", known, "")
    mixed = algorithm == "MIXED_PRECISION"
    rules = mixed_layers(stated) if mixed else (_algorithm(stated, algorithm),)
    finished(
        stated, _HOW | {"config_groups", "awq_block_size", "has_zero_point", "pre_quant_scale"}
    )
    return Described(key, "modelopt", rules, reach, tuple(kept), kv, converts=True)


def _algorithm(stated: Fields, name: str) -> Rule:
    layout, operand = _ALGORITHMS[name]
    group = stated.values.get("group_size")
    if group is not None:
        size = stated.size("group_size")
        if name == "W4A16_AWQ":
            layout = Layout(INTEGERS[4], size, 1, FP16)
        elif layout.group is not None and size != layout.group:
            raise ModelError(f"{stated.name}: 'group_size' = {size}: {name} has {layout.group}")
    _agree(stated, name, layout)
    return Rule(layout, operand)


def _agree(stated: Fields, name: str, layout: Layout) -> None:
    """Holds the file's groups of weights, where it lists any, against an algorithm.

    Raises:
        ModelError: a group has other bits, or groups of another size.
    """
    groups = stated.values.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        found = weights if isinstance(weights, Mapping) else {}
        for key, mine in (("num_bits", int(layout.base.bits)), ("group_size", layout.group)):
            if mine is not None and found.get(key) not in (None, mine):
                raise ModelError(
                    f"{stated.name}: {key!r} = {clip(found[key])} of a group, but "
                    f"'quant_algo' = {clip(name)} has {mine}"
                )


def mixed_layers(stated: Fields) -> tuple[Rule, ...]:
    """modelopt's ``quantized_layers``: every layer by its name, with its algorithm.

    Raises:
        ModelError: there are none, or an algorithm is not known.
    """
    named = stated.values.get("quantized_layers")
    if not isinstance(named, Mapping) or not named:
        raise ModelError(f"{stated.name}: 'quantized_layers' must name the layers; {INSTEAD}")
    by: dict[tuple[str, Any], list[str]] = {}
    for name, given in named.items():
        if not isinstance(given, Mapping):
            raise ModelError(f"{stated.name}: {clip(name)} must be an object, not {clip(given)}")
        one = Fields(f"{stated.name}: {clip(name)}", given)
        algorithm = chosen(one, "quant_algo", _ALGORITHMS, "")
        by.setdefault((algorithm, given.get("group_size")), []).append(str(name))
    rules = []
    for (algorithm, group), names in by.items():
        made = _algorithm(Fields(stated.name, {"group_size": group}), algorithm)
        targets = tuple(pattern_of(n, f"{stated.name}: 'quantized_layers'") for n in names)
        rules.append(Rule(made.layout, made.operand, targets))
    return tuple(rules)
