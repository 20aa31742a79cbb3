"""The kept counts of small models are those of the classes that are installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from costgraph.counting.count import exact_cost, parameters
from costgraph.counting.footprint import cache_bytes
from costgraph.ir.program import Program
from costgraph.models import load_model
from costgraph.models.catalog import CONFIGS as SHIPPED
from costgraph.models.hf import import_config
from tests.models.oracle import SMALL, counted

pytestmark = [pytest.mark.transformers, pytest.mark.filterwarnings("ignore")]
KEPT: dict[str, Any] = json.loads(SMALL.read_text())
#: Types whose class fetches kernels from the network when it is built.
FETCHES = {"apertus", "apertus1p5"}
NAMES = [name for name in KEPT if name not in FETCHES]


@pytest.fixture(autouse=True)
def classes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The installed transformers, without a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("torch")
    found = pytest.importorskip("transformers")
    # Written out for a log that is off, each time that one is made.
    monkeypatch.setattr(found.PreTrainedConfig, "__repr__", object.__repr__)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_parameters_products_and_caches_are_those_of_the_class(name: str, classes: Any) -> None:
    entry = KEPT[name]
    if entry["config"]["model_type"] not in classes.CONFIG_MAPPING:
        pytest.skip(f"transformers {classes.__version__} has no {name}")
    assert counted(entry["config"], entry["class"]) == entry


FILES = [
    *sorted(SHIPPED.glob("*.json")),
    *sorted((SMALL.parent / "configs").glob("*.json")),
]


def _costs(program: Program) -> list[Any]:
    """What is computed, moved and kept: not how rotary tables are named."""
    each = ((p.name, exact_cost(p.graph), cache_bytes(p.graph)) for p in program.phases)
    return [parameters(program), *each]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_that_is_loaded_and_saved_is_the_same_model(
    path: Path, classes: Any, tmp_path: Path
) -> None:
    shutil.copy(path, tmp_path / "config.json")
    try:
        loaded = classes.AutoConfig.from_pretrained(tmp_path)
    except ValueError as error:
        pytest.skip(f"transformers {classes.__version__} has no such class: {error}"[:200])
    loaded.save_pretrained(tmp_path / "saved")
    read = [json.loads(p.read_text()) for p in (path, tmp_path / "saved" / "config.json")]
    published, again = (import_config(config, path.stem) for config in read)
    assert _costs(again) == _costs(published)


#: Sections that hold the parts of a model.
PARTS = ("text_config", "vision_config", "audio_config", "encoder", "decoder")
#: Keys without which a part is another one, or whose numbers count nothing.
NO_SIZES = ("_token_id", "dropout", "_eps", "initializer", "max_position", "pad_", "router_aux")
SEEING = [
    path.stem
    for path in sorted((SMALL.parent / "configs").glob("*.json"))
    if any(isinstance(json.loads(path.read_text()).get(part), dict) for part in PARTS)
    and json.loads(path.read_text()).get("architectures")
]


def _shorter(inner: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A section without one size, flag or list, for each of them."""
    for key, value in inner.items():
        if isinstance(value, (int, list)) and not any(word in key for word in NO_SIZES):
            yield key, {k: v for k, v in inner.items() if k != key}


def _silent(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The file without one key of a part, for each of them."""
    for part in PARTS:
        inner = config.get(part)
        for key, rest in _shorter(inner) if isinstance(inner, dict) else ():
            yield f"{part}.{key}", {**config, part: rest}


@pytest.fixture
def unfilled(classes: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Classes whose parameters get no first values: these are most of the work, and count none."""
    import torch

    for kind in vars(torch.nn).values():
        if isinstance(kind, type) and "reset_parameters" in vars(kind):
            monkeypatch.setattr(kind, "reset_parameters", lambda self: None)
    monkeypatch.setattr(classes.PreTrainedModel, "_init_weights", lambda self, module: None)
    return classes


@pytest.mark.parametrize("name", SEEING)
def test_parts_without_a_key_have_what_their_class_has(name: str, unfilled: Any) -> None:
    """A size that a part leaves out counts as in the class, or the file is refused."""
    config = json.loads((SMALL.parent / "configs" / f"{name}.json").read_text())
    assert not _wrong(unfilled, config, _silent(config))


@pytest.mark.parametrize("name", NAMES)
def test_files_without_a_key_have_what_their_class_has(name: str, unfilled: Any) -> None:
    """The same of models of one part."""
    sizes = KEPT[name]["config"]
    named = {"architectures": [KEPT[name]["class"]]}  # without it a model with logits is meant
    files = ((key, {**rest, **named}) for key, rest in _shorter(sizes))
    assert not _wrong(unfilled, {**sizes, **named}, files)


def _wrong(
    classes: Any, config: dict[str, Any], files: Iterator[tuple[str, dict[str, Any]]]
) -> dict[str, tuple[int, int]]:
    """Keys without which a file has other parameters than the class makes of it."""
    import torch

    made = getattr(classes, config["architectures"][0], None)
    if config["model_type"] not in classes.CONFIG_MAPPING or made is None:
        pytest.skip(f"transformers {classes.__version__} has no {config['model_type']}")
    kind, wrong = classes.CONFIG_MAPPING[config["model_type"]], {}
    known: dict[str, int] = {}  # most keys that are left out have what they had
    for key, values in files:
        try:
            read = load_model(values)
            settings = kind.from_dict(json.loads(json.dumps(values)))
            all_of = json.dumps(settings.to_dict(), sort_keys=True, default=str)
            if all_of not in known:
                with torch.device("meta"):
                    model = made._from_config(settings)
                known[all_of] = sum(p.numel() for p in model.parameters())
        except Exception:
            continue  # refused here, or by the class
        real = known[all_of]
        left = any(said in " ".join(read.assumptions) for said in ("left out", "alone is counted"))
        if not left and parameters(read) != real:
            wrong[key] = (int(parameters(read)), real)
    return wrong
