"""Whether logits are tied is a matter of the whole file; where only a part says so, it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import costgraph as cg
from costgraph.counting.count import parameters
from costgraph.models.hf import import_config

COUNTED = Path(__file__).parent / "counted" / "configs"
KEY = "tie_word_embeddings"
PARTS = ("text_config", "llm_config")
#: Classes that read the part's own key, or have no logits.
OWN = {
    "clip", "llama4", "llava_onevision", "mllama", "siglip", "metaclip_2", "gemma4",
    "blip", "blip-2", "instructblip", "florence2", "chinese_clip", "clap", "clipseg", "owlvit",
    "owlv2", "pix2struct", "vision-text-dual-encoder", "grounding-dino", "xclip", "altclip",
    "aimv2", "mm-grounding-dino", "align", "sam3", "flava", "instructblipvideo",
}  # fmt: skip


def _with_parts() -> list[tuple[str, str]]:
    found = []
    for path in sorted(COUNTED.glob("*.json")):
        config = json.loads(path.read_text())
        part = next((p for p in PARTS if isinstance(config.get(p), dict)), None)
        if part is not None and config.get("model_type") not in OWN:
            found.append((path.stem, part))
    return found


def _read(name: str, part: str, outer: Any, inner: Any) -> cg.Program:
    config = json.loads((COUNTED / f"{name}.json").read_text())
    for at, value in ((config, outer), (config[part], inner)):
        at.pop(KEY, None)
        if value is not None:
            at[KEY] = value
    return import_config(config, name)


@pytest.mark.parametrize(("name", "part"), _with_parts())
def test_what_only_a_part_says_is_told(name: str, part: str) -> None:
    inside, outside = _read(name, part, None, True), _read(name, part, None, False)

    def told(program: cg.Program) -> list[str]:
        return [said for said in program.assumptions if KEY in said]

    if inside.phases == outside.phases:  # the class goes by a default of its own
        assert len(told(inside)) + len(told(outside)) == 1
        assert "is not followed" in (told(inside) or told(outside))[0]
        tied = bool(told(outside))
    else:
        assert told(inside)[0].startswith(f"'{KEY}' = true is read")
        assert told(outside)[0].startswith(f"'{KEY}' = false is read")
        tied = True
    # The whole file's key stands above that of the part, and nothing needs telling.
    both = _read(name, part, tied, not tied)
    assert not told(both)
    assert both.phases == inside.phases


@pytest.mark.parametrize(
    ("name", "part", "says"),
    [
        # What transformers' classes have, counted: each decoder goes by its own key.
        ("trocr-small", "decoder", {(None, False): 8192, (False, None): 0}),
        ("vit-gpt2-small", "decoder", {(None, False): 8192, (False, True): 0}),
        ("instructblip-small", "text_config", {(True, False): 8192, (False, None): 0}),
        ("blip-small", "text_config", {(False, True): 0, (True, False): 0}),
        ("florence2-small", "text_config", {(False, True): 4096, (True, None): 0}),
    ],
)
def test_untied_logits_of_decoders_behind_encoders(
    name: str, part: str, says: dict[tuple[Any, Any], int]
) -> None:
    tied = parameters(_read(name, part, True, True))
    for (outer, inner), more in says.items():
        assert parameters(_read(name, part, outer, inner)) - tied == more


@pytest.mark.parametrize("name", ["mistral3-default", "mt5-default", "umt5-default"])
def test_what_no_part_says_is_told_where_classes_differ(name: str) -> None:
    config = json.loads((COUNTED / f"{name}.json").read_text())
    for at in (config, config.get("text_config") or {}):
        at.pop(KEY, None)
    said = [s for s in import_config(config, name).assumptions if KEY in s]
    assert len(said) == 1
    assert "says nothing" in said[0]
    assert not [s for s in import_config({**config, KEY: True}, name).assumptions if KEY in s]


def test_it_stands_in_json_and_in_tables() -> None:
    program = _read("internvl-default", "text_config", None, False)
    compiled = cg.compile(program, "h100")
    assert any(KEY in said for said in compiled.assumptions)
