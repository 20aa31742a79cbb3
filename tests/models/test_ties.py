"""Whether logits are tied is a matter of the whole file; where only a part says so, it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import costgraph as cg
from costgraph.models.hf import import_config

COUNTED = Path(__file__).parent / "counted" / "configs"
KEY = "tie_word_embeddings"
PARTS = ("text_config", "llm_config")
#: Classes that read the part's own key, or have a default of their own, or no logits.
OWN = {
    "clip", "exaone4_5", "idefics3", "llama4", "llava_next", "llava_onevision", "mllama",
    "siglip", "smolvlm", "llava", "gemma4", "blip-2", "deepseek_vl", "glmasr", "got_ocr2",
    "idefics2", "llava_next_video", "metaclip_2", "minicpmv4_6",
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
    inside = _read(name, part, None, True)
    told = [said for said in inside.assumptions if said.startswith(f"'{KEY}' = true is read")]
    assert told, inside.assumptions
    # The whole file's key stands above that of the part, and nothing needs telling.
    both = _read(name, part, True, False)
    assert not [said for said in both.assumptions if KEY in said]
    assert both.phases == inside.phases


def test_it_stands_in_json_and_in_tables() -> None:
    program = _read("internvl-default", "text_config", None, False)
    compiled = cg.compile(program, "h100")
    assert any(KEY in said for said in compiled.assumptions)
