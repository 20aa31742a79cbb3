"""A long run: ``python -m tests.fuzz --count 10000 --seed 1``.

Cases run in processes of their own, a few hundred in each, under a limit of memory.
Prints what is wrong with its seed; ``--kind K --only SEED`` runs one case again.
"""

from __future__ import annotations

import argparse
import collections
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.generators import KINDS
from tests.fuzz.harness import MEMORY, Outcome, case

#: Cases of one process.
BATCH = 200
#: Kinds that are quick, or where most is found: cases of them for each of another.
OFTEN = {"configs": 3, "pipelines": 4, "imports": 3, "sweeps": 2, "devices": 2}


def main() -> int:
    """The exit code: how many kinds of faults were found, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--kind", action="append", choices=sorted(KINDS))
    parser.add_argument("--only", metavar="SEED", help="one case of --kind")
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    given = parser.parse_args()
    kinds = given.kind or [k for k in sorted(KINDS) for _ in range(OFTEN.get(k, 1))]
    if given.only is not None:
        return _one(kinds[0], given.only)
    if given.batch is not None:
        return _batch(kinds, given.seed, *map(int, given.batch.split(":")))
    return _all(kinds, given.seed, given.count)


def _one(kind: str, seed: str) -> int:
    found = case(KINDS[kind], seed)
    print(found.arguments, found.code, f"{found.seconds:.1f} s", f"{found.memory / 1e6:.0f} MB")
    print(found.fault or "as it should be")
    return int(bool(found.fault))


def _batch(kinds: list[str], seed: str, first: int, last: int) -> int:
    """Some cases in this process; a line of JSON each."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY + 2**29, resource.RLIM_INFINITY))
    for index in range(first, last):
        kind = kinds[index % len(kinds)]
        name = f"{seed}.{index}"
        print(json.dumps({"begun": [kind, name]}), flush=True)
        found: Outcome = case(KINDS[kind], name)
        print(
            json.dumps({
                "kind": kind, "seed": name, "arguments": found.arguments, "fault": found.fault,
                "code": found.code, "seconds": found.seconds, "memory": found.memory,
            }), flush=True,
        )  # fmt: skip
    return 0


def _all(kinds: list[str], seed: str, count: int) -> int:
    start = time.monotonic()
    done, faults = 0, 0
    codes: collections.Counter[str] = collections.Counter()
    slowest: list[tuple[float, str, str]] = []
    todo = list(range(0, count, BATCH))
    ends = {first: min(count, first + BATCH) for first in todo}
    while todo:
        first = todo.pop(0)
        command = [sys.executable, "-m", "tests.fuzz", "--seed", seed]
        for kind in kinds:
            command += ["--kind", kind]
        process = subprocess.run(
            [*command, "--batch", f"{first}:{ends[first]}"], capture_output=True, text=True,
            errors="replace",
        )  # fmt: skip
        lines = [json.loads(x) for x in process.stdout.splitlines() if x.startswith("{")]
        results = [x for x in lines if "seed" in x]
        for x in results:
            codes[str(x["code"])] += 1
            slowest = sorted([*slowest, (x["seconds"], x["kind"], x["seed"])], reverse=True)[:10]
            if x["fault"]:
                faults += 1
                _tell(x["kind"], x["seed"], x["arguments"], x["fault"])
        done += len(results)
        if process.returncode != 0 or len(results) < ends[first] - first:
            faults += 1
            kind, name = lines[-1]["begun"] if lines and "begun" in lines[-1] else ("?", "?")
            _tell(kind, name, [], f"the process ended with {process.returncode}:\n"
                                  f"{process.stderr[-2000:]}")  # fmt: skip
            after = first + len(results) + 1
            if after < ends[first]:
                ends[after] = ends[first]
                todo.insert(0, after)
            done += 1
        print(f"{done} of {count} cases, {faults} faults, {time.monotonic() - start:.0f} s",
              file=sys.stderr, flush=True)  # fmt: skip
    print(f"\n{done} cases of {len(set(kinds))} kinds from seed {seed}: {faults} faults")
    print(f"exit codes {dict(codes)}; slowest:")
    for seconds, kind, name in slowest:
        print(f"  {seconds:6.1f} s  {kind}, {name}")
    return int(faults > 0)


def _tell(kind: str, seed: str, arguments: list[str], fault: str) -> None:
    print(f"=== {kind}, {seed}: {arguments}\n{fault}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
