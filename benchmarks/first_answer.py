"""CPU seconds of a command's process to its end, as a ratio to ``import sympy`` in the same run.

``cold``: the first time; ``known``: asked before (``costgraph/cli/answers.py``); ``other values``:
asked before at others (``costgraph/cli/cases.py``); a word completed by bash is counted without
the shell's own start.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = {
    "formula": ("formula", "llama-2-7b", "--on", "a6000"),
    "analyze": ("analyze", "llama-2-7b", "--on", "a6000", "--context", "2048"),
    "compare": ("compare", "llama-2-7b", "--on", "a6000", "--passes", "", "--passes", "fuse"),
}
#: The same question twice at different values.
OTHERS = {
    "formula --at": [("formula", "llama-2-7b", "--on", "a6000", "--at", f"B={n},T=2048")
                     for n in (1, 2)],
    "analyze -T": [("analyze", "llama-2-7b", "--on", "a6000", "-T", str(n)) for n in (99, 2048)],
    "compare -S": [(*COMMANDS["compare"], "-S", str(n)) for n in (99, 2048)],
}  # fmt: skip
#: Of an installation, whose modules are compiled once.
USUAL = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
#: What bash does when a name is completed, a hundred times.
TIMES = 100
COMPLETING = (
    "COMP_WORDS=(costgraph formula llama-2); COMP_CWORD=2\n"
    f"for ((i = 0; i < {TIMES}; i++)); do _costgraph; done"
)


def spent(command: list[str], **environment: str) -> float:
    """CPU seconds, of user and system, of one process and those that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**USUAL, **environment})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    own = [sys.executable, "-m", "costgraph"]
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for argv in COMMANDS.values():  # modules that were never loaded are compiled here
            spent([*own, *argv], COSTGRAPH_CACHE="")
        bash = shutil.which("bash")
        script = Path(folder) / "completion"
        if bash:
            script.write_text(
                subprocess.run([*own, "completion", "bash"], capture_output=True, text=True).stdout
            )
        for run in range(runs):  # interleaved, so that drift hits all alike
            place = str(Path(folder) / str(run))
            took = {"import sympy": spent([sys.executable, "-c", "import sympy"])}
            for name, argv in COMMANDS.items():
                for state in ("cold", "known"):
                    took[f"{name}, {state}"] = spent([*own, *argv], COSTGRAPH_CACHE=place)
            for name, (first, other) in OTHERS.items():
                spent([*own, *first], COSTGRAPH_CACHE=place)
                took[f"{name}, other values"] = spent([*own, *other], COSTGRAPH_CACHE=place)
            if bash:
                text = f". {script}\n"
                base = spent([bash, "--norc", "-c", text])
                done = spent([bash, "--norc", "-c", text + COMPLETING])
                took["a word completed"] = (done - base) / TIMES
            for name, value in took.items():
                samples.setdefault(name, []).append(value)
    base = statistics.median(samples["import sympy"])
    for name, values in samples.items():
        median = statistics.median(values)
        print(f"{name:26} {median * 1e3:8.1f} ms   {median / base:6.3f} x import sympy")


if __name__ == "__main__":
    main()
