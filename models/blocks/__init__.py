"""Blocks: the parts that models are composed of, each adding its nodes to a graph."""

from costgraph.models.blocks.attention import Attention
from costgraph.models.blocks.experts import Experts
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.layer import Block, Layer
from costgraph.models.blocks.mla import LatentAttention
from costgraph.models.blocks.pattern import arranged
from costgraph.models.blocks.stack import Ends, Period, Segment, Stack
from costgraph.models.blocks.style import Maker, Norm, Style

__all__ = [
    "Attention",
    "Block",
    "Ends",
    "Experts",
    "FeedForward",
    "LatentAttention",
    "Layer",
    "Maker",
    "Norm",
    "Period",
    "Segment",
    "Stack",
    "Style",
    "arranged",
]
