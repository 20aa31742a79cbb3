"""MobileVLM's projectors against PyTorch's counter on the published modules; LLaVA's own files."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import exact_cost, parameters, rows
from costgraph.errors import ModelError
from costgraph.ir.tensor import Role
from costgraph.models.blocks.downsampling import squeezed
from costgraph.models.catalog import CONFIGS
from costgraph.symbols import B, G

torch = pytest.importorskip("torch")
nn = torch.nn
V1, V2 = "mobilevlm-1.7b", "mobilevlm-v2-1.7b"


def config(model: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads((CONFIGS / f"{model}.json").read_text()), **changes}


class ChannelNorm(nn.Module):
    """A layer norm over the channels of an image."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Excitation(nn.Module):
    """Channels scaled by what two matrices make of their means."""

    def __init__(self, d: int) -> None:
        super().__init__()
        few = max(8, (d // 4 + 4) // 8 * 8)
        few += 8 * (few < 0.9 * (d // 4))
        self.few, self.many = nn.Conv2d(d, few, 1), nn.Conv2d(few, d, 1)

    def forward(self, x):
        y = torch.relu(self.few(x.mean((2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.many(y))


class Inverted(nn.Module):
    """A block of MobileNetV3 that is no wider inside, with layer norms."""

    def __init__(self, d: int, stride: int) -> None:
        super().__init__()
        self.added = stride == 1
        self.block = nn.Sequential(
            nn.Conv2d(d, d, 3, stride, 1, groups=d, bias=False), ChannelNorm(d), nn.Hardswish(),
            Excitation(d), nn.Conv2d(d, d, 1, bias=False), ChannelNorm(d),
        )  # fmt: skip

    def forward(self, x):
        return x + self.block(x) if self.added else self.block(x)


class Projector(nn.Module):
    """Two products, then fewer positions: LDP by two blocks, LDPv2 by means and a convolution."""

    def __init__(self, width: int, d: int, second: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, d), nn.GELU(), nn.Linear(d, d))
        self.second = second
        if second:
            self.down, self.places = (
                nn.AdaptiveAvgPool2d((12, 12)),
                nn.Conv2d(d, d, 3, 1, 1, groups=d),
            )
        else:
            self.down = nn.Sequential(Inverted(d, 1), Inverted(d, 2))

    def forward(self, x):
        y = self.mlp(x)
        side = int(y.shape[1] ** 0.5)
        y = self.down(y.transpose(1, 2).reshape(y.shape[0], -1, side, side))
        y = y + self.places(y) if self.second else y
        return y.flatten(2).transpose(1, 2)


@cache
def vision(model: str, **changes: Any):
    return cg.load_model(config(model, **changes)).phase("vision").graph


def projector_rows(graph):
    return [r for r in rows(graph) if r.node.name.startswith("projector_")]


def smaller(side: int, d: int) -> dict[str, Any]:
    """A model of ``side`` by ``side`` patches with two small layers."""
    tower = {"hidden_size": 32, "image_size": 14 * side, "intermediate_size": 64,
             "num_attention_heads": 2, "num_hidden_layers": 2, "patch_size": 14}  # fmt: skip
    return {
        "hidden_size": d, "intermediate_size": 96, "num_hidden_layers": 2, "mm_hidden_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vision_config": tower,
    }  # fmt: skip


@pytest.mark.parametrize("model", [V1, V2])
@pytest.mark.parametrize(("side", "d", "count"), [(24, 64, 2), (12, 96, 1), (36, 40, 1)])
def test_products_and_convolutions_are_those_that_pytorch_counts(model, side, d, count):
    from torch.utils.flop_counter import FlopCounterMode

    module = Projector(32, d, model == V2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made = module(torch.zeros(count, side**2, 32))
    graph = cg.load_model(config(model, **smaller(side, d))).phase("vision").graph
    at = {B: Integer(count), G: Integer(made.shape[1])}
    tokens = made.shape[1]
    assert tokens == (144 if model == V2 else (side // 2) ** 2)
    products = [r for r in projector_rows(graph) if r.kind in ("linear", "conv")]
    bias = sum(
        r.node.outputs[0].numel for r in products if len(r.graph.operands(r.node)) == 3
    )  # which the counter leaves out
    found = sum(r.cost.total_flops for r in products) - bias
    assert found.xreplace(at) == counter.get_total_flops()
    weights = [t for r in projector_rows(graph) for t in r.graph.operands(r.node)]
    kept = {t.name: t.numel for t in weights if t.role is Role.WEIGHT}
    assert sum(kept.values()) == sum(p.numel() for p in module.parameters())
    (rows_,) = (r.node.outputs[0] for r in rows(graph) if r.node.name == "image_rows")
    assert [int(n.xreplace(at)) for n in rows_.shape] == [count, tokens, d]


@pytest.mark.parametrize(
    ("model", "size", "rest"), [(V1, 18936832, 12641280), (V2, 6316032, 20480)]
)
def test_the_published_sizes(model, size, rest):
    """Of the second version, what makes fewer tokens has a 617th of the first one's weights."""
    module = Projector(1024, 2048, model == V2)
    assert sum(p.numel() for p in module.parameters()) == size
    assert size - rest == sum(p.numel() for p in module.mlp.parameters())
    kept = {t.name: t.numel * n for t, n in vision(model).weights()}
    assert sum(v for k, v in kept.items() if k.startswith("projector_")) == size


@pytest.mark.parametrize("model", [V1, V2])
@pytest.mark.parametrize("image", ["336x336", "1000x300"])
def test_an_image_of_any_size_is_144_tokens(model, image):
    sized, named = cg.compile(model, "h100", image=image).ttft, cg.compile(model, "h100").ttft
    wanted = named.evaluate(B=2, S=200, G=144)
    assert sized.evaluate(B=2, S=200) == pytest.approx(wanted, rel=1e-12)


def test_channels_between_are_whole_eights():
    assert [squeezed(c) for c in (2048, 2560, 4096, 40, 16)] == [512, 640, 1024, 16, 8]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mm_projector_type": "ldpnetv3"}, "did you mean 'ldpnetv2'"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14"}, "put the keys of its config.json"),
        ({"vision_tower_type": "siglip"}, "'vision_tower_type'"),
        ({"mm_vision_select_layer": -1}, "'mm_vision_select_layer'"),
        ({"mm_hidden_size": 768}, "must be 1024"),
        (smaller(15, 64), "has no halves"),
    ],
)
def test_what_is_not_known_is_refused(changes, words):
    with pytest.raises(ModelError, match=words):
        cg.load_model(config(V1, **changes))


def test_a_grid_of_no_twelve_squares_is_refused():
    with pytest.raises(ModelError, match="no 12 x 12 squares"):
        cg.load_model(config(V2, **smaller(16, 64)))


#: What liuhaotian/llava-v1.5-7b says beside the sizes of its LLaMA.
OWN = {
    "architectures": ["LlavaLlamaForCausalLM"], "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": 1024, "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "use_mm_proj": True,
    "image_aspect_ratio": "pad", "mm_resampler_type": None, "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["llava", "llava_llama"])
def test_files_of_llavas_own_code_are_the_model_of_the_class(kind):
    made, known = (
        cg.load_model(c)
        for c in ({**OWN, "model_type": kind, "vocab_size": 32064}, config("llava-1.5-7b"))
    )
    assert parameters(made) == parameters(known) == 7_063_427_072
    for phase, other in zip(made.phases, known.phases, strict=True):
        mine, theirs = exact_cost(phase.graph), exact_cost(other.graph)
        assert (mine.total_flops - theirs.total_flops).expand() == 0
        assert (mine.total_bytes - theirs.total_bytes).expand() == 0
    one = {"model_type": kind, "vocab_size": 32064, "mm_projector_type": "linear"}
    linear = cg.load_model({**OWN, **one})
    assert parameters(known) - parameters(linear) == 4096 * 4096 + 4096


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_aspect_ratio": "anyres"}, "'image_aspect_ratio'"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "'mm_patch_merge_type'"),
        ({"mm_resampler_type": "perceiver"}, "'mm_resampler_type'"),
        ({"s2": True, "s2_scales": "336,672"}, "'s2' = True: pictures that are seen"),
        ({"mm_projector_type": "mlp3x_gelu"}, "did you mean 'mlp2x_gelu'"),
    ],
)
def test_other_models_of_llavas_own_code_are_refused(changes, words):
    with pytest.raises(ModelError, match=words):
        cg.load_model({**OWN, "model_type": "llava_llama", "vocab_size": 32000, **changes})
