"""The low band is no bound: said wherever one of its times is shown, and nowhere else."""

from __future__ import annotations

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.timing.fidelity.said import BELOW

ON = ("llama-3.2-1b", "--on", "a6000")
COMMANDS = {
    "formula": ("formula", *ON),
    "value": ("formula", *ON, "--at", "B=1,T=99"),
    "analyze": ("analyze", *ON, "-T", "99"),
    "compare": ("compare", *ON, "-S", "9", "-N", "3"),
    "explain": ("explain", *ON, "--at", "B=1,T=99"),
    "solve": ("solve", *ON, "--budget", "20 ms", "-T", "99"),
    "sweep": ("sweep", *ON, "-B", "1,2", "-T", "99"),
}
FORMATS = ("text", "json", "csv")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_format_says_that_the_low_band_is_no_bound(name, capsys):
    for form in FORMATS:
        for fidelity in ("low", "median"):
            asked = [*COMMANDS[name], "--fidelity", fidelity, "--format", form]
            assert main(asked) == 0
            assert (BELOW in capsys.readouterr().out) == (fidelity == "low"), (form, fidelity)


@pytest.mark.parametrize("device", ["a6000", "m2-ultra"])
def test_a_setting_says_it_of_times_and_not_of_amounts(device):
    made = cg.compile("llama-3.2-1b", device, fidelity="low")
    assert BELOW in made.tpot.setting.cautions
    assert BELOW not in made.memory.setting.cautions
    for fidelity in ("ideal", "high"):
        assert BELOW not in cg.compile("llama-3.2-1b", device, fidelity=fidelity).setting.cautions


def test_a_figure_says_it():
    plot = pytest.importorskip("costgraph.showing.plot")
    table = cg.compare("llama-3.2-1b", "a6000", "fuse", S=9, N=3, fidelity="low")
    figure = plot.waterfall(table)
    said = [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]
    assert any("low band" in " ".join(text.split()) for text in said)
