"""A small encoder and a small convolutional network in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EncoderLayer(nn.Module):
    """A post-norm layer with biases, one product for queries, keys and values."""

    def __init__(self, d: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.norm1 = nn.LayerNorm(d)
        self.up = nn.Linear(d, ffn)
        self.down = nn.Linear(ffn, d)
        self.norm2 = nn.LayerNorm(d)
        for norm in (self.norm1, self.norm2):
            nn.init.uniform_(norm.weight)
            nn.init.uniform_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, s, d = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        x = self.norm1(x + self.out(y.transpose(1, 2).reshape(b, s, d)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """Tokens ``(B, S)`` to the pooled class scores ``(B, 2)``."""

    def __init__(self, vocab: int = 96, d: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, d)
        self.layers = nn.ModuleList(EncoderLayer(d, 4, 4 * d) for _ in range(layers))
        self.head = nn.Linear(d, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(torch.tanh(x.mean(1)))


class ConvBlock(nn.Module):
    """Depthwise and pointwise convolutions with batch norms, and a residual sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1)
        for p in (self.norm.weight, self.norm.bias):
            nn.init.uniform_(p)
        nn.init.uniform_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(F.relu(self.norm(self.depthwise(x))))


class ConvNet(nn.Module):
    """Images ``(B, 3, 32, 32)`` to scores ``(B, 10)``."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, stride=2, padding=3)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = nn.ModuleList(ConvBlock(width) for _ in range(3))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
