"""Compiling and evaluating in a warm process: one device, and systems as multiples of it."""

from __future__ import annotations

import argparse

from timing import median

import costgraph as cg

SYSTEMS = (
    ("llama-3-70b", "h100", "8xh100", "parallel{tp=8}"),
    ("llama-3-70b", "h100", "8xh100", "parallel{pp=8,micro=8}"),
    ("llama-3-70b", "h100", "8xh100", "parallel{tp=8},overlap"),
    ("deepseek-v3", "h200", "2x8xh200", "parallel{ep=16,dp=16}"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    runs = parser.parse_args().runs

    def compiled(model: str, hardware: str = "h100", passes: str = "") -> cg.Formula:
        return cg.compile(model, hardware, passes).tpot

    compiled("llama-2-7b")
    for model in ("gpt2", "llama-2-7b", "llama-3-70b"):
        took = median(lambda m=model: compiled(m), runs)  # type: ignore[misc]
        print(f"compile {model:12} to tpot      {took * 1e3:8.2f} ms")
    for model, device, system, passes in SYSTEMS:
        compiled(model, system, f"fuse,{passes}")
        one = median(lambda m=model, d=device: compiled(m, d, "fuse"), runs)  # type: ignore[misc]
        took = median(
            lambda m=model, s=system, p=f"fuse,{passes}": compiled(m, s, p),  # type: ignore[misc]
            runs,
        )
        print(f"compile {model:12} on {system:8} {took * 1e3:8.2f} ms, ", end="")
        print(f"{took / one:5.2f} × one device  {passes}")
    whole = cg.compile("llama-3-70b", "h100")
    tpot, latency = whole.tpot, whole.latency
    tpot.evaluate(B=1, T=2048)
    latency.evaluate(B=1, S=1024, N=512)
    repeat = 1000
    took = median(lambda: [tpot.evaluate(B=1, T=2048) for _ in range(repeat)], runs) / repeat
    print(f"evaluate tpot                     {took * 1e6:8.2f} µs")
    for passes in (
        "fuse,parallel{tp=8}",
        "fuse,parallel{tp=8},overlap{by=halves}",
        "fuse,parallel{pp=8,micro=8}",
    ):
        nested = cg.compile("llama-3-70b", "8xh100", passes).tpot
        nested.evaluate(B=8, T=2048)
        many = median(lambda f=nested: [f.evaluate(B=8, T=2048) for _ in range(repeat)], runs)  # type: ignore[misc]
        print(f"evaluate tpot, nested             {many / repeat * 1e6:8.2f} µs, ", end="")
        print(f"{many / repeat / took:5.2f} × flat  {passes}")
    took = (
        median(lambda: [latency.evaluate(B=1, S=1024, N=512) for _ in range(repeat)], runs) / repeat
    )
    print(f"evaluate a 512-token latency      {took * 1e6:8.2f} µs")


if __name__ == "__main__":
    main()
