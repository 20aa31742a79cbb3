"""Structured formulas: sums of ``count × Max(arms)``, kept as such."""

from costgraph.formula.formula import Formula
from costgraph.formula.terms import Arm, Span, Term

__all__ = ["Arm", "Formula", "Span", "Term"]
