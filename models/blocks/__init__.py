"""Blocks: the parts that models are composed of, each adding its nodes to a graph."""

from costgraph.models.blocks.attention import Attention
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.layer import Block, Layer
from costgraph.models.blocks.stack import Ends, Segment, Stack
from costgraph.models.blocks.style import Maker, Norm, Style

__all__ = [
    "Attention",
    "Block",
    "Ends",
    "FeedForward",
    "Layer",
    "Maker",
    "Norm",
    "Segment",
    "Stack",
    "Style",
]
