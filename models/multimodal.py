"""Language models that see: a ``vision`` phase over the images, then prefill and decode.

The prompt's ``S`` tokens include ``G`` image tokens, whose rows the vision tower makes
and which take the places of embeddings in the prefill. With ``images=False`` a request
has none: the tower's weights only rest in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from sympy import Expr, Integer, Symbol

from costgraph.errors import InputError
from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program, Resident, autoregressive, single_pass
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Maker, Segment, Stack, Style
from costgraph.models.blocks.eyes import Eyes
from costgraph.models.blocks.mla import latent
from costgraph.models.blocks.pictures import Seen, Shown
from costgraph.models.blocks.stack import close, embed, run
from costgraph.ops.image import InsertRows
from costgraph.symbols import B, G, S, T, q

ONE = Integer(1)
#: What is said of what hears beside eyes.
RESTS = "the audio encoder rests in memory: a request with sound is not counted"


def with_images(m: Maker, x: str) -> str:
    """Adds the rows of a tower to embeddings ``x (B, q, d)``, whose places they take."""
    rows = m.source(Tensor("image_rows", (B, G, m.shape(x)[-1]), m.style.acts))
    return m.add("image_insert", InsertRows(), x, rows)


class Language(Protocol):
    """A language model that is no stack, and takes rows of a tower itself."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What contexts it has positions for."""

    def graph(self, name: str, style: Style, images: bool = False) -> Graph:
        """Its step graph; with images, that of a prompt that holds some."""


@dataclass(frozen=True)
class Seeing:
    """A decoder with eyes.

    Attributes:
        eyes: the vision tower.
        text: the language model.
        scans: it scans over matrix states, see :class:`.families.common.Reading`.
        both: positions of a prompt see one another in both directions.
        resting: further senses, whose weights rest in memory: a request has nothing for them.
        once: it answers nothing: one pass over a prompt.
    """

    eyes: Eyes
    text: Stack | Language
    scans: bool = False
    both: bool = False
    resting: tuple[Eyes, ...] = ()
    once: bool = False

    @property
    def limits(self) -> tuple[Limit, ...]:
        """A prompt holds its image tokens, and is no longer than a table of positions."""
        within = Limit(G, S, "the prompt's tokens include those of the images")
        return (*self.text.limits, within)

    def graph(self, name: str, style: Style) -> Graph:
        """The language model's step graph over ``B``, ``q`` and ``T``."""
        return self.text.graph(name, style)

    def symbolic(self) -> tuple[Seeing, dict[Symbol, Expr]]:
        """Refused: two models, no common names for dimensions."""
        raise InputError("multimodal models keep no symbolic dimensions")

    def vision_graph(self, name: str, style: Style) -> Graph:
        """The tower over ``B`` and ``G``."""
        return tower_graph(self.eyes, name, style)

    def _rest(self, name: str, style: Style) -> tuple[Resident, ...]:
        """The further senses in memory."""
        graphs = (tower_graph(eyes, f"{name} {eyes.sense}", style) for eyes in self.resting)
        return tuple(Resident(graph, part=True) for graph in graphs)

    def prompt_graph(self, name: str, style: Style) -> Graph:
        """The step graph of a prompt that holds images.

        Rows of the tower take the places of embeddings, and further ones are added
        behind the first layers where the tower makes some.
        """
        style = replace(style, mask="compute") if self.both else style
        if not isinstance(self.text, Stack):
            return self.text.graph(name, style, images=True)
        m = Maker(name, style)
        ends = self.text.ends
        shape = (B, G, ends.d)
        x, table = embed(m, ends)
        x = with_images(m, x)
        first, *rest = self.text.segments
        for index in range(1, self.eyes.deep + 1):
            x = run(m, (Segment(f"layer{index}", first.layer, ONE),), x)
            rows = m.source(Tensor(f"deep_rows{index}", shape, style.acts))
            x = m.add(f"deep_add{index}", InsertRows(added=True), x, rows)
        left = replace(first, count=first.count - self.eyes.deep)
        parts = (left, *rest) if left.count != 0 else tuple(rest)
        return m.build(close(m, ends, run(m, parts, x), table))

    def program(self, name: str, style: Style) -> Program:
        """The program of three phases, ``vision``, ``prefill`` and ``decode``, or the last two.

        Of what is read ``once``: of two, ``vision`` and ``forward``, or the last.
        """
        if style.pictures:
            looking, told = self.eyes.showing(name, style.pictures)
            whole = replace(self, eyes=looking).program(name, replace(style, pictures=()))
            return of_pictures(whole, told, style.pictures)
        seen = self.vision_graph(f"{name} {self.eyes.sense}", style)
        if not style.images:
            step = self.graph(name, style)
            plain = self._read(name, style, step)
            unread = self._unread(name, style, step)
            eyes = (Resident(seen, part=True), *self._rest(name, style), *unread)
            phases = tuple(replace(p, resident=eyes) for p in plain.phases)
            return replace(plain, phases=phases, limits=self.text.limits)
        made = self._read(name, style, self.prompt_graph(name, style))
        count, others = self.eyes.positions(style), self._rest(name, style)
        rest = (Resident(made.graph, part=True), *others)
        vision = Phase(
            self.eyes.sense,
            seen,
            ((q, count), (T, count)),
            tokens=Integer(0),
            resident=rest,
        )
        held = (Resident(seen), *others)
        phases = tuple(
            replace(p, resident=(*held, *self._unread(name, style, p.graph))) for p in made.phases
        )
        return Program(name, (vision, *phases), self.eyes.assumptions, self.limits)

    def _read(self, name: str, style: Style, prompt: Graph) -> Program:
        """The program of the language model alone, whose prompt runs the graph ``prompt``."""
        if self.once:
            return single_pass(name, prompt)
        step = self.graph(name, style) if style.images else prompt
        differs = self.scans or (bool(style.later_mla) and latent(step))
        later = self.graph(name, style.decoding) if differs else step
        return autoregressive(name, prompt, decode_graph=later)

    def _unread(self, name: str, style: Style, step: Graph) -> tuple[Resident, ...]:
        """What prompts with images alone read rests in memory in other steps."""
        if isinstance(self.text, Stack):
            return ()
        prompt = self.prompt_graph(name, style)
        read = {t.name for t, _ in step.weights()}
        if all(t.name in read for t, _ in prompt.weights()):
            return ()
        return (Resident(prompt, shared=tuple(sorted(read)), part=True),)


def tower_graph(eyes: Eyes, name: str, style: Style) -> Graph:
    """A tower over ``B`` and ``G``."""
    m = Maker(name, style)
    return m.build(*eyes.add(m))


@dataclass(frozen=True)
class Watching:
    """Eyes without a language model: one phase over the images, ``G`` rows of each sequence.

    Attributes:
        eyes: the tower, and what stands behind it in its class.
    """

    eyes: Eyes

    @property
    def limits(self) -> tuple[Limit, ...]:
        """None."""
        return ()

    def graph(self, name: str, style: Style) -> Graph:
        """The tower over ``B`` and ``G``."""
        return tower_graph(self.eyes, name, style)

    def symbolic(self) -> tuple[Watching, dict[Symbol, Expr]]:
        """Refused: its dimensions stay numbers."""
        raise InputError("towers keep no symbolic dimensions")

    def program(self, name: str, style: Style) -> Program:
        """The program of one phase."""
        if style.pictures:
            looking, told = self.eyes.showing(name, style.pictures)
            whole = replace(self, eyes=looking).program(name, replace(style, pictures=()))
            phases = tuple(p.with_binding(G, Integer(told.rows)) for p in whole.phases)
            return replace(whole, phases=phases).assuming(*said_of(told, style.pictures))
        count = self.eyes.positions(style)
        graph = self.graph(f"{name} {self.eyes.sense}", style)
        phase = Phase(self.eyes.sense, graph, ((q, count), (T, count)), tokens=Integer(0))
        return Program(name, (phase,), self.eyes.assumptions)


def said_of(seen: Seen, shown: tuple[Shown, ...]) -> list[str]:
    """What to say of what a request shows: tokens, scaled sizes, ends of lines, limits."""
    tokens = Integer(seen.rows)
    what = " and ".join(map(str, shown))
    verb = "makes" if len(shown) == 1 and shown[0].count == 1 else "make"
    told = [f"{what} {verb} G = {tokens} tokens"]
    if seen.scaled is not None:
        told[0] = (
            f"{what}, scaled to {seen.scaled[1]} x {seen.scaled[0]}, {verb} G = {tokens} tokens"
        )
    if seen.marks:
        told.append(
            f"{seen.marks} further tokens of the prompt stand at the ends of lines of images"
        )
    return [*told, seen.said] if seen.said else told


def of_pictures(program: Program, seen: Seen, shown: tuple[Shown, ...]) -> Program:
    """The program with ``G`` bound to the tokens of what a request shows."""
    tokens, limits = Integer(seen.rows), program.limits
    if seen.marks:
        why = "the prompt's tokens include those of the images and the ends of their lines"
        limits = (*limits, Limit(tokens + seen.marks, S, why))
    phases = tuple(p.with_binding(G, tokens) for p in program.phases)
    return replace(program, phases=phases, limits=limits).assuming(*said_of(seen, shown))
