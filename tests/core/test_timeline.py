"""A step over time: it takes as long as the formulas say, and lanes hold one thing at a time."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from itertools import pairwise

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import InputError

HOT = "fuse,active{neurons=0.1,rank=512,hot=0.3,curve=0.26:0.8}"
#: Layers, experts, layers of several kinds, expected parts, bodies at the same time, units,
#: links, an encoder, calibrated times.
CASES = {
    "dense": ("llama-3.2-1b", "h100", "fuse", "decode", {"B": 1, "T": 2048}, "ideal"),
    "calibrated": ("llama-3.2-1b", "h100", "fuse", "decode", {"B": 4, "T": 99}, "calibrated"),
    "kinds": ("jamba-v0.1", "h100", "", "decode", {"B": 2, "T": 300}, "ideal"),
    "exits": ("llama-3.2-1b", "h100", "fuse,early-exit", "decode", {"B": 8, "T": 100}, "ideal"),
    "devices": ("deepseek-v2-lite", "8xh200", "fuse,parallel{tp=4,dp=2}", "decode",
                {"B": 8, "T": 500}, "ideal"),
    "stages": ("llama-3.2-1b", "4xh100", "fuse,parallel{pp=4}", "prefill", {"B": 1, "S": 50},
               "ideal"),
    "edges": ("vgg-16", "edge-3x-gtx-1080-ti", "fuse,split-rows", "forward", {"B": 1}, "ideal"),
    "units": ("opt-1.3b", "rtx-4090+i9-13900k", HOT, "decode", {"B": 1, "T": 512}, "ideal"),
    "streamed": ("llama-3.2-1b", "rtx-4090+i9-13900k", "fuse,offload{weights=host}", "decode",
                 {"B": 1, "T": 512}, "ideal"),
    "encoder": ("t5-small", "h100", "", "encode", {"B": 1, "S": 100}, "ideal"),
}  # fmt: skip


def made(case):
    model, device, passes, phase, at, fidelity = CASES[case]
    compiled = cg.compile(model, device, passes, fidelity=fidelity)
    return compiled.timeline(phase, **at), compiled.breakdown(phase, **at)


@pytest.mark.parametrize("case", CASES)
def test_a_step_takes_as_long_as_its_formula_and_lanes_hold_one_thing(case):
    found, table = made(case)
    near = pytest.approx(table.totals["seconds"], rel=1e-9)
    assert found.seconds == near
    assert max(s.start + s.seconds for s in found.spans) == near
    lanes = defaultdict(list)
    for span in found.spans:
        lanes[span.lane].append(span)
    for spans in lanes.values():
        # Those of one lane follow one another or lie within one another.
        open_ = []
        for span in spans:
            slack = 1e-9 * found.seconds
            while open_ and open_[-1] <= span.start + slack:
                open_.pop()
            assert not open_ or span.start + span.seconds <= open_[-1] + slack, span
            open_.append(span.start + span.seconds)
    assert (len(lanes) > 1) == (case in ("edges", "units", "streamed"))
    # Also of several lanes, as the file has them: one after the other as they begin.
    assert [s.start for s in found.spans] == sorted(s.start for s in found.spans)
    stamps = [e["ts"] for e in found.chrome()["traceEvents"] if e["ph"] == "X"]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("case", ["dense", "kinds", "devices", "units"])
def test_every_execution_of_an_operation_is_there(case):
    found, table = made(case)
    times, seconds = defaultdict(int), defaultdict(float)
    for span in found.spans:
        if span.row is not None:
            times[span.name] += 1
            seconds[span.name] += span.seconds
    for row in table:
        if row.seconds:
            assert times[row.name] == row.count
            assert seconds[row.name] == pytest.approx(row.count * row.seconds, rel=1e-9)


def test_layers_of_several_kinds_stand_in_the_order_in_which_they_run():
    found, _ = made("kinds")
    layers = [s for s in found.spans if s.row is None]
    assert [int(s.name.split()[-1]) for s in layers] == list(range(1, 33))
    assert len({s.name.rsplit(" ", 1)[0] for s in layers}) > 1
    assert all(a.start < b.start for a, b in pairwise(layers))


def test_the_trace_is_what_viewers_read_and_says_what_it_is_about():
    found, table = made("units")
    trace = found.chrome()
    events = trace["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X"}
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = [e for e in events if e["ph"] == "X"]
    assert {e["tid"] for e in spans} == set(threads)
    assert any(name.endswith(": cold") for name in threads.values())
    places = {e["tid"]: e["args"]["sort_index"] for e in events if "sort_index" in e["args"]}
    assert sorted(threads, key=places.__getitem__) == list(dict.fromkeys(e["tid"] for e in spans))
    types = {"name": str, "cat": str, "pid": int, "tid": int, "ts": float, "dur": float}
    assert all(type(e[key]) is kind for e in spans for key, kind in types.items())
    assert max(e["ts"] + e["dur"] for e in spans) == pytest.approx(1e6 * table.totals["seconds"])
    # Viewers read thousandths, written without an exponent, and cut them: what lies within
    # something else does so in whole nanoseconds as well.
    inside = defaultdict(list)
    for e in json.loads(json.dumps(spans)):
        assert all(re.fullmatch(r"\d+\.\d{1,3}", repr(e[key])) for key in ("ts", "dur"))
        begin = round(1000 * e["ts"])
        end, around = begin + round(1000 * e["dur"]), inside[e["tid"]]
        while around and around[-1] <= begin:
            around.pop()
        assert not around or end <= around[-1]
        around.append(end)
    assert [e["args"]["seconds"] for e in spans] == [s.seconds for s in found.spans]
    about = trace["otherData"]
    assert about["phase"] == "decode"
    assert about["fidelity"] == "ideal"
    assert about["assumptions"]


def test_groups_in_several_stages_are_no_timeline_of_one_step():
    compiled = cg.compile("llama-3.2-1b", "4xh100", "fuse,parallel{pp=4,micro=4}")
    with pytest.raises(InputError, match="several stages at once"):
        compiled.timeline("decode", B=4, T=100)


def test_the_command_writes_a_trace_or_nothing(tmp_path, capsys):
    asked = ["analyze", "llama-3.2-1b", "--on", "h100", "--context", "64", "--timeline"]
    assert main([*asked, str(tmp_path / "step.json")]) == 0
    assert json.loads((tmp_path / "step.json").read_text())["traceEvents"]
    assert "q_proj" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main([*asked, str(tmp_path / "step.txt")])
    assert left.value.code == 2
    assert ".json" in capsys.readouterr().err
    assert not (tmp_path / "step.txt").exists()
