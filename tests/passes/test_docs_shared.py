"""What docs/context.md tells of shared caches and segments comes out again."""

from __future__ import annotations

import re
from pathlib import Path

import costgraph as cg
from costgraph.counting.footprint import cache_bytes
from costgraph.symbols import B, T, q

TEXT = (Path(__file__).parents[2] / "docs" / "context.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| `(share-kv.*?)` \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE
)


def measured(passes: str) -> tuple[int, tuple[float, ...]]:
    compiled = cg.compile("llama-3.1-8b", "h100", passes)
    cache = cache_bytes(compiled.program.phase("decode").graph)
    parts = (
        compiled.tpot.evaluate(B=8, T=32768),
        compiled.ttft.evaluate(B=8, S=32768),
        cache.xreplace({B: 1, q: 1, T: 32768}),
    )
    return int(compiled.parameters), tuple(float(x) for x in parts)


def test_the_table_comes_out_again():
    found = ROW.findall(TEXT)
    assert len(found) == 3
    _, plain = measured("fuse")
    for passes, count, *told in found:
        many, parts = measured(f"fuse,{passes}")
        assert f"{many:,}" == count
        assert [f"{x / y:.3f}" for x, y in zip(parts, plain, strict=True)] == told


def test_what_is_written_first_changes_nothing():
    one, other = (cg.compile("llama-3.2-1b", "h100", p).program
                  for p in ("window,share-kv", "share-kv,window"))  # fmt: skip
    assert one.phases == other.phases
