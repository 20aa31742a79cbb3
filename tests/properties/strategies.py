"""Random small decoders, as an oracle's shape and as the package's description."""

from __future__ import annotations

from hypothesis import strategies as st
from sympy import Integer

from costgraph.models.decoder import Decoder

from .oracle import Shape


@st.composite
def shapes(draw) -> Shape:
    groups, kv_heads = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    head_dim = 2 * draw(st.integers(1, 8))
    rotary = draw(st.sampled_from([0, 2, head_dim]))
    return Shape(
        layers=draw(st.integers(1, 5)),
        d=draw(st.integers(1, 40)),
        heads=groups * kv_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=draw(st.integers(1, 60)),
        vocab=draw(st.integers(2, 100)),
        activation=draw(st.sampled_from(["silu", "relu", "gelu", "gelu_tanh"])),
        gated=draw(st.booleans()),
        norm=draw(st.sampled_from(["rms", "layer"])),
        bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        rotary=rotary,
        positions=0 if rotary else draw(st.integers(8, 64)),
        tied=draw(st.booleans()),
        parallel=draw(st.booleans()),
        window=draw(st.sampled_from([0, 0, 1, 3, 7, 100])),
        alibi=draw(st.booleans()),
    )


def decoder(m: Shape, **changes: object) -> Decoder:
    """The package's description of the same model."""
    values: dict[str, object] = {
        "layers": Integer(m.layers),
        "d": Integer(m.d),
        "heads": Integer(m.heads),
        "kv_heads": Integer(m.kv_heads),
        "head_dim": Integer(m.head_dim),
        "ffn": Integer(m.ffn),
        "vocab": Integer(m.vocab),
        "activation": m.activation,
        "gated": m.gated,
        "norm": m.norm,
        "norm_bias": m.norm == "layer",
        "qkv_bias": m.bias,
        "out_bias": m.bias,
        "mlp_bias": m.bias,
        "qk_norm": m.qk_norm,
        "rotary": Integer(m.rotary) if m.rotary else None,
        "positions": Integer(m.positions) if m.positions else None,
        "tied": m.tied,
        "parallel": m.parallel,
        "shared_norm": m.parallel,
        "window": Integer(m.window) if m.window else None,
        "alibi": m.alibi,
    }
    return Decoder(**{**values, **changes})  # type: ignore[arg-type]


sizes = st.integers(1, 6)
