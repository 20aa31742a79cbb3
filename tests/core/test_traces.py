"""Traces of requests: what a file says, and what of it is doubted or refused."""

from __future__ import annotations

import json

import pytest

from costgraph.asking.serving import Request, read_trace, trace_of
from costgraph.cli import main
from costgraph.errors import InputError

pytest.importorskip("simpy")


def test_traces_are_read_and_wrong_ones_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("timestamp,input,output\n10.5,100,20\n10,50,3\n")
    assert read_trace(path) == (Request(0.0, 50, 3), Request(0.5, 100, 20))
    for text, what in (
        ("timestamp,input\n1,2\n", "no column output; it has 'timestamp, input'$"),
        ("timestamp;input;output\n1;2;3\n", "columns of a CSV are apart by commas"),
        ("timestamp,input,output\n1,x,3\n", "line 2"),
        ("timestamp,input,output\n1,2.5,3\n", "whole tokens"),
        ("timestamp,input,output\n1,2\n", "too few"),
        ("timestamp,input,output\n", "one per request"),
        ("timestamp,input,output\n\n  \n", "one per request"),
        ("", "one per request"),
        ("timestamp,input,output\n1,-2,3\n", "line 2: lengths are whole tokens, at least one"),
        ("timestamp,input,output\n1,2,0\n", "line 2: lengths are whole tokens, at least one"),
        ("timestamp,input,output\n\n1,inf,3\n", "line 3: input: 'inf' is not a number"),
        ("timestamp,input,output\nnan,2,3\n", "line 2: arrival: 'nan' is neither"),
        ("timestamp,input,output\n2024-13-01 00:00,2,3\n", "line 2: arrival"),
        ("timestamp,input,output,prompt\n1,2,3,4\n", "which column is input"),
        ("timestamp,input,output\n1,2,3\n2024-05-12 00:00,2,3\n", "line 3.*the first is seconds"),
        (
            "timestamp,input,output\n2024-05-12 00:00,2,3\n2024-05-12T00:01Z,2,3\n",
            "line 3.*a date with a zone, the first is a date without",
        ),
        (f"timestamp,input,output\n1,2,3,{'x' * 200_000}\n", "line 2: not a CSV table: field"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=what):
            read_trace(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_a_trace_end_as_their_writer_ends_them(tmp_path, end):
    path = tmp_path / "t.csv"
    path.write_bytes(end.join(("timestamp,input,output", "1,100,20", "2,50,3", "")).encode())
    assert read_trace(path) == (Request(0.0, 100, 20), Request(1.0, 50, 3))


@pytest.mark.parametrize(
    "times",
    [
        ("-5", "-1.5"),
        ("1700000000000.25", "1700000000003.75"),
        ("2023-11-16 18:15:46.25", "2023-11-16 18:15:49.75"),
        ("2023-11-16T18:15:46.2500000Z", "2023-11-16T18:15:49.7500000Z"),
    ],
)
def test_times_of_a_trace_count_from_its_start(tmp_path, times):
    """Whatever the start, and exactly."""
    path = tmp_path / "t.csv"
    for order in (times, times[::-1]):
        rows = (f"{t},{7 + times.index(t)},3\n" for t in order)
        path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(rows))
        assert read_trace(path) == (Request(0.0, 7, 3), Request(3.5, 8, 3))


def test_traces_say_what_is_cached(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("timestamp,input,output,cached_tokens\n0,100,20,64\n1,50,3,0\n")
    assert read_trace(path) == (Request(0.0, 100, 20, 64), Request(1.0, 50, 3))
    path.write_text("timestamp,input,output,cached\n0,100,20,100\n")
    with pytest.raises(InputError, match="line 2: cached tokens"):
        read_trace(path)


@pytest.mark.parametrize(
    ("arrivals", "said"),
    [
        (("0", "0.004", "3.5"), ""),
        (("0", "4", "19.9"), ""),
        (("0", "4", "20.1"), "10.05 s on average, over 10 s"),
        (("0", "250", "99000"), "milliseconds, divide them by 1000"),
        (("1700000000000", "1700000000001", "1700000000004"), "first, 1.7e+12 s, is after"),
        (("1700000000", "1700000000.25", "1700000001"), ""),
        (("2023-11-16 18:15:46", "2023-11-16 18:15:47", "2023-11-17 18:15:47"), ""),
        (("7", "7", "7"), ""),
    ],
)
def test_a_trace_that_may_be_in_milliseconds_is_doubted(tmp_path, arrivals, said):
    path = tmp_path / "t.csv"
    path.write_text("time,input,output\n" + "".join(f"{a},9,3\n" for a in arrivals))
    trace = trace_of(path)
    assert said in trace.doubtful
    assert bool(trace.doubtful) == bool(said)
    assert (trace.rate is None) == (trace.span == 0)
    if trace.rate is not None:
        assert trace.rate * trace.span == pytest.approx(len(arrivals) - 1)


def test_the_command_says_how_long_a_trace_is_and_how_fast(capsys, tmp_path):
    path = tmp_path / "t.csv"
    line = ["serve-simulate", "llama-3.2-1b", "--on", "h100", "--trace", str(path)]
    path.write_text("time,input,output\n0,9,3\n500,9,3\n30000,9,3\n")
    assert main([*line, "--limit", "2"]) == 0
    told = capsys.readouterr().out
    assert "over 3e+04 s, requests/s 6.66667e-05, chunked 2048, 2 seqs" in told
    assert "\narrivals of the trace are read as seconds, and from one request to the next" in told
    assert "1 server busy below 0.1%" in told
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arrivals"]["trace_seconds"] == 30000
    assert any("milliseconds" in x for x in found["cautions"])
    path.write_text("time,input,output\n0,9,3\n")
    assert main([*line, "--limit", "1"]) == 0
    told = capsys.readouterr().out
    assert "over one moment, chunked 2048, 1 seq," in told
    assert "\n1 request in " in told
    assert "milliseconds" not in told
