"""The small decoder with a cache: handed in and out, or kept in buffers of fixed size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.importers.tiny_llama import Config, Llama, rotate_half


def attended(layer: Any, x: Tensor, cos: Tensor, sin: Tensor, store: Any) -> Tensor:
    """A layer whose keys and values go through ``store``, which returns all and their mask."""
    attention, c = layer.self_attn, layer.self_attn.c
    y = layer.input_layernorm(x)
    b, n, _ = y.shape
    q, k, v = (
        p(y).view(b, n, -1, c.head_dim).transpose(1, 2)
        for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
    k, v, mask = store(k, v)
    groups, t = c.heads // c.kv_heads, k.shape[2]
    k, v = (
        z[:, :, None].expand(b, c.kv_heads, groups, t, c.head_dim).reshape(b, c.heads, t, -1)
        for z in (k, v)
    )
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    x = x + attention.o_proj(z.transpose(1, 2).reshape(b, n, -1))
    return x + layer.mlp(layer.post_attention_layernorm(x))


class Cached(Llama):
    """``ids (B, q)`` and, of each layer, keys and values ``(B, Hk, P, dh)`` of the past."""

    def forward(self, ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        before, new = past[0].shape[2], ids.shape[1]
        positions = torch.arange(before, before + new)
        angles = positions[:, None].float() * self.inv_freq[None, :]
        table = torch.cat((angles, angles), dim=-1)
        cos, sin = table.cos()[None, None], table.sin()[None, None]
        mask = torch.arange(before + new)[None, :] <= positions[:, None]
        x, present = self.embed_tokens(ids), []
        for i, layer in enumerate(self.layers):

            def store(k: Tensor, v: Tensor, at: int = 2 * i) -> tuple[Tensor, Tensor, Tensor]:
                present.extend((torch.cat((past[at], k), 2), torch.cat((past[at + 1], v), 2)))
                return present[-2], present[-1], mask

            x = attended(layer, x, cos, sin, store)
        return (self.lm_head(self.norm(x)), *present)


class Static(Llama):
    """``ids (1, q)`` at ``positions (q)``; the cache is a buffer of ``most`` positions."""

    def __init__(self, c: Config, most: int = 32, how: str = "index_copy") -> None:
        super().__init__(c)
        self.most, self.how = most, how
        for i in range(c.layers):
            for name in "kv":
                cache = torch.zeros((1, c.kv_heads, most, c.head_dim))
                self.register_buffer(f"{name}_cache_{i}", cache)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, None].float() * self.inv_freq[None, :]
        table = torch.cat((angles, angles), dim=-1)
        cos, sin = table.cos()[None, None], table.sin()[None, None]
        mask = torch.arange(self.most)[None, :] <= positions[:, None]
        x = self.embed_tokens(ids)
        for i, layer in enumerate(self.layers):

            def store(k: Tensor, v: Tensor, i: int = i) -> tuple[Tensor, Tensor, Tensor]:
                caches = [self.get_buffer(f"{name}_cache_{i}") for name in "kv"]
                for cache, rows in zip(caches, (k, v), strict=True):
                    if self.how == "index_copy":
                        cache.index_copy_(2, positions, rows)
                    else:
                        cache[:, :, positions] = rows
                return caches[0], caches[1], mask

            x = attended(layer, x, cos, sin, store)
        return self.lm_head(self.norm(x))


def cached(c: Config | None = None) -> Cached:
    """The decoder whose cache is handed in and out."""
    torch.manual_seed(0)
    return Cached(c or Config()).eval()


def example(c: Config, batch: int, new: int, before: int) -> tuple[Tensor, list[Tensor]]:
    """Token ids and a past."""
    past = [torch.zeros((batch, c.kv_heads, before, c.head_dim)) for _ in range(2 * c.layers)]
    return torch.zeros((batch, new), dtype=torch.int64), past


def exported(model: nn.Module, new: int = 4) -> torch.export.ExportedProgram:
    """Batch and past dynamic; the new positions, too, if there are several."""
    c = model.layers[0].self_attn.c
    batch, before, seq = (torch.export.Dim(n) for n in ("batch", "past", "seq"))
    shapes = (
        {0: batch} if new == 1 else {0: batch, 1: seq},
        [{0: batch, 2: before}] * 2 * c.layers,
    )
    given = example(c, 2, new, 8)
    # One position gives guards on strides, which say nothing.
    deferred = {"prefer_deferred_runtime_asserts_over_guards": True}
    return torch.export.export(model, given, dynamic_shapes=shapes, **deferred)


def static(c: Config | None = None, new: int = 1, how: str = "index_copy"):
    """The decoder whose cache stays with it, exported for ``new`` positions (or any number)."""
    torch.manual_seed(0)
    model = Static(c or Config(), how=how).eval()
    seq = torch.export.Dim("seq", max=32)
    given = (torch.zeros((1, new), dtype=torch.int64), torch.arange(new))
    shapes = None if new == 1 else ({1: seq}, {0: seq})
    return model, given, torch.export.export(model, given, dynamic_shapes=shapes)
