"""Examples of every command, as its ``--help`` shows them; each is a command that parses."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

#: Commands of the line ``costgraph --help``.
FIRST = (
    "formula llama-2-7b --on a6000",
    "formula llama-2-7b --on a6000 --at B=1,T=2048",
    "analyze llama-2-7b --on a6000 --batch 1 --context 2048",
    "compare llama-3-8b --on h100,h200 --passes '' --passes fuse --prompt 1024 --generate 256",
    "models",
    "hardware",
    "passes",
)
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "formula": (
        "formula llama-2-7b --on a6000",
        "formula llama-2-7b --on a6000 --at B=1,T=2048",
        "formula llama-3-70b --on h100 --metric latency --format latex",
        "formula dit-xl-2 --on h100 --metric latency --set K=20 --detail summary",
    ),
    "analyze": (
        "analyze llama-2-7b --on a6000 -T 2048",
        "analyze llama-3-8b --on h100 --phase prefill -B 4 -S 1024 --json",
        "analyze dit-xl-2 --on h100 --phase denoise -B 4 --format csv",
    ),
    "compare": (
        "compare llama-3-8b --on h100,h200 --passes '' --passes fuse -S 1024 -N 256",
        "compare dit-xl-2 --on h100 --passes '' --passes fuse --set K=20",
        "compare llama-3-8b --on h100 --passes '' --passes fuse -o compare.svg",
        "compare llama-3-8b --on h100 --passes 'fuse,quantize{weights=int4}' -o f.svg --waterfall",
        "compare llama-3-70b --on h200 --passes fuse --beside llama-3-8b:N=512",
    ),
    "explain": (
        "explain llama-3-8b --on h100 --passes fuse -B 32 -T 4096",
        "explain llama-3-8b --on h100 --metric ttft --at B=8,S=2048",
    ),
    "regimes": (
        "regimes llama-2-7b --on a6000 -T 2048",
        "regimes llama-2-7b --on a6000 --metric ttft --over B,S",
        "regimes llama-2-7b --on a6000 -T 2048 --show elasticity --format csv",
    ),
    "solve": (
        "solve llama-3-8b --on h100 --budget '20 ms' -T 4096",
        "solve llama-3-8b --on h100 --metric memory --budget '70 GB' -S 4096 -N 512",
        "solve llama-3-8b --on h100 --budget '20 ms' --over T -B 8",
        "solve llama-3-8b --on h100 --budget '20 ms' -T 4096 --format latex --label tab:batch",
    ),
    "wins": (
        "wins llama-3-8b --on h100 --passes fuse --passes 'fuse,speculative{draft=llama-3.2-1b}' "
        "-T 2048",
        "wins llama-3-8b --on h100,mi300x --passes fuse -T 2048",
    ),
    "reliability": (
        "reliability vgg-16 --on edge-3x-gtx-1080-ti --passes fuse,split-rows -B 1 --channel "
        "'exponential:1.25 GB/s' --deadline '4 ms'",
    ),
    "sweep": (
        "sweep llama-2-7b --on a6000,h100 --passes '' --passes fuse -B 1:256:x2 -T 512,1024",
        "sweep llama-3-8b --on h100 -B 1,8 -S 1024 -N 256 --metric latency,throughput -o out.csv",
        "sweep dit-xl-2 --on h100 -B 1:8 --set K=10:50:10 --metric latency",
    ),
    "search": (
        "search llama-3-8b --on h100,a100 --passes fuse --limit tpot=20ms",
        "search llama-3-70b --on 8xh100 --passes fuse --degrees tp,dp -S 2000 --limit tpot=20ms",
    ),
    "serve-plan": (
        "serve-plan llama-3.1-8b --on h100 --rate 8 -S 1024 -N 256 --ttft 500ms --tpot 30ms",
        "serve-plan llama-3.1-8b --on h100,l40s --rate 8 -S lognormal:1024:1 -N 256 "
        "--ttft 500ms --tpot 30ms",
    ),
    "serve-simulate": (
        "serve-simulate llama-3.1-8b --on h100 --rate 4 -S 1024 -N 256 --requests 200",
        "serve-simulate llama-3.1-8b --on h100 --closed 16 -S 1024 -N 256 --timeline load.svg",
    ),
    "draw": (
        "draw llama-2-7b -o graph.svg",
        "draw llama-2-7b --on a6000 -B 1 -T 2048 -o decode.svg",
        "draw llama-3-70b --passes fuse,speculative --diff -o diff.html",
    ),
    "plot": (
        "plot roofline llama-2-7b --on a6000 -S 2048 --passes fuse -o roofline.svg",
        "plot curve llama-3-70b --on h100 --metric ttft -S 16:8192 -o ttft.pdf",
        "plot map llama-3-70b --on h100 --passes fuse -B 1:4096 -T 128:131072 -o map.svg",
        "plot survey-fig7 -o fig7.svg",
    ),
    "report": (
        "report llama-3-70b --on h100 --passes '' --passes fuse -o report.html",
        "report llama-3-8b --on h100,a100,l40s --passes 'fuse,quantize{weights=int4,bits=b}' "
        "-o report.html",
    ),
    "models": ("models", "models qwen3-8b", "models --format csv"),
    "hardware": ("hardware", "hardware h100", "hardware compare h100 mi300x tpu-v6e"),
    "passes": ("passes", "passes quantize", "passes --json"),
    "formats": ("formats", "formats nvfp4", "formats --on a100,h100", "formats --types"),
    "import": ("import model.onnx", "import model.pt2 --dims seq=S -B 1 -S 128"),
    "calibrate": (
        "calibrate --from timings.csv --device h100 -o h100.toml",
        "calibrate --this-machine -o this-machine.toml",
    ),
    "validate": ("validate --on this-machine.toml",),
    "explore": (
        "explore",
        "explore llama-3-70b --on 8xh100,8xh200 --passes '' --passes 'fuse,parallel{tp=8}'",
    ),
    "site": (
        "site -o site --models llama-3-8b,mixtral-8x7b --on h100,mi300x --passes '' --passes fuse",
    ),
    "completion": ("completion bash", "completion zsh", "completion fish"),
}


def show_examples(parser: argparse.ArgumentParser, examples: tuple[str, ...]) -> None:
    """Sets examples below a parser's help, behind what stands there."""
    lines = ["examples:", *(f"  costgraph {line}" for line in examples)]
    parser.epilog = "\n".join([*([parser.epilog.rstrip(), ""] if parser.epilog else []), *lines])
