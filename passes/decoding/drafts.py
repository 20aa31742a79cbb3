"""Sources of drafts: models of their own, parts of the target, heads, copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from costgraph.errors import InputError, PipelineError
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Repeat
from costgraph.models import load_model
from costgraph.models.heads import EAGLE, EAGLE3
from costgraph.passes.decoding import attached
from costgraph.passes.decoding.drafting import Asked, Drafting, Source
from costgraph.passes.decoding.sharing import sharing
from costgraph.passes.decoding.sublayers import (
    ATTENTION,
    MLP,
    first_layers,
    parse_skipped,
    without_blocks,
)
from costgraph.passes.decoding.target import stepping, vocabulary

#: Rows by which two vocabularies of one tokenizer may differ: embedding tables are padded
#: to multiples of up to 128 rows. llama.cpp draws the line there, too.
PADDING = 128


def loaded(name: str, target: Program) -> Program:
    """The model that drafts for ``target``: a shipped name or a path.

    Raises:
        PipelineError: it cannot be read, or cannot draft for this target.
    """
    try:
        draft = load_model(name)
        step = stepping(draft)
    except InputError as error:
        raise PipelineError(f"draft: {error}") from None
    mine = stepping(target)
    if step.span != mine.span:
        kinds = [
            "decodes behind an encoder" if _has_encoder(p) else "reads its prompt itself"
            for p in (draft, target)
        ]
        raise PipelineError(
            f"draft: {draft.name} {kinds[0]}, {target.name} {kinds[1]}: their steps do not match"
        )
    extra = {p.name for p in draft.phases} - {p.name for p in target.phases}
    if extra:
        raise PipelineError(
            f"draft: {draft.name} has a phase ({', '.join(sorted(extra))}) that "
            f"{target.name} has no input for"
        )
    return draft.assuming(*_same_tokens(draft, target), *_of_one_layer(draft, step))


def _has_encoder(program: Program) -> bool:
    return any(p.name == "encode" for p in program.phases)


def _of_one_layer(draft: Program, step: Phase) -> tuple[str, ...]:
    """What is said of a file that may be of a head and does not say so."""
    layers = [n.op.count for n in step.graph.nodes if isinstance(n.op, Repeat)]
    if layers != [1]:
        return ()
    return (
        f"{draft.name} is read as a model of one layer that is its own; the file of an EAGLE head "
        "is draft=eagle:PATH",
    )


def _same_tokens(draft: Program, target: Program) -> tuple[str, ...]:
    sizes = [vocabulary(p) for p in (draft, target)]
    known = [n for n in sizes if n is not None and n.is_Integer]
    said = "draft and target are taken to share one tokenizer"
    if len(known) < 2 or known[0] == known[1]:
        return (said,)
    few, many = sorted(map(int, known))
    if many - few > PADDING:
        raise PipelineError(
            f"draft: vocabularies of {int(known[0]):,} ({draft.name}) and {int(known[1]):,} "
            f"({target.name}) tokens cannot verify one another"
        )
    return (f"{said}: vocabularies of {few:,} and {many:,} rows differ by padding alone",)


def _skipping(asked: Asked) -> Drafting:
    """The target with its first layers only."""
    return Drafting(first_layers(asked.target, stepping(asked.target), asked.layers), part=True)


def _without_blocks(asked: Asked) -> Drafting:
    """The target without some blocks of its layers (Draft & Verify)."""
    if asked.layers != 0:
        raise PipelineError("layers and skip-attention, skip-mlp exclude one another")
    attention, mlp = (
        parse_skipped(what, text) for what, text in zip((ATTENTION, MLP), asked.blocks, strict=True)
    )
    made = without_blocks(asked.model, stepping(asked.model), attention, mlp)
    return Drafting(made, part=True)


def _with_model(asked: Asked) -> Drafting:
    """A model of its own, or the head that a file turns out to be of."""
    kind = attached.head_in(asked.name)
    if kind is not None:
        if asked.share:
            raise PipelineError("share: a head shares the target's vocabulary anyway")
        return attached.eagle(replace(asked, name=f"{kind}:{asked.name}"))
    draft = loaded(asked.name, asked.model)
    return Drafting(sharing(draft, asked.model, asked.share) if asked.share else draft)


def _with_nothing(asked: Asked) -> Drafting:
    """No step writes drafts: they are copies of what stands in the prompt, a store, a pool."""
    return Drafting(None)


#: Words of the option ``draft`` and what drafts under them.
SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "skip": Source(_skipping, inherits=False, takes_layers=True),
        "heads": Source(attached.heads),
        "blockwise": Source(attached.blockwise),
        "mtp": Source(attached.next_token),
        "eagle": Source(attached.eagle),
        "eagle3": Source(attached.eagle),
        "pass": Source(attached.looking_ahead, inherits=False),
        "phrases": Source(attached.phrases, inherits=False),
        "copy": Source(_with_nothing, inherits=False),
        "lookahead": Source(_with_nothing, inherits=False),
        "jacobi": Source(_with_nothing, inherits=False),
    }
)
#: A draft of the target's layers without some of their blocks: passes run on what is left,
#: as they ran on the target.
BLOCKS = Source(_without_blocks, takes_layers=True)
#: Any other word: a model of its own.
MODEL = Source(_with_model)


def source_of(word: str, blocks: tuple[str, str] = ("", "")) -> Source:
    """What drafts under a word: one of :data:`SOURCES`, a head that a file is of, else a model.

    ``blocks`` are those that a 'skip' draft leaves out.
    """
    if word == "skip" and any(blocks):
        return BLOCKS
    kind, found, _ = word.partition(":")
    if found and kind in (EAGLE, EAGLE3):
        return SOURCES[kind]
    return SOURCES.get(word, MODEL)
