"""How surely deadlines are kept where a link's rate is random: closed forms against drawn rates."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from sympy import Rational, sympify

import costgraph as cg
from costgraph.asking.channels import parse
from costgraph.asking.reliability import Exponential, LogNormal, Rayleigh, Uniform
from costgraph.cli import main
from costgraph.errors import HardwareError, InputError, UnboundSymbolError
from costgraph.showing.export.reliability import reliability_text
from costgraph.units import parse_quantity

DRAWS = 100_000
#: A channel, and how its rates are drawn.
CHANNELS = {
    "uniform": (Uniform("2 GB/s", "30 GB/s"), lambda g: g.uniform(2e9, 30e9, DRAWS)),
    "exponential": (Exponential("10 GB/s"), lambda g: g.exponential(10e9, DRAWS)),
    "lognormal": (LogNormal("8 GB/s", 0.7), lambda g: 8e9 * np.exp(0.7 * g.normal(size=DRAWS))),
    "rayleigh": (
        Rayleigh("10 GHz", 100),
        lambda g: 10e9 * np.log2(1 + 100 * g.exponential(size=DRAWS)) / 8,
    ),
}


@pytest.fixture(scope="module")
def away():
    return cg.compile("gpt2", "a6000+i9-13900k", "fuse,offload{weights=host}")


@pytest.mark.parametrize("name", CHANNELS)
def test_closed_forms_are_the_shares_of_drawn_rates(away, name):
    channel, draw = CHANNELS[name]
    found = cg.reliability(away, "pcie", channel, "tpot", B=4, T=100)
    times = found.time.evaluate(BW_pcie=draw(np.random.default_rng(3)))
    for deadline in np.quantile(times, [0.1, 0.5, 0.9, 0.99]):
        assert found.at(float(deadline)) == pytest.approx((times <= deadline).mean(), abs=0.006)
    assert found.within(0.9) == pytest.approx(np.quantile(times, 0.9), rel=0.02)
    assert found.at(found.within(0.7)) == pytest.approx(0.7, abs=1e-6)
    # Pieces follow one another, and agree where they meet.
    for a, b in zip(found.pieces, found.pieces[1:], strict=False):
        assert a.upper == b.lower
        ends = [float(p.rate.xreplace({found.deadline: a.upper})) for p in (a, b)]
        assert ends[0] == pytest.approx(ends[1], rel=1e-9)
    assert found.at(1e-9) == 0
    assert "one rate a task" in str(found)
    assert "99% within" in str(found)


def test_questions_without_an_answer_are_refused(away):
    channel = Exponential("10 GB/s")
    with pytest.raises(InputError, match="nothing waits for it"):
        cg.reliability(cg.compile("gpt2", "a6000+i9-13900k"), "pcie", channel, "tpot", B=1, T=9)
    with pytest.raises(HardwareError, match="no link"):
        cg.reliability(away, "nvlink9", channel, B=1)
    with pytest.raises(UnboundSymbolError, match="T"):
        cg.reliability(away, "pcie", channel, "tpot", B=1)
    with pytest.raises(InputError, match="'memory' is no time"):
        cg.reliability(away, "pcie", channel, "memory", B=1)
    with pytest.raises(InputError, match="low is below high"):
        cg.reliability(away, "pcie", Uniform("2 GB/s", "1 GB/s"), "tpot", B=1, T=9)
    found = cg.reliability(away, "pcie", channel, "tpot", B=1, T=9)
    with pytest.raises(InputError, match="between 0 and 1"):
        found.within(1)
    with pytest.raises(InputError, match="deadline"):
        found.at("3 GB")


#: Channels as text, and what each is.
WRITTEN = {
    "uniform:2 GB/s, 30 GB/s": Uniform("2 GB/s", "30 GB/s"),
    "exponential:10 GB/s": Exponential("10 GB/s"),
    "lognormal:8 GB/s,0.7": LogNormal("8 GB/s", 0.7),
    "rayleigh:10 GHz,100": Rayleigh("10 GHz", 100),
    "rayleigh:10 GHz,20 dB": Rayleigh("10 GHz", 100),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_channel_of_its_text_is_the_same(away, text):
    written, made = parse(text), WRITTEN[text]
    for probability in (0.01, 0.5, 0.99):
        assert written.exceeded(probability) == pytest.approx(made.exceeded(probability))
    found = cg.reliability(away, "pcie", text, "tpot", B=4, T=100)
    assert found.within(0.9) == cg.reliability(away, "pcie", made, "tpot", B=4, T=100).within(0.9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exponentiel:1 GB/s", "unknown 'exponentiel'; did you mean 'exponential'"),
        ("exponential", "exponential has mean: write exponential:MEAN"),
        ("uniform:1 GB/s", "uniform has low and high"),
        ("uniform:2 GB/s,1 GB/s", "low is below high"),
        ("lognormal:1 GB/s,-1", "sigma is positive"),
        ("rayleigh:1 GHz,9999 dB", "no ratio of powers"),
        ("exponential:3 kg", "kg"),
    ],
)
def test_texts_that_are_no_channel_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse(text)


def test_the_command_says_what_python_does(away, capsys):
    line = ["reliability", "gpt2", "--on", "a6000+i9-13900k", "--passes",
            "fuse,offload{weights=host}", "--link", "pcie", "--channel", "exponential:10 GB/s",
            "--metric", "tpot", "--at", "B=4,T=100"]  # fmt: skip
    found = cg.reliability(away, "pcie", Exponential("10 GB/s"), "tpot", B=4, T=100)
    deadline = f"{1e3 * found.within(0.8):.12g} ms"
    assert main([*line, "--deadline", deadline, "--within", "0.95"]) == 0
    text = capsys.readouterr().out
    assert "  80% within" in text
    assert "  95% within" in text
    assert "kept at most as often" in text  # a time is a lower bound
    assert main([*line, "--deadline", deadline, "--within", "0.95", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["deadlines"][0]["probability"] == pytest.approx(0.8, abs=1e-6)
    assert made["within"] == [{"probability": 0.95, "seconds": found.within(0.95)}]
    assert len(made["pieces"]) == len(found.pieces)
    (last, *_) = reversed(made["pieces"])
    kept = sympify(last["probability"]).subs("D", 1)
    assert float(kept) == pytest.approx(found.at(1.0))
    assert main(line) == 0
    assert str(found) == capsys.readouterr().out.rstrip("\n")


#: A number as formulas are printed, and what its suffix stands for.
NUMBER = r"([\d./e+-]+)([MGTP]?)"
LINE = re.compile(rf"  (.+?) < D(?: <= (.+))?: P\(\w+ >= {NUMBER} / \(D(?: - ([\d.e-]+))?\)\)$")
#: Programs whose time hardly depends on a link, or much.
WAITING = [
    ("gpt2", "a6000+i9-13900k", "fuse,offload{weights=host}", "pcie", "tpot", {"B": 4, "T": 100}),
    ("gpt2", "a6000+i9-13900k", "fuse,offload{weights=host:0.001,overlap=false}", "pcie", "tpot",
     {"B": 4, "T": 100}),
    ("llama-3.2-1b", "a6000+i9-13900k", "fuse,host-io", "pcie", "latency",
     {"B": 2, "S": 64, "N": 4}),
    ("vgg-16", "edge-3x-gtx-1080-ti", "fuse,split-rows", "network", "latency", {"B": 4}),
]  # fmt: skip


@pytest.mark.parametrize("case", WAITING, ids=lambda c: c[2])
def test_printed_formulas_give_the_numbers_that_are_printed(case):
    """However little of a deadline is the link's: ``D − A`` may be a millionth of ``D``."""
    model, system, passes, link, metric, at = case
    made = cg.compile(model, system, passes)
    for channel in ("exponential:1 GB/s", "lognormal:20 GB/s,2"):
        printed_is_meant(cg.reliability(made, link, channel, metric, at))


def printed_is_meant(found):
    """Reads the formulas that are printed, and puts in the deadlines that are printed."""
    asked = [found.within(p) for p in (0.6, 0.8)]
    text = reliability_text(found, [f"{x:.15g} s" for x in asked], (0.5, 0.9, 0.999))
    pieces = []
    for line in filter(None, map(LINE.match, text.splitlines())):
        low, high, share, suffix, steady = line.groups()
        size = float(Rational(share)) * {"": 1, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[suffix]
        ends = [float(parse_quantity(x, "time", "")) if x else float("inf") for x in (low, high)]
        pieces.append((*ends, size, float(steady or 0)))
    assert len(pieces) == len(found.pieces)
    shown = re.findall(r"^  ([\d.]+)% within (.+)$", text, re.MULTILINE)
    assert len(shown) == 5
    told = 0
    for percent, deadline in shown:
        seconds = float(parse_quantity(deadline, "time", ""))
        if seconds < pieces[0][0] * (1 + 1e-6):
            continue  # the shortest time there is, which many rates give
        told += 1
        size, steady = next(p[2:] for p in reversed(pieces) if seconds > p[0])
        rate = Rational(str(size)) / Rational(repr(seconds - steady))
        kept = float(found.channel.survival(rate))
        assert 100 * kept == pytest.approx(float(percent), rel=3e-3, abs=0.02)
    assert told >= 2


def test_ends_of_deadlines_that_lie_close_are_told_apart(away):
    found = cg.reliability(away, "pcie", Exponential("10 GB/s"), "tpot", B=4, T=100)
    (piece, *_) = found.pieces
    first, second = Rational(21080012, 10**10), Rational(21080039, 10**10)
    close = replace(piece, lower=first, upper=second)
    text = reliability_text(replace(found, pieces=(close, replace(piece, lower=second))))
    assert "  2.108001 ms < D <= 2.108004 ms:" in text
    assert "  2.108004 ms < D" in text


def test_a_link_that_nobody_names_is_asked_for(capsys):
    line = ["reliability", "gpt2", "--on", "a6000+i9-13900k", "--channel", "exponential:10 GB/s"]
    with pytest.raises(SystemExit):
        main([*line, "--at", "B=4,S=9,N=9"])
    assert "--link" in capsys.readouterr().err
