"""Compiling and evaluating in a warm process."""

from __future__ import annotations

import argparse

from timing import median

import costgraph as cg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    runs = parser.parse_args().runs

    def compiled(model: str) -> object:
        return cg.compile(model, "h100").tpot

    compiled("llama-2-7b")
    for model in ("gpt2", "llama-2-7b", "llama-3-70b"):
        took = median(lambda m=model: compiled(m), runs)  # type: ignore[misc]
        print(f"compile {model:12} to tpot      {took * 1e3:8.2f} ms")
    whole = cg.compile("llama-3-70b", "h100")
    tpot, latency = whole.tpot, whole.latency
    tpot.evaluate(B=1, T=2048)
    latency.evaluate(B=1, S=1024, N=512)
    repeat = 1000
    took = median(lambda: [tpot.evaluate(B=1, T=2048) for _ in range(repeat)], runs) / repeat
    print(f"evaluate tpot                     {took * 1e6:8.2f} µs")
    took = (
        median(lambda: [latency.evaluate(B=1, S=1024, N=512) for _ in range(repeat)], runs) / repeat
    )
    print(f"evaluate a 512-token latency      {took * 1e6:8.2f} µs")


if __name__ == "__main__":
    main()
