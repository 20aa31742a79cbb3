"""Every model type of an installed transformers, with the defaults of its class: how it is read.

Each type is one line:

* ``exact``: parameters equal those of the real class, and, where a prompt of tokens runs on the
  meta device, the FLOP of its products do;
* ``part``: the program says what it leaves out;
* ``wrong``, or ``differs`` in FLOP alone;
* ``refused``, with the reason;
* ``unbuilt``: transformers itself cannot build the class.

Needs transformers and PyTorch.

    python benchmarks/families.py [TYPE ...] [--tokens 16] [--only VERDICT]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sympy import Integer

from costgraph.counting.count import Row, parameters, rows
from costgraph.errors import CostgraphError
from costgraph.hardware.machine import Engine
from costgraph.ir.program import Program
from costgraph.models import load_model
from costgraph.symbols import B, G, S

#: Tables of transformers that name a type's class, the whole models first.
TABLES = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_CTC_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
    "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES",
)
#: Encoders have decoder classes of their name, which nobody serves: their own class comes first.
ENCODERS = ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
            "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
            "MODEL_FOR_MASKED_LM_MAPPING_NAMES")  # fmt: skip
#: What stands in the sentence of a program that does not count all of a file.
LEFT_OUT = ("alone is counted", "left out", "return their input")
#: Operations that classes of transformers compute by other products than kernels do.
SCANS = frozenset(
    {"conv1d", "ssd-scan", "gated-delta", "kimi-delta", "lightning", "selective-scan",
     "gated-linear-recurrence", "gated-pool", "matrix-memory"}
)  # fmt: skip
#: Types that read a page beside their tokens: of tokens alone their classes leave it out.
PAGED = frozenset({"layoutlmv3"})
#: Seconds for one type.
LONGEST = 60


@dataclass(frozen=True)
class Line:
    """What became of one model type."""

    kind: str
    verdict: str
    said: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.verdict:8} {self.kind:28} {self.seconds:5.1f} s  {self.said}"


def class_of(kind: str) -> str | None:
    """The class of transformers for a model type; None where there is none."""
    from transformers.models.auto import modeling_auto

    order = [*TABLES]
    if kind in _PAIRS:
        order.insert(0, "MODEL_MAPPING_NAMES")
    for table in ENCODERS:
        if kind in getattr(modeling_auto, table, {}) and kind in _ENCODING:
            order.insert(0, table)
    for table in order:
        found = getattr(modeling_auto, table, {}).get(kind)
        if found is not None:
            return found if isinstance(found, str) else str(found[0])
    return None


#: Types of two towers, whose other classes hold one of them.
_PAIRS = frozenset({"clip", "metaclip_2", "siglip", "siglip2"})
#: Types with a table of encoders and one of decoders.
_ENCODING = frozenset(
    {"albert", "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "blenderbot",
     "blenderbot-small", "camembert", "data2vec-text", "electra", "ernie", "led", "m2m_100",
     "marian", "mbart", "megatron-bert", "moonshine", "mvp", "nllb-moe", "pegasus", "plbart",
     "prophetnet", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
     "speech_to_text", "whisper", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)  # fmt: skip


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises ``TimeoutError`` after some seconds."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _products(row: Row) -> Any:
    """FLOP that the counter counts: products and convolutions of any engine, without biases."""
    if row.kind == "conv":
        biases = row.node.outputs[0].numel if row.node.op.bias else 0
        return row.cost.total_flops - biases
    found = (f for (engine, _), f in row.cost.flops.items() if engine is Engine.TENSOR)
    return sum(found, Integer(0))


def products(program: Program, tokens: int) -> int:
    """FLOP of products and convolutions of a prompt of text, every pair and all logits."""
    values = {B: Integer(1), S: Integer(tokens), G: Integer(0)}
    total = Integer(0)
    for phase in program.phases:
        if phase.name == "decode":
            continue
        found = sum((row.count * _products(row) for row in rows(phase.graph)), Integer(0))
        total += found.xreplace(dict(phase.bindings)).xreplace(values)
    return int(total)


def counted_products(model: Any, tokens: int, answers: bool) -> int | None:
    """What PyTorch's counter finds for a prompt; None where it does not run."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    # A mask keeps the class from looking at values, which tensors on meta do not have.
    whole = torch.zeros((1, 1, tokens, tokens), device="meta")
    masks = (torch.ones((1, tokens), dtype=torch.long, device="meta"), None, whole)
    for mask in masks:
        counter = FlopCounterMode(display=False)
        given = {"input_ids": ids, "attention_mask": mask}
        if answers:
            given["decoder_input_ids"] = ids[:, :1]
            given["decoder_attention_mask"] = None if mask is None else mask[..., :1]
        if answers and mask is whole:
            given["decoder_attention_mask"] = whole[:, :, :1, :1]
        try:
            with torch.no_grad(), counter:
                model(**given)
        except TimeoutError:
            raise
        except Exception:
            continue
        return int(counter.get_total_flops())
    return None


#: What is no difference in what a model computes.
APART = "scans, experts that no token chose, or a row before the first run otherwise in the class"


def _apart(program: Program, kind: str) -> bool:
    """Whether the class runs scans as other products, or all experts for every token."""
    kinds = {row.kind for phase in program.phases for row in rows(phase.graph)}
    return kind in ("llama4_text", "zaya") or bool(kinds & SCANS)


def tried(kind: str, tokens: int) -> Line:
    """One model type with its defaults."""
    import torch
    import transformers
    from transformers import CONFIG_MAPPING

    start = time.perf_counter()

    def line(verdict: str, said: str) -> Line:
        return Line(kind, verdict, said, time.perf_counter() - start)

    name = class_of(kind)
    if name is None or not hasattr(transformers, name):
        return line("unbuilt", "transformers names no class")
    try:
        config = CONFIG_MAPPING[kind]()
        made = getattr(transformers, name)
        # Experts by products that do not look at which tokens chose them.
        config._experts_implementation = "batched_mm"
        with torch.device("meta"):
            if hasattr(made, "_from_config"):
                model = made._from_config(config, attn_implementation="eager")
            else:
                model = made(config)
        model.eval()  # in training layers may be dropped at random
        values = json.loads(config.to_json_string(use_diff=False))
    except TimeoutError as error:
        return line("unbuilt", str(error))
    except Exception as error:
        return line("unbuilt", f"{name}: {type(error).__name__}: {str(error)[:80]}")
    values |= {"architectures": [name], "dtype": "bfloat16"}
    try:
        found = load_model(values, mask="compute", logits="all", mla="naive")
    except CostgraphError as error:
        return line("refused", f"{name}: {error}")
    read, real = int(parameters(found)), sum(p.numel() for p in model.parameters())
    left = [said for said in found.assumptions if any(word in said for word in LEFT_OUT)]
    if read != real and left:
        return line("part", f"{name}: {read} of {real} parameters: {left[0]}")
    if read != real:
        return line("wrong", f"{name}: {read} parameters, the class has {real} ({read - real:+})")
    first = found.phases[0].name
    if first not in ("prefill", "forward", "encode") or kind in PAGED:
        return line("exact", f"{name}: {real} parameters")
    counted = counted_products(model, tokens, first == "encode")
    if counted is None:
        return line("exact", f"{name}: {real} parameters; its products do not run on meta")
    own = products(found, tokens)
    if own != counted and _apart(found, kind):
        return line("exact", f"{name}: {real} parameters; {APART}")
    if own != counted:
        return line("differs", f"{name}: {own} FLOP of products, counted {counted}")
    return line("exact", f"{name}: {real} parameters, {own} FLOP")


def main(argv: Sequence[str] | None = None) -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="model types; all without")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--only", default="", help="print lines of this verdict alone")
    given = parser.parse_args(argv)
    from transformers import CONFIG_MAPPING

    counts: Counter[str] = Counter()
    for kind in given.types or sorted(CONFIG_MAPPING):
        try:
            with limited(LONGEST):
                found = tried(kind, given.tokens)
        except Exception as error:
            found = Line(kind, "crashed", f"{type(error).__name__}: {str(error)[:120]}", 0.0)
        counts[found.verdict] += 1
        if found.verdict.startswith(given.only):
            print(found, flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
