"""A small decoder in PyTorch, written the way published implementations are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes of the decoder."""

    vocab: int = 96
    d: int = 64
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 160

    @property
    def head_dim(self) -> int:
        return self.d // self.heads

    def hub(self) -> dict[str, object]:
        """The same decoder as a ``config.json``."""
        return {
            "model_type": "llama",
            "hidden_size": self.d,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-6,
        }


class RMSNorm(nn.Module):
    """Written out, with the detour over FP32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with rotary embedding."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.d, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.d, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.d, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, s, _ = x.shape
        c = self.c
        q = self.q_proj(x).view(b, s, c.heads, c.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, s, c.kv_heads, c.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, s, c.kv_heads, c.head_dim).transpose(1, 2)
        q = q * cos + rotate_half(q) * sin
        k = k * cos + rotate_half(k) * sin
        groups = c.heads // c.kv_heads
        k = k[:, :, None].expand(b, c.kv_heads, groups, s, c.head_dim)
        k = k.reshape(b, c.heads, s, c.head_dim)
        v = v[:, :, None].expand(b, c.kv_heads, groups, s, c.head_dim)
        v = v.reshape(b, c.heads, s, c.head_dim)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).contiguous().view(b, s, -1))


class MLP(nn.Module):
    """The gated feed-forward block."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.d, c.ffn, bias=False)
        self.up_proj = nn.Linear(c.d, c.ffn, bias=False)
        self.down_proj = nn.Linear(c.ffn, c.d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.d)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.d)
        self.mlp = MLP(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """The decoder: tokens ``(B, S)`` to logits ``(B, S, vocab)``."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab, c.d)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.d)
        self.lm_head = nn.Linear(c.d, c.vocab, bias=False)
        steps = torch.arange(0, c.head_dim, 2).float() / c.head_dim
        self.register_buffer("inv_freq", 10000.0**-steps, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        angles = positions[:, None].float() * self.inv_freq[None, :]
        table = torch.cat((angles, angles), dim=-1)
        cos, sin = table.cos()[None, None], table.sin()[None, None]
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))


def exported(c: Config | None = None):
    """The decoder as ``torch.export`` sees it, batch and sequence dynamic."""
    model = Llama(c or Config()).eval()
    ids = torch.zeros((2, 8), dtype=torch.int64)
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")},)
    return torch.export.export(model, (ids,), dynamic_shapes=shapes)
