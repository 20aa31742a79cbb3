"""ColPali (Faysse et al., arXiv 2407.01449): a vector for each token of a page or question."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Integer

from costgraph.ir.program import Phase, Program, Resident, single_pass
from costgraph.models.blocks import Style
from costgraph.models.multimodal import Seeing, of_pictures
from costgraph.symbols import T, q


@dataclass(frozen=True)
class Retrieving(Seeing):
    """A language model that sees and answers nothing: one pass over a prompt.

    The last hidden states become vectors of unit length by the output of ``text``.
    """

    def program(self, name: str, style: Style) -> Program:
        """The program of two phases, ``vision`` and ``forward``, or of the last."""
        if style.pictures:
            looking, told = self.eyes.showing(name, style.pictures)
            whole = replace(self, eyes=looking).program(name, replace(style, pictures=()))
            return of_pictures(whole, told, style.pictures)
        seen = self.vision_graph(f"{name} {self.eyes.sense}", style)
        if not style.images:
            plain = single_pass(name, self.graph(name, style), limits=self.text.limits)
            eyes = (Resident(seen, part=True),)
            return replace(plain, phases=tuple(replace(p, resident=eyes) for p in plain.phases))
        made = single_pass(name, self.prompt_graph(name, style))
        count = self.eyes.positions(style)
        vision = Phase(
            self.eyes.sense,
            seen,
            ((q, count), (T, count)),
            tokens=Integer(0),
            resident=(Resident(made.graph, part=True),),
        )
        phases = tuple(replace(p, resident=(Resident(seen),)) for p in made.phases)
        return Program(name, (vision, *phases), self.eyes.assumptions, self.limits)
