"""Makes the traces in ``data/hub/`` anew; needs ``costgraph[torch]`` and ``transformers``.

    python tests/importers/generate_hub.py

Small models of published architectures, in the implementations of the ``transformers``
library (5.24, Apache-2.0), exported by ``torch.export``, and what PyTorch's own counter
finds in them. Random weights; only structure is kept.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))

from costgraph.models.torch_export import trace
from costgraph.models.traced.codec import to_json

DATA = Path(__file__).parent / "data" / "hub"
SIZES = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
    "max_position_embeddings": 256,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
POINTS = ((2, 8), (3, 17))
#: name: (configuration, model, options, padding mask given, decomposed, experts by)
Entry = tuple[Callable[..., Any], Callable[..., Any], dict[str, Any], bool, bool, str]
MODELS: dict[str, Entry] = {
    "llama": (tf.LlamaConfig, tf.LlamaForCausalLM, SIZES, False, True, ""),
    "llama-padded": (tf.LlamaConfig, tf.LlamaForCausalLM, SIZES, True, False, ""),
    "mistral": (tf.MistralConfig, tf.MistralForCausalLM, {**SIZES, "sliding_window": 16},
                False, True, ""),
    "gemma2": (tf.Gemma2Config, tf.Gemma2ForCausalLM,
               {**SIZES, "head_dim": 16, "sliding_window": 16}, False, True, ""),
    "bloom": (tf.BloomConfig, tf.BloomForCausalLM,
              {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96}, False, False, ""),
    "mpt": (tf.MptConfig, tf.MptForCausalLM,
            {"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 96, "max_seq_len": 256},
            False, False, ""),
    "modernbert": (tf.ModernBertConfig, tf.ModernBertModel,
                   {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
                    "num_attention_heads": 4, "vocab_size": 96, "local_attention": 16,
                    "max_position_embeddings": 256, "pad_token_id": 0}, True, False, ""),
    "bert": (tf.BertConfig, tf.BertModel,
             {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}, True, True, ""),
    "mixtral-gathered": (tf.MixtralConfig, tf.MixtralForCausalLM, {**SIZES, **EXPERTS},
                         False, True, "batched_mm"),
    "mixtral-sorted": (tf.MixtralConfig, tf.MixtralForCausalLM, {**SIZES, **EXPERTS},
                       False, True, "grouped_mm"),
    "gpt-oss-gathered": (tf.GptOssConfig, tf.GptOssForCausalLM,
                         {**SIZES, **EXPERTS, "head_dim": 16, "sliding_window": 16,
                          "rope_scaling": None}, False, True, "batched_mm"),
    "gpt-oss-sorted": (tf.GptOssConfig, tf.GptOssForCausalLM,
                       {**SIZES, **EXPERTS, "head_dim": 16, "sliding_window": 16,
                        "rope_scaling": None}, False, True, "grouped_mm"),
}  # fmt: skip


def example(batch: int, length: int, padded: bool, decoder: bool) -> dict[str, Any]:
    """Operands of one call."""
    made: dict[str, Any] = {"input_ids": torch.zeros((batch, length), dtype=torch.int64)}
    if padded:
        made["attention_mask"] = torch.ones((batch, length), dtype=torch.int64)
    return {**made, "use_cache": False} if decoder else made


def counted(model: torch.nn.Module, given: dict[str, Any]) -> int:
    """Products as PyTorch counts them; attention written out."""
    written_out = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), written_out:
        model(**given)
    return counter.get_total_flops()


def main() -> None:
    warnings.simplefilter("ignore")
    DATA.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {}
    for name, (config, kind, options, padded, decomposed, experts) in MODELS.items():
        torch.manual_seed(0)
        stated = config(**options)
        model = kind(stated).eval().requires_grad_(False)
        decoder = "CausalLM" in kind.__name__
        # The counter does not see through the operator for sorted rows.
        seen = "batched_mm" if experts else ""
        for chosen in filter(None, (seen, experts)):
            model.set_experts_implementation(chosen)
            if chosen == seen:
                counts = [counted(model, example(b, s, padded, decoder)) for b, s in POINTS]
        if not experts:
            counts = [counted(model, example(b, s, padded, decoder)) for b, s in POINTS]
        batch, length = Dim("batch"), Dim("seq", max=200)
        shapes: dict[str, Any] = {
            key: {0: batch, 1: length} if isinstance(value, torch.Tensor) else None
            for key, value in example(2, 8, padded, decoder).items()
        }
        with torch.no_grad():
            program = torch.export.export(
                model, (), example(2, 8, padded, decoder), dynamic_shapes=shapes, strict=False
            )
        if decomposed:
            program = program.run_decompositions()
        text = json.dumps(to_json(trace(program, name=name)), separators=(",", ":"))
        (DATA / f"{name}.traced.json").write_text(text + "\n", encoding="utf-8")
        index[name] = {
            "config": {**options, "model_type": stated.model_type},
            "parameters": sum(p.numel() for p in model.parameters()),
            "products": [[*p, c] for p, c in zip(POINTS, counts, strict=True)],
        }
    text = json.dumps(index, indent=1)
    (DATA / "INDEX.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
