"""The class that a configuration names, and what of the model that class holds.

``architectures`` says which class wrote a checkpoint. The same ``model_type`` stands in files
of whole language models, of models without an output layer, of classifiers, of reward models
and of draft heads; read as one another their counts would be wrong. A class that is not known
under the ``model_type`` is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Stack
from costgraph.models.blocks.stack import BARE, Output, Uneven
from costgraph.models.decoder import Decoder
from costgraph.models.encoder import Encoder, EncoderDecoder, TextFront
from costgraph.models.encoder_heads import LabelHead
from costgraph.models.families import classes_of
from costgraph.models.families.common import Reading, class_of, labels_of
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Seeing

#: Ends of names of classes that are whole language models.
_WHOLE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ModelLM", "MTModel")
#: Reward models whose scores are not those of ``ForSequenceClassification``, as their publishers'
#: code builds them.
_SCORES: Mapping[str, Output] = MappingProxyType(
    {
        "InternLM2ForRewardModel": Output("score", Integer(1)),
        "Qwen2ForRewardModel": Output("score", Integer(1), bias=True, inner="relu"),
        "Qwen2ForProcessRewardModel": Output(
            "score", Integer(2), bias=True, every=True, inner="relu"
        ),
    }
)
_CLASSIFIER, _TAGGER, _SPANS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
#: Families whose files name the class of another one.
_BORROWED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "llava": frozenset({"LlavaLlamaForCausalLM"}),
        "exaone": frozenset({"LlamaForCausalLM"}),
        "internlm3": frozenset({"LlamaForCausalLM"}),
        "iquestcoder": frozenset({"LlamaForCausalLM"}),
        "kimi_k2": frozenset({"DeepseekV3ForCausalLM"}),
        "sarvam_mla": frozenset({"DeepseekV3ForCausalLM"}),
        "sarvam_moe": frozenset({"Glm4MoeForCausalLM"}),
        "qwen3_5": frozenset({"Qwen3_5ForCausalLM"}),
        "qwen3_5_moe": frozenset({"Qwen3_5MoeForCausalLM"}),
        "qwen3_5_moe_text": frozenset({"Qwen3_5MoeForConditionalGeneration"}),
        "qwen3_5_text": frozenset({"Qwen3_5ForConditionalGeneration"}),
        "gemma3_text": frozenset({"Gemma3ForConditionalGeneration"}),
        "shieldgemma2": frozenset({"Gemma3ForConditionalGeneration"}),
        "pp_chart2table": frozenset({"GotOcr2ForConditionalGeneration"}),
        "llama4_text": frozenset({"Llama4ForConditionalGeneration"}),
        "llama4": frozenset({"Llama4ForCausalLM"}),
        "RefinedWeb": frozenset({"RWForCausalLM"}),
    }
)
#: Bare classes that hold another model than those with logits do.
_OTHERS: Mapping[str, frozenset[str]] = MappingProxyType({"blip": frozenset({"BlipModel"})})
#: A layer so wide that no published model has a single one: draft heads of the first EAGLE
#: name the class and the type of the model that they draft for.
WIDE = 2048

NO_OUTPUT = (
    "{name} has no output layer: one pass over the prompt, whose result are hidden states; "
    "what pools them is not counted"
)
NO_LOGITS = "the class has no output layer: steps of its decoder end in hidden states"
BOTH_WAYS = "attention in both directions: one pass over the prompt, which keeps no caches"
SCORED = "{name} scores {where} ({labels}) in one pass over the prompt"


@cache
def known_classes(family: str) -> tuple[str, ...]:
    """Names of the classes that a family reads whole."""
    return (*classes_of(family), *_BORROWED.get(family, ()))


@dataclass(frozen=True)
class Form:
    """What a class holds: ``whole``, ``bare`` (no output layer) or ``score``."""

    kind: str
    name: str = ""


def form_of(fields: Fields, family: str) -> Form:
    """What the class that a configuration names holds of its family's model.

    Raises:
        ModelError: the class is not known under this ``model_type``, or the file is a draft
            head of the first EAGLE.
    """
    name = class_of(fields.values)
    if name is None:
        return Form("whole")
    known = known_classes(family)
    if name in known or not known:
        _refuse_single(fields, name)
        alone = not known and name.endswith("Model") and not name.endswith(_WHOLE)
        return Form("bare" if alone else "whole", name)
    stems = {k.removesuffix(end) for k in known for end in _WHOLE if k.endswith(end)}
    if family.endswith("_text"):
        # The language model's part of a whole has a bare class of its own.
        stems |= {f"{stem}Text" for stem in stems}
    bare = {f"{stem}Model" for stem in stems} - _OTHERS.get(family, frozenset())
    if name in bare:
        return Form("bare", name)
    if name in {f"{stem}{end}" for stem in stems for end in (_CLASSIFIER, _TAGGER, _SPANS)}:
        return Form("score", name)
    if name in _SCORES and name.partition("For")[0] in stems:
        return Form("score", name)
    raise ModelError(
        f"{fields.name}: 'architectures' names {clip(name)}, which is not read under model_type "
        f"{clip(family)}; known there: {', '.join(known)}"
        + (f", their bare Model, {_CLASSIFIER}, {_TAGGER} and {_SPANS}" if stems else "")
    )


def _refuse_single(fields: Fields, name: str) -> None:
    """Refuses a wide model of a single layer: a draft head under the name of its target."""
    sizes = (fields.peek(key) for key in ("num_hidden_layers", "hidden_size"))
    layers, width = (v if type(v) is int else 0 for v in sizes)
    if layers == 1 and width >= WIDE and name.endswith("ForCausalLM"):
        raise ModelError(
            f"{fields.name}: one layer of hidden size {width} that calls itself {name}: a draft "
            "head (EAGLE) for a target, speculative{draft=eagle:PATH}; without 'architectures' "
            "it is counted as a whole model"
        )


def _both_ways(fields: Fields, reading: Reading) -> Reading:
    """A decoder whose positions see later ones as well: one pass over the prompt.

    Families say so by ``causal``; of the others ``is_causal``: false says it, which classes of
    transformers 5 read, where no layer has a window.
    """
    model: Any = reading.model
    if reading.phases != "autoregressive" or not isinstance(model, Decoder):
        return reading
    if model.causal and model.window is None and not fields.flag("is_causal", True):
        model = replace(model, causal=False)
    if model.causal:
        return reading
    return replace(
        reading,
        model=model,
        phases="forward",
        assumptions=(*reading.assumptions, BOTH_WAYS),
        ahead=None,
    )


def _scores(fields: Fields, name: str) -> Output:
    """What a class with scores in place of logits makes of the last hidden states."""
    if name in _SCORES:
        return _SCORES[name]
    if name.endswith(_SPANS):  # where an answer starts, and where it ends
        return Output("score", Integer(2), bias=True, every=True)
    every = name.endswith(_TAGGER)
    return Output("score", Integer(labels_of(fields)), bias=every, every=every)


def _reads_text(model: Any) -> bool:
    """Whether it is a pair whose encoder and decoder read the same kind of text."""
    if not isinstance(model, EncoderDecoder) or not isinstance(model.encoder, Encoder):
        return False
    return isinstance(model.encoder.front, TextFront)


#: Pairs whose classes score behind a product and a tanh, and find answers without either.
_BARTS = (
    "Bart", "MBart", "PLBart", "Mvp", "LED", "BigBirdPegasus", "T5", "MT5", "UMT5",
)  # fmt: skip


def _paired(
    fields: Fields, reading: Reading, model: Any, form: Form, output: Output, said: str
) -> Reading:
    """An encoder and a decoder that read one text, without logits; T5's taggers have no decoder.

    Their scores stand behind a product and a tanh, those of every position do not.
    """
    stem, tags = form.name.partition("For")[0], form.name.endswith(_TAGGER)
    plain = stem == "T5Gemma"  # labels of its decoder's positions, by one product with bias
    known = stem in _BARTS and (not tags or stem.endswith("T5"))
    if form.kind == "score" and not (known or (plain and not form.name.endswith(_SPANS))):
        raise _unread(fields, form)
    if plain:
        output = replace(output, bias=True) if output.kind == "score" else output
        made = replace(model, ends=replace(model.ends, output=output), again=True)
    elif tags:
        made = replace(model.encoder, head=LabelHead(model.ends.d, output.labels))
    else:
        if output.kind == "score" and not output.every:
            output = replace(output, bias=True, inner="tanh")
        made = replace(model, ends=replace(model.ends, output=output), again=True)
    return replace(reading, model=made, assumptions=(*reading.assumptions, said))


def _unread(fields: Fields, form: Form) -> ModelError:
    return ModelError(
        f"{fields.name}: 'architectures' names {clip(form.name)}, a form that is not read in this "
        "family"
    )


def formed(fields: Fields, reading: Reading, form: Form) -> Reading:
    """The reading with the output that the class has in place of logits.

    Raises:
        ModelError: the family's model has no such form.
    """
    reading = _both_ways(fields, reading)
    if form.kind == "whole":
        return reading
    output, said = BARE, NO_OUTPUT.format(name=form.name)
    if form.kind == "score":
        output = _scores(fields, form.name)
        labels = f"{output.labels} label{'s' if output.labels > 1 else ''}"
        where = "every position" if output.every else "the last position"
        said = SCORED.format(name=form.name, where=where, labels=labels)
    model: Any = reading.model
    if _reads_text(model):
        return _paired(fields, reading, model, form, output, said)
    if form.kind == "bare" and isinstance(model, EncoderDecoder):
        made = replace(model, ends=replace(model.ends, output=output))
        return replace(reading, model=made, assumptions=(*reading.assumptions, NO_LOGITS))
    if isinstance(model, Seeing) and reading.phases == "autoregressive" and not model.once:
        text: Any = model.text
        if not isinstance(text, (Stack, Uneven)):
            raise _unread(fields, form)
        text = replace(text, ends=replace(text.ends, output=output))
        reads = replace(model, text=text, once=True)
        return replace(reading, model=reads, assumptions=(*reading.assumptions, said), ahead=None)
    both = isinstance(model, Decoder) and not model.causal
    if (reading.phases != "autoregressive" and not both) or not isinstance(
        model, (Decoder, Stack, Uneven)
    ):
        raise _unread(fields, form)
    if isinstance(model, Decoder):
        model = replace(model, output=output)
    else:
        model = replace(model, ends=replace(model.ends, output=output))
    return replace(
        reading, model=model, phases="forward", assumptions=(*reading.assumptions, said), ahead=None
    )
