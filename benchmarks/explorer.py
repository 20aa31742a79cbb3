"""The explorer in a browser: times to answer, to print and of a slider, numbers against Python's.

Needs the extras ``explore`` and ``report-test`` and a Chromium (or the variable ``CHROMIUM``).
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import socket
import statistics
import threading
import time
from typing import Any
from urllib.parse import urlencode

import uvicorn
from playwright.sync_api import sync_playwright

import costgraph as cg
from costgraph.errors import CostgraphError
from costgraph.showing.explorer.catalog import Start
from costgraph.showing.explorer.server import application

CASES = (
    ("llama-3-8b", "h100", ""),
    ("llama-3-8b", "h100", "fuse"),
    ("llama-3-70b", "8xh100", "fuse,parallel{tp=8}"),
    ("llama-3.2-1b", "rtx-4090", "fuse,quantize{weights=int4}"),
    ("mistral-7b", "a100", "fuse,quantize{preset=w8a8}"),
    ("mixtral-8x7b", "8xh100", "fuse,parallel{tp=8}"),
    ("deepseek-v3", "8xh200", "fuse,parallel{tp=8}"),
    ("deepseek-v2-lite", "l40s", "fuse"),
    ("qwen3-30b-a3b", "h200", "fuse,page-kv"),
    ("qwen2.5-vl-7b", "h100", "fuse"),
    ("gemma-2-9b", "tpu-v5e", ""),
    ("gpt2", "a6000", "fuse,speculative{draft=opt-125m,gamma=4,alpha=0.7}"),
    ("opt-125m", "t4", ""),
    ("mamba-2.8b", "mi300x", "fuse"),
    ("rwkv-4-7b", "a100", ""),
    ("jamba-v0.1", "8xh100", "fuse,parallel{tp=8}"),
    ("whisper-large-v3", "l4", "fuse"),
    ("t5-base", "a10g", ""),
    ("bert-base", "v100", ""),
    ("dit-xl-2", "h100", "fuse"),
    ("sdxl-unet", "h100", ""),
    ("vit-base-16", "rtx-3090", "fuse"),
)
METRICS = (
    "ttft", "tpot", "latency", "throughput", "memory", "flops", "bytes", "energy",
    "energy_per_token", "cost_per_token",
)  # fmt: skip
SLIDE = """async steps => {
  const slider = document.getElementById('value-B-slider');
  const frame = () => new Promise(r => requestAnimationFrame(() => r()));
  const numbers = [], all = [];
  for (let i = 0; i < steps; i++) {
    slider.value = 1 + (i % 18);
    const start = performance.now();
    slider.dispatchEvent(new Event('input'));
    await frame();
    numbers.push(performance.now() - start);
    await frame();
    await new Promise(r => setTimeout(r));
    all.push(performance.now() - start);
  }
  return [numbers, all];
}"""


def served() -> tuple[str, uvicorn.Server, threading.Thread]:
    """A server in a thread, and the address of its page."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = application("benchmark", Start())
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/?token=benchmark", server, thread


def choose(page: Any, model: str, on: str, passes: str, values: dict[str, int]) -> float:
    """Shows a case; returns the seconds until its numbers stand."""
    pairs = [("model", model), ("on", on), ("passes", passes)]
    pairs += [(f"set.{k}", str(v)) for k, v in values.items()]
    begun = time.perf_counter()
    page.evaluate(
        "text => { delete document.documentElement.dataset.ready; location.hash = text; }",
        urlencode(pairs),
    )
    page.wait_for_selector("html[data-ready]", timeout=120_000)
    return time.perf_counter() - begun


def worst(page: Any, model: str, on: str, passes: str, values: dict[str, int]) -> tuple[int, float]:
    """How many metrics were compared with Python's, and the largest relative difference."""
    shown = page.eval_on_selector_all(
        "#cards [data-metric]",
        "all => Object.fromEntries(all.map(x => [x.dataset.metric, Number(x.dataset.value)]))",
    )
    compiled, found = cg.compile(model, on, passes), []
    for metric in METRICS:
        try:
            formula = getattr(compiled, metric)
        except CostgraphError:
            continue
        names = {s.name for s in formula.symbols}
        if metric in shown and names <= set(values):
            wanted = float(formula.evaluate(**{k: values[k] for k in names}))
            found.append(abs(shown[metric] - wanted) / abs(wanted))
    return len(found), max(found, default=math.inf)


def main() -> None:
    """Prints a line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few cases")
    quick = parser.parse_args().quick
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)))
    address, server, thread = served()
    first, largest, compared, slides = [], 0.0, 0, []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        begun = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("html[data-ready]")
        print(f"page opened and its first numbers: {time.perf_counter() - begun:.2f} s")
        print("first answer (CPU seconds of the server), formula, slider to numbers and to all")
        print("(medians), largest difference to Python")
        for model, on, passes in CASES[:4] if quick else CASES:
            values = {"B": 3, "S": 300, "N": 20, "T": 320, "K": 20, "G": 256}
            begun, before = time.perf_counter(), time.process_time()
            seconds = choose(page, model, on, passes, values)
            busy = time.process_time() - before
            page.wait_for_selector("#formula math", timeout=300_000)
            printed = time.perf_counter() - begun
            page.wait_for_selector("#graph svg", timeout=300_000)  # the server rests
            number, difference = worst(page, model, on, passes, values)
            numbers, everything = (statistics.median(x) for x in page.evaluate(SLIDE, 18))
            first.append(seconds)
            slides.append(everything)
            compared += number
            largest = max(largest, difference)
            print(
                f"  {model} on {on}, {passes or 'unmodified'}: {seconds:.2f} s ({busy:.2f}), "
                f"{printed:.2f} s, "
                f"{numbers:.0f} ms, {everything:.0f} ms, {number} metrics, {difference:.1e}"
            )
        chromium.close()
    server.should_exit = True
    thread.join(10)
    print(
        f"median first answer {statistics.median(first):.2f} s (largest {max(first):.2f}), "
        f"slider {statistics.median(slides):.0f} ms (largest {max(slides):.0f}); "
        f"{compared} numbers differ from Python's by {largest:.1e} at most"
    )
    if largest > 1e-9:
        raise SystemExit("numbers differ from Python's")


if __name__ == "__main__":
    main()
