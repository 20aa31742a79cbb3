"""Makes every picture of docs/gallery.md anew, and the page itself.

python docs/tools/gallery.py            all pictures and the page
python docs/tools/gallery.py --page     the page alone
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from costgraph.cli import main as costgraph

DOCS = Path(__file__).resolve().parents[1]
FOLDER = DOCS / "gallery"

#: Pipelines of the maps of compression.
COMPRESSED = " ".join(
    f"--passes fuse{more}"
    for more in (
        "",
        ",quantize{preset=w4a16}",
        ",quantize{preset=w8a8}",
        ",prune{storage=2:4}",
        ",prune{sparsity=0.7}",
        ",quantize{preset=w8a8},prune{storage=2:4}",
        ",shrink{heads=3/4,ffn=3/4}",
    )
)

#: Section: (file, command after ``costgraph``, what it shows).
GALLERY: dict[str, list[tuple[str, str, str]]] = {
    "Graphs": [
        (
            "graph-ops.svg",
            "draw llama-2-7b --on a6000 --batch 1 --context 2048",
            "Every operation of a decode step. Fill and label tell what bounds an operation, size "
            "its share of the time; line style and shape tell weights, activations and caches.",
        ),
        (
            "graph-layer.svg",
            "draw llama-2-7b --level layer --on a6000 --batch 1 --context 2048",
            "The same with the layers as one vertex.",
        ),
        (
            "graph-70b-fused.svg",
            "draw llama-3-70b --passes fuse,quantize{weights=int4} --on h100 --batch 16 "
            "--context 4096",
            "A 70B model after fusion and quantisation: 80 layers are one frame.",
        ),
        (
            "graph-phases.svg",
            "draw llama-3-70b --passes fuse,speculative --level model --on b200 --batch 1 "
            "--prompt 512 --context 2048",
            "Phases of speculative decoding, each with the time of one step.",
        ),
        (
            "diff-fuse.svg",
            "draw llama-3-70b --passes fuse --diff",
            "What fusion did: erased operations (✕, dashed) in the frame of what was created "
            "from them (+), and why a rule did not apply.",
        ),
        (
            "diff-quantize.svg",
            "draw llama-2-7b --passes quantize{weights=int4} --diff",
            "What quantisation did: nothing erased, formats changed (~).",
        ),
        (
            "diff-speculative.svg",
            "draw llama-2-7b --passes fuse,speculative --diff --step 2",
            "What speculative decoding did: one phase erased, two created.",
        ),
    ],
    "Figures": [
        (
            "roofline.svg",
            "plot roofline llama-2-7b --on a6000 --batch 1 --prompt 2048 --dtypes int8",
            "Operations of a prefill under two roofs.",
        ),
        (
            "roofline-fuse.svg",
            "plot roofline llama-2-7b --on a6000 --batch 1 --prompt 2048 --passes fuse",
            "Where fusion moves each operation.",
        ),
        (
            "curve-prompt.svg",
            "plot curve llama-3-70b --on b200 --metric ttft --over S",
            "Time to first token over the prompt: regimes shaded, crossovers marked. Breakpoints "
            "are exact, from `formula.regimes`.",
        ),
        (
            "curve-bandwidth.svg",
            "plot curve llama-3-70b --on b200 --over BW --batch 64 --context 1024 --passes fuse",
            "Time per token over the memory bandwidth.",
        ),
        (
            "curve-pipelines.svg",
            "plot curve llama-3-8b --on h100 --over B --context 2048 --passes '' "
            "--passes 'quantize{weights=int8}' --passes 'quantize{weights=int4}'",
            "Several pipelines over the batch, each up to where it no longer fits into memory.",
        ),
        (
            "map.svg",
            "plot map llama-3-70b --on b200 --passes fuse --over B,T --to 4096,131072",
            "Which resource takes the most time over batch and context. Areas come from a grid; "
            "the lines are exact crossovers of single operations; beyond the dashed red line the "
            "memory is full.",
        ),
        (
            "map-bandwidth.svg",
            "plot map llama-2-7b --on a6000 --over S,BW",
            "The same over prompt and bandwidth.",
        ),
        (
            "breakdown.svg",
            "plot breakdown llama-2-7b --on a6000 --context 2048",
            "Time by operation kind and memory by use over the batch.",
        ),
        (
            "waterfall.svg",
            "plot waterfall llama-3-70b --on b200 --passes fuse,quantize{weights=int4},speculative",
            "What each pass adds to the latency of a request.",
        ),
        (
            "ablation.svg",
            "plot ablation llama-3-70b --on b200 --passes fuse,quantize{weights=int4},speculative",
            "What leaving out each pass costs.",
        ),
        (
            "compare.svg",
            "compare llama-3-8b --on h100,h200 --passes '' --passes fuse "
            "--passes 'fuse,quantize{weights=int4}'",
            "Pipelines and devices side by side: metrics as bars, steps as stacks of operation "
            "kinds, each in one colour.",
        ),
        (
            "compare-waterfall.svg",
            "compare llama-3-8b --on h100,h200 --passes 'fuse,quantize{weights=int4},page-kv' "
            "--waterfall",
            "The same of several pipelines or devices, a panel each; `--ablation` for the other.",
        ),
        (
            "pareto.svg",
            "plot pareto llama-3-8b --on a100-80g --on h100 --context 8192 --passes '' "
            "--passes 'quantize{weights=int4}'",
            "Throughput against time per token over the batch; hollow markers exceed the memory.",
        ),
    ],
    "Compression": [
        (
            "compression-a100.svg",
            f"plot map llama-3-8b --on a100-80g --over B,T --to 1024,8192 {COMPRESSED}",
            "Which compression gives the least time per token, over batch and context. White: "
            "nothing fits into the memory. See [compression](compression.md).",
        ),
        (
            "compression-4090.svg",
            f"plot map llama-3-8b --on rtx-4090 --over B,T --to 1024,8192 {COMPRESSED}",
            "The same on a card of 24 GB.",
        ),
        (
            "subnets.svg",
            "plot sizes llama-7b --on a100-80g --batch 1 --context 1024 --passes '' "
            "--passes search-subnet{budget=0.9} --passes search-subnet{budget=0.8} "
            "--passes search-subnet{budget=0.7} --passes search-subnet{budget=0.6} "
            "--passes search-subnet{budget=0.5}",
            "The fastest subnets of LLaMA-7B at 90 to 50 % of its parameters, each the best of "
            "the space printed for it.",
        ),
    ],
    "Figures of the survey": [
        ("fig5.svg", "plot survey-fig5", "Figure 5: roofline of the A6000 in FP16."),
        ("fig6.svg", "plot survey-fig6", "Figure 6: the INT8 roof beside it."),
        ("fig7.svg", "plot survey-fig7", "Figure 7: relative memory of quantised Llama-2-13b."),
        ("fig8.svg", "plot survey-fig8", "Figure 8: decode time over the batch by weight format."),
        ("fig9.svg", "plot survey-fig9", "Figure 9: prefill time over the prompt length."),
        ("fig11.svg", "plot survey-fig11", "Figure 11: decode memory over the context."),
        (
            "fig16.svg",
            "plot survey-fig16",
            "Figure 16: what fused attention saves. The published bars come from a version of the "
            "survey's tool that counted K or V, not both (`--accounting survey-2024-04`); beside "
            "them the exact count.",
        ),
        ("fig18.svg", "plot survey-fig18", "Figure 18: roofline of offloading."),
        ("fig19.svg", "plot survey-fig19", "Figure 19: throughput, step time and memory, W8A8KV8."),
        ("fig20.svg", "plot survey-fig20", "Figure 20: effect of the memory bandwidth."),
    ],
}

HEAD = """\
# Gallery

Every picture here is made by the command above it. `python docs/tools/gallery.py` makes all of
them anew. `-o` also takes `.pdf` and `.png`, and for graphs `.html`, `.dot`, `.mmd`, `.json` and
`.graphml`; `--width column` makes figures for a text column of 3.3 in. A picture
leads to its file at full size.

JSON and GraphML of a graph hold every operation with its shapes, its exact FLOP and bytes and the
bytes of each operand as expressions over the symbols that they explain; with `--on` and sizes also
as numbers, with times. In a difference that is what stood before a pass, and of created operations
what stands after it; what a pass changed also has `flops_expression_after` and so on, and what it
created of the operations in a frame stands in the graph's `created_flops_expression` and so on, by
the frame's id. Expressions are in sympy's syntax, which is Python's: `+ - * / **`, and
functions such as `Min`, `Max`, `floor` and `ceiling`. Fractions are exact. A parser needs to be
told the names of `symbols`, since sympy itself means something else by `S` or `N`:
`parse_expr(text, {"S": Symbol("S"), …})`.

Graphs need the program `dot` of Graphviz, or `pip install 'costgraph[draw]'` for `.svg` and
`.html`. Figures need `pip install 'costgraph[plot]'`.
"""

SURVEY = """\
The figures of "LLM Inference Unveiled" (arXiv 2402.16363) that show numbers. Settings are those of
the captions; costs are counted by `--accounting survey`. Figures 1–4, 10, 12–15 and 17 are
diagrams without data and are not made.
"""


def page() -> str:
    """The text of docs/gallery.md."""
    parts = [HEAD]
    for section, pictures in GALLERY.items():
        parts.append(f"\n## {section}\n")
        if section == "Figures of the survey":
            parts.append("\n" + SURVEY)
        for file, command, caption in pictures:
            parts.append(
                f"\n{caption}\n\n```sh\n{shell(command, file)}\n```\n\n"
                f"[![{caption.split('.')[0]}](gallery/{file})](gallery/{file})\n"
            )
    return "".join(parts)


def shell(command: str, file: str) -> str:
    """The command as it is typed; braces are quoted."""
    return shlex.join(["costgraph", *shlex.split(command), "-o", file])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the page alone")
    only_page = parser.parse_args().page
    if not only_page:
        FOLDER.mkdir(exist_ok=True)
        for pictures in GALLERY.values():
            for file, command, _ in pictures:
                costgraph([*shlex.split(command), "-o", str(FOLDER / file)])
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
