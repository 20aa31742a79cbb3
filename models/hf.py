"""Importing a Hugging Face ``config.json``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sympy import Expr, Rational, Symbol

from costgraph.errors import InputError, ModelError, VerifyError, clip, nearest
from costgraph.files import outside
from costgraph.formula.formula import exact
from costgraph.ir.dtypes import DType, dtype
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program, autoregressive, denoising, single_pass
from costgraph.models import positions
from costgraph.models.ahead import own_parameters
from costgraph.models.blocks import Style
from costgraph.models.blocks.mla import FORMS, latent
from costgraph.models.checkpoint.apply import as_described
from costgraph.models.classes import Form, form_of, formed, known_classes
from costgraph.models.families import ARCHITECTURES, FAMILIES
from costgraph.models.families.absent import filled
from costgraph.models.families.common import Programmed, Reading, class_of, unnamed
from costgraph.models.fields import Fields, as_file
from costgraph.models.heads import refuse_heads
from costgraph.models.known import (
    AHEAD,
    check_kinds,
    not_understood,
    parts_left_out,
    refuse_counted,
)
from costgraph.models.shown import pictures_of, video_of
from costgraph.models.stored import element_format, narrow, read_description
from costgraph.ops.experts import BALANCED, ExpertLinear, Routing
from costgraph.ops.pattern import COUNTED

LARGEST_FILE = 4 * 2**20
_NUMBER = re.compile(r"\d{1,3}(\.\d{1,6})?\Z")
#: Keys that a message lists before it only counts them.
MOST_SHOWN = 12

#: How a request runs through a step graph, by the name in a :class:`Reading`.
PHASES: Mapping[str, Callable[..., Program]] = MappingProxyType(
    {"autoregressive": autoregressive, "denoising": denoising, "forward": single_pass}
)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: the file cannot be read, is too large, or holds no object.
    """
    if outside.is_folder(path):
        path = path / "config.json"
    value = outside.read_json(path, LARGEST_FILE, "a JSON configuration", ModelError)
    if not isinstance(value, dict):
        raise ModelError(
            f"{outside.label_of(path)}: holds {type(value).__name__}, not a JSON object"
        )
    return value


def import_config(
    config: Mapping[str, Any],
    name: str = "model",
    *,
    weights: str | DType | None = None,
    activations: str | DType | None = None,
    kv: str | DType | None = None,
    mask: str = "skip",
    logits: str = "last",
    symbolic: bool = False,
    mla: str = "auto",
    routing: str | Sequence[float | Fraction] | Routing = "balanced",
    image: int | Sequence[int] | str | None = None,
    video: str | None = None,
    images: bool = True,
    quantization: str = "read",
    read_as: str | None = None,
) -> Program:
    """A program from the contents of a ``config.json``.

    Args:
        config: the JSON object.
        name: what to call the model in messages and tables.
        weights, activations, kv: element formats instead of the configured one.
        mask: ``skip`` counts useful attention pairs, ``compute`` all of them.
        logits: ``last`` position only in prefill, or ``all``.
        symbolic: keep ``d``, ``L``, ``H`` … as symbols; their values are in
            the program's ``dims``.
        mla: form of latent attention, ``absorbed``, ``naive`` or ``expanded``
            (:class:`~costgraph.models.blocks.mla.LatentAttention`); ``auto`` is
            naive in the prefill and absorbed in decode steps, as engines do.
        routing: how tokens choose experts: ``balanced``; the relative popularity
            of each expert as a list, or ``zipf:1.2``; or the bounds ``all`` and
            ``least`` (:class:`~costgraph.ops.experts.Routing`).
        image: the size of images in pixels instead of the configured one: a side, (height,
            width), or a text with width x height, ``1280x720``; of a model that reads text as
            well all that a request shows: ``4x1280x720`` are four, commas separate others.
        video: what such a model is shown instead, or as well: ``640x360@60`` (frames),
            ``640x360@30s@2fps``.
        images: False leaves images out of a request to a multimodal model.
        quantization: what to do where the file says that its weights are narrow and no
            ``weights`` are given: ``read`` counts every matrix as the checkpoint stores it
            (:mod:`costgraph.models.checkpoint`), ``ignore`` the 16-bit model.
        read_as: a family that reads a ``model_type`` which no family knows, where every key
            has a meaning there; the program says so among its assumptions.

    Raises:
        ModelError: a key is missing or wrong, the architecture is unknown, or how the
            weights are stored is not understood.
        InputError: an option is unknown.
    """
    if mask not in COUNTED:
        raise InputError(f"unknown mask {clip(mask)}{nearest(str(mask), COUNTED)}")
    if logits not in ("last", "all"):
        raise InputError(f"logits must be 'last' or 'all', not {clip(logits)}")
    if mla not in ("auto", *FORMS):
        raise InputError(f"unknown form of latent attention {clip(mla)}{nearest(str(mla), FORMS)}")
    config = as_file(name, config)
    refuse_heads(name, config)
    fields = Fields(name, config)
    family = family_of(fields) if read_as is None else _asked(fields, read_as)
    check_kinds(Fields(name, config))
    form = form_of(fields, family) if read_as is None else Form("whole")
    reading = formed(fields, FAMILIES[family](filled(fields, family)), form)
    if quantization not in ("read", "ignore"):
        raise InputError(f"quantization must be 'read' or 'ignore', not {clip(quantization)}")
    base, said = element_format(fields)
    stored = narrow(fields)
    parts = [n for n, v in (("weights", weights), ("activations", activations)) if v is None]
    assumed = f"{' and '.join(parts)} are counted in 16 bit; the file {said}"
    described = None
    if weights is not None or stored is None:
        assumed = assumed if parts and said else ""
    elif quantization == "ignore":
        assumed = f"the 16-bit model is counted: {stored.text} of the file is not read"
    else:
        described = read_description(fields, stored)
        assumed = f"what is not narrow is counted in 16 bit; the file {said}" if said else ""
    shown = (*pictures_of(image), *video_of(video))
    if shown and not images:
        raise InputError(f"{name}: images=False shows nothing: give no image and no video")
    style = Style(
        weights=base if weights is None else dtype(weights),
        acts=base if activations is None else dtype(activations),
        kv=(base if activations is None else dtype(activations)) if kv is None else dtype(kv),
        mask=mask,
        logits=logits,
        routing=routing_of(routing),
        mla="naive" if mla == "auto" else mla,
        pictures=shown,
        images=bool(images),
    )
    made = plain = _program(name, reading, style, mla == "auto", symbolic)
    made = replace(positions.named(made, config), context=positions.context_of(config))
    made, told = _with_ahead(made, reading, style, config)
    if described is not None:
        made = as_described(made, described, caches=kv is None)
    made = made.assuming(assumed) if assumed else made
    usual = [] if said or stored is not None else [("weights", weights, base)]
    usual += [] if said else [("activations", activations, base)]
    usual += [("kv", kv, style.acts)]
    same = [
        f"the option {option!r} changes nothing: {own.name} is what the model has"
        for option, given, own in usual
        if given is not None and dtype(given) == own
    ]
    idle = [
        option
        for option, others in _others(style, mla)
        if all(_alike(name, reading, o, symbolic, plain) for o in others)
    ]
    if quantization == "ignore" and (stored is None or weights is not None):
        idle.append("quantization")
    for option in ("image", "video"):
        if option in idle:
            raise InputError(f"{name}: {_idle(option)}")
    left = not_understood(fields)
    if read_as is not None:
        made = made.assuming(_read_as(fields, family, left))
    alone = parts_left_out(fields) or _sees_more(form, family, reading)
    made = made.assuming(*([alone] if alone else []), *fields.told)
    refuse_counted(fields, family)
    return _noted(made, left, [*map(_idle, idle), *same, *told])


def _sees_more(form: Form, family: str, reading: Reading) -> str:
    """What to say of a class with several parts whose language model was read alone."""
    stem = form.name.partition("For")[0].removesuffix("Model")
    several = f"{stem}ForConditionalGeneration" in (form.name, *known_classes(family))
    if not several or isinstance(reading.model, Programmed):
        return ""
    return (
        f"the language model alone is counted, in time and memory: {form.name} also sees or hears"
    )


def _with_ahead(
    made: Program, reading: Reading, style: Style, config: Mapping[str, Any]
) -> tuple[Program, list[str]]:
    """The program with the file's module for multi-token prediction, which it does not count."""
    module = reading.ahead
    if module is not None:
        ahead = module.program(f"{made.name}'s next-token module", style, latent(made.graph))
        size = f"{int(own_parameters(ahead)):,} parameters"
        many = f"a module of {size}" if module.count == 1 else f"{module.count} modules of {size}"
        return replace(made, ahead=ahead), [
            f"multi-token prediction is not counted: {many} beside the model; "
            "speculative{draft=mtp} holds one"
        ]
    inner = config.get("text_config")
    for values in (config, inner if isinstance(inner, Mapping) else {}):
        for key in AHEAD:
            if values.get(key):
                return made, [
                    f"multi-token prediction is not counted: {key} = {clip(values[key])}, and "
                    "what its modules hold is not known here"
                ]
    return made, []


def _program(
    name: str, reading: Reading, style: Style, free: bool, symbolic: bool = False
) -> Program:
    """The program of a reading; ``free``: latent attention takes its form by phase."""
    model = reading.model
    style = replace(style, later_mla="absorbed") if free else style
    dims: dict[Symbol, Expr] = {}
    if symbolic:
        model, dims = model.symbolic()
    try:
        if isinstance(model, Programmed):
            made = replace(model.program(name, style), dims=tuple(dims.items()))
            made = made.assuming(*reading.assumptions)
            routed = any(ExpertLinear.kind in kinds(p.graph) for p in made.phases)
            return made.assuming(*style.routing.assumptions) if routed else made
        graph = model.graph(name, style)
    except VerifyError as error:
        raise ModelError(f"{name}: {error}") from None
    options: dict[str, Any] = {"dims": tuple(dims.items()), "limits": model.limits}
    found = kinds(graph)
    decodes = reading.phases == "autoregressive"
    if decodes and (reading.scans or (free and latent(graph))):
        options["decode_graph"] = model.graph(name, style.decoding)
    made = PHASES[reading.phases](name, graph, **options).assuming(*reading.assumptions)
    return made.assuming(*style.routing.assumptions) if ExpertLinear.kind in found else made


def _alike(name: str, reading: Reading, style: Style, symbolic: bool, plain: Program) -> bool:
    """Whether another style makes the same phases; who refuses it tells the two apart."""
    try:
        return _program(name, reading, style, True, symbolic).phases == plain.phases
    except InputError:
        return False


def _others(style: Style, mla: str) -> Iterator[tuple[str, tuple[Style, ...]]]:
    """Options that were asked for, each with styles that a model which heeds it tells apart."""
    still = tuple(x for x in style.pictures if not x.frames)
    if still:
        # A tower that scales all images alike tells a larger one from none only.
        larger = tuple(replace(x, height=2 * x.height, width=2 * x.width) for x in style.pictures)
        yield "image", (replace(style, pictures=larger), replace(style, pictures=()))
    if len(still) != len(style.pictures):
        yield "video", (replace(style, pictures=still),)
    if not style.images:
        yield "images", (replace(style, images=True),)
    if mla != "auto":
        yield "mla", (replace(style, mla="naive"),)
    if style.routing != BALANCED:
        yield "routing", (replace(style, routing=BALANCED),)
    if style.mask != "skip":
        yield "mask", (replace(style, mask="skip"),)
    if style.logits != "last":
        yield "logits", (replace(style, logits="last"),)
    if style.kv != style.acts:
        yield "kv", (replace(style, kv=style.acts),)


def _idle(option: str) -> str:
    return f"the option {option!r} has no effect on this model"


def _noted(program: Program, left: Sequence[str], idle: Sequence[str]) -> Program:
    """The program with notes on keys that nothing read, and those on options that do nothing."""
    notes = [f"keys of the configuration that play no part: {_list(left)}"] if left else []
    notes += idle
    return replace(program, notes=(*program.notes, *notes)) if notes else program


def kinds(graph: Graph) -> frozenset[str]:
    """Kinds of the operations in a graph and its regions."""
    return frozenset(n.op.kind for inner in graph.walk() for n in inner.nodes)


def routing_of(spec: str | Sequence[float | Fraction] | Routing) -> Routing:
    """The routing that an option asks for.

    Raises:
        InputError: it is none.
    """
    if isinstance(spec, Routing):
        return spec
    if isinstance(spec, str):
        if spec == "balanced":
            return Routing()
        if spec in ("all", "least"):
            return Routing(count=spec)
        name, _, power = spec.partition(":")
        if name == "zipf" and _NUMBER.match(power):
            return Routing(zipf=Rational(power))
        known = ("balanced", "all", "least", "zipf:1")
        raise InputError(f"unknown routing {clip(spec)}{nearest(spec, known)}")
    try:
        given = tuple(exact(value) for value in spec)
    except (TypeError, InputError):
        raise InputError(f"routing must be a name or a list of numbers, not {clip(spec)}") from None
    if not given or any(value < 0 for value in given):
        raise InputError("routing: the popularity of experts must not be negative")
    return Routing(popularity=given)


def family_of(fields: Fields) -> str:
    """The family that reads a configuration.

    Raises:
        ModelError: no family does; names the nearest.
    """
    kind = fields.values.get("model_type")
    if kind is None:
        # Diffusion models name their class under a key of its own.
        first = class_of(fields.values)
        if first is not None:
            if first in ARCHITECTURES:
                return ARCHITECTURES[first]
            raise ModelError(
                f"{fields.name}: unknown architecture {clip(first)}{nearest(first, ARCHITECTURES)}"
            )
        found = unnamed(fields.values)
        if found is not None:
            return found
        raise ModelError(f"{fields.name}: missing key 'model_type' (or 'architectures')")
    if isinstance(kind, str) and kind in FAMILIES:
        return kind
    raise ModelError(
        f"{fields.name}: unknown model_type {clip(kind)}{nearest(str(kind), FAMILIES)}"
        f"{_as_llama(fields)}; docs/families.md says how to add a family, "
        "costgraph models lists what there is"
    )


def _asked(fields: Fields, family: str) -> str:
    """The family that an unknown configuration shall be read as.

    Raises:
        ModelError: the family is none, the configuration is known, or its class is no decoder.
    """
    if family not in FAMILIES:
        raise InputError(f"read_as: unknown family {clip(family)}{nearest(family, FAMILIES)}")
    kind, first = fields.values.get("model_type"), class_of(fields.values)
    if (isinstance(kind, str) and kind in FAMILIES) or (kind is None and first in ARCHITECTURES):
        raise InputError(f"{fields.name}: {clip(kind or first)} is known, and read as what it is")
    if first is not None and not first.endswith(("ForCausalLM", "LMHeadModel")):
        raise ModelError(
            f"{fields.name}: 'architectures' names {clip(first)}, which is not read as another "
            "family: only classes of whole language models are (…ForCausalLM)"
        )
    return family


def _read_as(fields: Fields, family: str, left: Sequence[str]) -> str:
    """What to say of a configuration that was read as another family's.

    Raises:
        ModelError: it has keys that the family does not know.
    """
    if left:
        raise ModelError(
            f"{fields.name}: cannot be read as {family!r}, which does not understand {_list(left)}"
        )
    kind = fields.values.get("model_type") or class_of(fields.values)
    return (
        f"read as {family!r} on request: {clip(kind)} is not known here, and whether its layers "
        "are built so is not checked"
    )


def _as_llama(fields: Fields) -> str:
    """What a reading as a Llama would understand of an unknown configuration."""
    copy = Fields(fields.name, dict(fields.values))
    try:
        FAMILIES["llama"](copy)
        verdict = "a reading as 'llama' would understand"
    except ModelError:
        verdict = "even a reading as 'llama' fails; it understands"
    read = [k for k in copy.read if k not in ("model_type", "architectures")]
    left = not_understood(copy)
    left_out = f", and not {_list(left)}" if left else ""
    offer = " (read_as='llama', --read-as llama)" if not left and "would" in verdict else ""
    return f"; {verdict} {_list(read)}{left_out}{offer}"


def _list(keys: Sequence[str]) -> str:
    shown = ", ".join(clip(k) for k in keys[:MOST_SHOWN]) or "nothing"
    return shown + (f" and {len(keys) - MOST_SHOWN} more" if len(keys) > MOST_SHOWN else "")
