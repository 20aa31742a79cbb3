"""What PyTorch's counter finds on classes of transformers: entries of ``counted/small.json``.

python -m tests.models.oracle NAME …    makes the entries of these families anew
python -m tests.models.oracle           says which differ from what is kept
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

#: What layers keep beside keys: rows of blocks, those that are in none yet, keys of an index.
POOLED = ("compressed_kv", "buffer_kv", "buffer_gate", "idx_keys", "indexer_keys")
#: Rows and gates of the last block, which the next one reads as well.
OVERLAPS = ("overlap_kv", "overlap_gate")
SMALL = Path(__file__).parent / "counted" / "small.json"


def built(config: dict[str, Any], name: str) -> Any:
    """The class with random weights, attention spelled out, experts one after another."""
    import torch
    import transformers

    made = getattr(transformers, name)
    values = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    settings = kind(**json.loads(json.dumps(values)))
    settings._experts_implementation = "eager"
    torch.manual_seed(0)
    return made._from_config(settings, attn_implementation="eager").eval()


def flops(model: Any, cache: Any, new: int, mask: int) -> tuple[dict[str, Any], Any]:
    """FLOP of one step of two sequences, as a total and by operation, and the cache behind it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    ids = torch.full((2, new), 3)
    given = {"attention_mask": torch.ones((2, mask), dtype=torch.long)}
    key = "cache" if cache is not None and _renamed(model) else "past_key_values"
    if cache is not None:
        given[key] = cache
    with torch.no_grad(), counter:
        out = model(input_ids=ids, use_cache=True, **given)
    by = counter.get_flop_counts()["Global"]
    found = {str(op).rpartition(".")[2]: int(n) for op, n in by.items()}
    return {"total": int(counter.get_total_flops()), "by_op": found}, _cache(out)


def _renamed(model: Any) -> bool:
    import inspect

    return "cache" in inspect.signature(model.forward).parameters


def _cache(out: Any) -> Any:
    for key in ("cache", "past_key_values"):
        found = getattr(out, key, None)
        if found is not None:
            return found
    return None


def stored(cache: Any) -> dict[str, int]:
    """Elements of keys and values, and of states, that a cache of one sequence holds."""
    import torch

    kv = states = 0
    for layer in getattr(cache, "layers", ()):
        seen: set[int] = set()
        for key, value in vars(layer).items():
            for tensor in _tensors(value):
                # Keys that are the values as well are kept once.
                if not isinstance(tensor, torch.Tensor) or id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                if key in ("keys", "values", *POOLED):
                    kv += tensor.numel()
                elif "state" in key or key in OVERLAPS:
                    states += tensor.numel()
    # Some caches keep the states of linear attention beside the layers.
    states += sum(t.numel() for t in getattr(cache, "linear_cache", ()) if hasattr(t, "numel"))
    # xLSTM has no layers in its cache.
    kept = _tensors(getattr(cache, "rnn_state", ()))
    states += sum(t.numel() for t in kept if hasattr(t, "numel"))
    return {"kv_numel": kv, "state_numel": states}


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [t for inner in value.values() for t in _tensors(inner)]
    if isinstance(value, (list, tuple)):
        return [t for inner in value for t in _tensors(inner)]
    return [value]


def counted(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The entry of a configuration and its class."""
    import torch

    model = built(config, name)
    first, cache = flops(model, None, 12, 12)
    second, _ = flops(model, cache, 1, 13)
    with torch.no_grad():
        alone = model(
            input_ids=torch.full((1, 24), 3), attention_mask=torch.ones(1, 24), use_cache=True
        )
    return {
        "config": config,
        "class": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": {"prefill_b2_s12": first, "decode_b2_l12": second},
        "caches_b1_s24": stored(_cache(alone)),
    }


def written(kept: dict[str, Any]) -> str:
    """The table as it is kept: a family a line."""
    lines = (f"  {json.dumps(name)}: {json.dumps(kept[name])}" for name in kept)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    kept: dict[str, Any] = json.loads(SMALL.read_text())
    for name in names or list(kept):
        entry = kept[name]
        made = counted(entry["config"], entry["class"])
        same = {k: v == entry.get(k) for k, v in made.items()}
        print(name, "as kept" if all(same.values()) else f"differs: {same}", flush=True)
        if names:
            kept[name] = made
    if names:
        SMALL.write_text(written(kept))


if __name__ == "__main__":
    main(sys.argv[1:])
