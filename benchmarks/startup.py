"""Process start to the first formula, as a ratio to ``import sympy`` in the same run."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import sympy": "import sympy",
    "import costgraph": "import costgraph",
    "command line --help": "import sys; sys.argv=['costgraph','--help']\n"
    "from costgraph.cli import main\n"
    "try: main()\nexcept SystemExit: pass",
    "first formula of llama-2-7b": "import costgraph as cg\n"
    "str(cg.compile('llama-2-7b', 'a6000').tpot)",
}


def seconds(code: str) -> float:
    """Wall-clock seconds of one fresh interpreter running ``code``."""
    # As in an installation, whose modules are compiled once.
    usual = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=usual)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    runs = parser.parse_args().runs
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for code in COMMANDS.values():  # modules that were never loaded are compiled here
        seconds(code)
    for _ in range(runs):  # interleaved, so that drift hits all alike
        for name, code in COMMANDS.items():
            samples[name].append(seconds(code))
    base = statistics.median(samples["import sympy"])
    for name, values in samples.items():
        median = statistics.median(values)
        print(f"{name:30} {median * 1e3:8.1f} ms   {median / base:5.2f} x import sympy")


if __name__ == "__main__":
    main()
