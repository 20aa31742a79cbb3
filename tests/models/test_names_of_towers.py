"""Lists of modules that stay wide name towers and projectors as published classes do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from costgraph.models import load_model
from costgraph.models.checkpoint.names import Module, Names, patterns_of

CONFIGS = Path(__file__).parent / "counted" / "configs"
#: (a model whose graph has the matrix, its name there, its layer, its name in checkpoints)
NAMED = [
    ("gemma-4-26b-a4b", "merger_1", None, "model.embed_vision.embedding_projection"),
    ("gemma-4-26b-a4b", "patch_embed", None, "model.vision_tower.patch_embedder.input_proj"),
    (
        "gemma-4-26b-a4b",
        "q_proj",
        3,
        "model.vision_tower.encoder.layers.3.self_attn.q_proj.linear",
    ),
    ("gemma-4-26b-a4b", "down_proj", 3, "re:.*vision_tower.*down_proj.linear"),
    ("lfm2.5-vl-1.6b", "merger_1", None, "model.multi_modal_projector.linear_1"),
    ("mistral3-default", "merger_2", None, "multi_modal_projector.linear_2"),
    (
        "mistral3-default",
        "merger_merge",
        None,
        "model.multi_modal_projector.patch_merger.merging_layer",
    ),
    ("kimi-k2.5-small", "merger_1", None, "mm_projector.proj.0"),
    ("paligemma-default", "projector_1", None, "model.multi_modal_projector.linear"),
    ("idefics3-small", "projector_1", None, "model.connector.modality_projection.proj"),
    ("internvl-default", "projector_2", None, "mlp1.3"),
    ("llama-4-scout-seeing", "projector_fc1", None, "vision_model.vision_adapter.mlp.fc1"),
    ("qwen2-audio-default", "projector_1", None, "multi_modal_projector.linear"),
    ("voxtral-mini-3b", "projector_2", None, "multi_modal_projector.linear_2"),
]


@pytest.mark.parametrize(("model", "leaf", "layer", "name"), NAMED)
def test_a_published_name_means_the_matrix_and_not_its_neighbour(model, leaf, layer, name):
    program = load_model(json.loads((CONFIGS / f"{model}.json").read_text()))
    held = {tensor.name.rpartition("/")[2] for tensor, _ in program.phases[0].graph.weights()}
    assert f"{leaf}.weight" in held
    names = Names(patterns_of([name], "ignore"))
    assert names.naming(Module(leaf, eyes=True, layered=layer is not None), layer)
    assert not names.naming(Module("lm_head", layered=False), None)
    assert not names.naming(Module("q_proj" if leaf != "q_proj" else "k_proj"), layer or 0)
