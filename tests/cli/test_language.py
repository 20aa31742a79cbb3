"""Every command speaks one language: options, formats, examples, suggestions, and what is said."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from difflib import SequenceMatcher
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.cli.entry import MODULES, _build_parser
from costgraph.cli.examples import EXAMPLES, FIRST
from costgraph.cli.vocabulary import SIZES
from costgraph.errors import InputError
from tests.lines import refused
from tests.pages import run_examples

PARSER = _build_parser()
COMMANDS = next(a for a in PARSER._actions if a.choices).choices
#: What stands for each letter; a command that has a size has it under these names.
NAMES = {letter: [f"--{name}", f"-{letter}"] for letter, (name, _) in SIZES.items()}
#: Commands that write files or talk, and print no result.
SILENT = {"draw", "plot", "report", "explore", "serve", "site", "completion"}
#: Everything there is to say: a pass without effect, a device too small, a fidelity, a reserve.
SAID = ["llama-3.2-1b", "--on", "h100", "--reserve", "99%", "--passes", "fuse,quantize",
        "--fidelity", "calibrated"]  # fmt: skip
#: The same where it must fit.
FITS = [*SAID[:3], *SAID[5:]]
LINES = {
    "formula": [*SAID],
    "formula, its value": [*SAID, "--at", "B=1,T=99"],
    "analyze": [*SAID, "-T", "99"],
    "compare": [*SAID, "-S", "99", "-N", "9"],
    "explain": [*SAID, "-B", "1", "-T", "99"],
    "regimes": [*SAID, "-T", "99"],
    "solve": [*SAID, "-T", "99", "--budget", "0.5"],
    "wins": [*SAID, "--passes", "fuse", "-T", "99"],
    "sweep": [*SAID, "-S", "99", "-N", "9", "-T", "99"],
    "sweep, no memory": [*SAID, "-T", "99"],
    "search": [*SAID, "-S", "99", "-N", "9", "-B", "1:4"],
    "serve-plan": [*FITS, "--rate", "1", "-S", "99", "-N", "9", "--ttft", "1s", "--tpot", "1s",
                   "--devices", "1"],
    "serve-simulate": [*FITS, "--rate", "1", "-S", "99", "-N", "9", "--requests", "9"],
}  # fmt: skip
#: How each says that there is no room, in tables of several.
SMALL = {"compare": ("too large", '"fits": false', "False"),
         "sweep": (" no", '"fits": false', "False"),
         "search": ("855.2 MB at B=1", "855.2 MB at B=1", "855.2 MB at B=1")}  # fmt: skip


def run(capsys, *line: str) -> tuple[str, str]:
    assert main(list(line)) == 0
    found = capsys.readouterr()
    return found.out, found.err


def options(name: str) -> dict[str, list[str]]:
    return {a.dest: a.option_strings for a in COMMANDS[name]._actions if a.option_strings}


@pytest.mark.parametrize("name", COMMANDS)
def test_one_thing_has_one_name_and_one_short_form(name):
    found = options(name)
    for letter, (dest, _) in SIZES.items():
        if dest in found:
            assert found[dest] == NAMES[letter]
    if any(dest in found for dest, _ in SIZES.values()):
        assert "set" in found
    shorts = {s for strings in found.values() for s in strings if re.fullmatch("-[A-Za-z]", s)}
    assert shorts <= {"-h", "-o", *(f"-{letter}" for letter in SIZES)}
    formats = [a for a in COMMANDS[name]._actions if a.dest == "format"]
    assert bool(formats) == (name not in SILENT)
    if formats:
        assert [a.option_strings for a in formats] == [["--format"], ["--json"]]
        assert formats[0].choices[:2] == ("text", "json")
        assert formats[1].const == "json"
    if "fidelity" in found:
        assert {"set", "accounting", "on", "passes", "reserve", "weights"} <= found.keys()


def test_a_command_is_loaded_with_its_module_alone():
    assert sorted(n for names in MODULES.values() for n in names) == sorted(COMMANDS)
    for module, names in MODULES.items():
        if module != "completion":  # whose script holds all
            (action,) = (a for a in _build_parser(names[-1])._actions if a.choices)
            assert set(action.choices) == set(names)


def test_every_command_shows_examples_that_parse(capsys):
    assert EXAMPLES.keys() == COMMANDS.keys() - {"serve"}  # which is another name of explore
    for name, lines in [("", FIRST), *EXAMPLES.items()]:
        shown = PARSER.format_help() if not name else COMMANDS[name].format_help()
        assert lines
        for line in lines:
            assert f"\n  costgraph {line}\n" in f"{shown}\n"
            found = PARSER.parse_args(shlex.split(line))
            assert not name or found.command == name


@pytest.mark.parametrize("columns", [60, 80])
def test_help_is_as_wide_as_the_terminal_and_cuts_no_word(monkeypatch, columns):
    def shown(parser, width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        text = parser.format_help().replace("usage: ", "usage:\n").split("\n\n", 1)[1]
        return text.split("examples:")[0].splitlines()

    for parser in (PARSER, *COMMANDS.values()):
        narrow, wide = shown(parser, columns), shown(parser, 1000)
        assert " ".join(narrow).split() == " ".join(wide).split()
        usage = parser.format_usage().splitlines()
        monkeypatch.setenv("COLUMNS", str(columns))
        kept = parser.format_usage().splitlines()
        assert " ".join(kept).split() == " ".join(usage).split()
        assert [line for line in (*narrow, *kept) if len(line) > columns] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("frmula gpt2", "did you mean 'formula'"),
        ("--verison", "did you mean '--version'"),
        ("formula gpt2 --on h100 --metrc tpot", "did you mean '--metric'"),
        ("formula gpt2 --on h100 --metric tpott", "did you mean 'tpot'"),
        ("sweep gpt2 --on h100 --bach 4", "did you mean '--batch'"),
        ("report gpt2 --on h100 --no-cache", "it is an option of formula, analyze"),
        ("formula gpt2 --onn h100", "no option '--onn'; did you mean '--on'"),
        ("serve-plan gpt2 --plicy x", "'--plicy' here: '--policy' is an option of serve-simulate"),
        ("analyze gpt2 --on h100 -T 9 --format yaml", "none of text, json, csv, latex"),
        ("analyze gpt2 --on h100 -T 9 --json --format csv", "given twice"),
        ("analyze gpt2 --on h100,a100 -T 9", "analyze takes one device or system; compare"),
        ("formula gpt2 --on h100 --on a100", "formula takes one device or system; compare"),
        ("formula gpt2 --on h100 --passes fuse --passes quantize", "takes one pipeline, its"),
        ("analyze gpt2 --on h100 -T 1:9", "give one value; sweep takes several"),
        ("explain gpt2 --on h100 --at B=1,T=1:9", "give one value; sweep takes several"),
        ("explain gpt2 --on h100 --metric latency", "add --at 'B=1,N=128,S=512'"),  # it has room
        ("formula gpt2 --on h100 --set T=1,2", "give one value; sweep takes several"),
        ("formula gpt2 --on h100 --at B=1", "--at: tpot: no value for T"),
        ("formula gpt2 --on h100 --set Tt=4", "no symbol 'Tt'; did you mean 'T'"),
        ("compare gpt2 --on h100 --set KK=4", "has no symbol 'KK'"),
        ("sweep gpt2 --on h100 -T 9 -o x.csv --format json", "the suffix of -o"),
        ("compare gpt2 --on h100 -o x.xlsx", "x.xlsx"),
        ("models a b", "more than is taken: 'b'"),
        (
            "plot waterfall gpt2 --on h100 --context 9 --passes fuse -o x.svg",
            "nothing asked here depends on T (context",
        ),
        ("plot curve gpt2 --on h100 --over Xx -o x.svg", "has no symbol 'Xx'; known: B, T"),
        ("plot curve --over Xx gpt2 --on h100 -o x.svg", "has no symbol 'Xx'; known: B, T"),
        ("plot curve --over T gpt2 opt-1.3b --on h100 -o x.svg", "is taken: 'opt-1.3b'"),
        ("hardware compare --json h100 a10x", "unknown hardware 'a10x'"),
        ("plot curve gpt2 --on h100 -B 1:9 -T 1:9 -o x.svg", "takes one range"),
        ("plot roofline gpt2 --on h100 -T 1:9 -o x.svg", "takes no range"),
        ("plot curve gpt2 --on h100 -T 1:9 --over T -o x.svg", "leave them out"),
        ("plot curve gpt2 --on h100 -T 8 --set BW=1:9 --set BW=3 -o x.svg", "is given twice"),
        ("plot curve gpt2 --on h100 -T 1:9 --set T=1:9 -o x.svg", "is given twice"),
        ("plot curve gpt2 --on h100 -T 1:9 --set BW=1:9 -o x.svg", "takes one range"),
        ("plot roofline gpt2 --on h100 -T 9 --set BW=1:9 -o x.svg", "takes no range"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_what_is_near(capsys, monkeypatch, tmp_path, line, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *shlex.split(line))
    assert list(tmp_path.iterdir()) == []


def slips(word: str) -> set[str]:
    """A word with a letter left out, twice, or in its neighbour's place; all but the first letter
    of a short one."""
    found = {word[:i] + word[i + 1 :] for i in range(1, len(word)) if len(word) > 3}
    found |= {word[: i + 1] + word[i:] for i in range(len(word))}
    return found | {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}


def said_of(capsys, parser, *line: str) -> str:
    with pytest.raises(SystemExit):
        parser.parse_args(line)
    return capsys.readouterr().err


def likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lstrip("-"), other.lstrip("-")).ratio()


def first_of(shown, option: str) -> str:
    return next(name for name in shown if option in shown[name])


def test_every_slip_in_an_option_finds_one_as_near_and_every_option_its_commands(capsys):
    names = [n for n in COMMANDS if n != "serve"]
    shown = {n: [o for o in COMMANDS[n]._option_string_actions
                 if o.startswith("--") and COMMANDS[n].takes(o)] for n in names}  # fmt: skip
    for place, option in enumerate(sorted({o for own in shown.values() for o in own})):
        takers = [n for n in names if option in shown[n]]
        name = takers[place % len(takers)]
        for slip in {f"--{s}" for s in slips(option[2:])}:
            if any(o.startswith(slip) for o in COMMANDS[name]._option_string_actions):
                continue  # short for it
            # Told before what is missing, which it may have been meant for.
            found = re.search("no option '(.*?)'(?: here.*)?; did you mean '(.*?)'",
                              said_of(capsys, COMMANDS[name], slip, "x"))  # fmt: skip
            assert found[1] == slip
            assert found[2] in shown[name]
            assert likeness(found[2], slip) >= likeness(option, slip)
        for name in [n for n in names if n not in takers][place % 3 :: 9]:
            if any(o.startswith(option) for o in shown[name]):
                continue
            said = said_of(capsys, COMMANDS[name], option)
            assert f"no option {option!r} here: it is an option of {takers[0]}" in said
            found = re.search("did you mean '(.*?)'", said)
            assert found is None or likeness(found[1], option) >= 0.85
            # A slip in it, too, unless an option of any command is nearer.
            wrong = sorted(slips(option[2:]) - {option[2:]})
            slip = f"--{wrong[place % len(wrong)]}"
            if likeness(slip, option) < 0.85 or any(o.startswith(slip) for o in shown[name]):
                continue
            said = said_of(capsys, COMMANDS[name], slip)
            found = re.search("(?:here:|did you mean) '(.*?)'", said)
            assert likeness(found[1], slip) >= likeness(option, slip)
            assert found[1] in shown[name] or f"is an option of {first_of(shown, found[1])}" in said


def test_every_slip_in_a_command_finds_it(capsys):
    for name in COMMANDS:
        for slip in slips(name) - COMMANDS.keys():
            assert f"{slip!r} is not known; did you mean {name!r}" in said_of(capsys, PARSER, slip)


@pytest.mark.parametrize("name", LINES)
def test_nothing_is_hidden_in_any_format(capsys, name):
    command = name.split(",")[0]
    if command == "sweep":
        pytest.importorskip("xarray")
    formats = next(a.choices for a in COMMANDS[command]._actions if a.dest == "format")
    for how in ("text", "json", "csv") if "--at" in LINES[name] else formats:
        out, _ = run(capsys, command, *LINES[name], "--format", how)
        plain = re.sub(r"\\text[a-z]*|[\\{}]", "", out)
        for word in ("llama-3.2-1b", "h100", "calibrated", "no format given",
                     "same peaks as their parts"):  # fmt: skip
            assert word in plain, (how, word)
        if "--reserve" in LINES[name]:
            assert "reserve" in plain, how
            assert re.search("84.67.?GB", plain), how
            text, data, row = SMALL.get(name, ("does not fit",) * 3)
            said = {"json": data, "csv": row}.get(how, text)
            assert said in plain, how
        if how == "json":
            assert {"fidelity", "assumptions", "not_done"} <= json.loads(out).keys()
        if how == "csv":
            head, *rows = csv.reader(io.StringIO(out))
            assert rows
            assert all(len(r) == len(head) for r in rows)


#: Figures, each of something that does not fit, and draws a fidelity.
FIGURES = {
    "roofline": ["-S", "99"],
    "curve": ["-T", "9:99", "-B", "1"],
    "map": ["-B", "1:9", "-T", "9:99"],
    "breakdown": ["-T", "9:99", "-B", "1"],
    "waterfall": ["-S", "99", "-N", "9"],
    "pareto": ["-T", "99"],
    "sizes": ["-B", "1", "-T", "99"],
}


@pytest.mark.parametrize("kind", FIGURES)
def test_nothing_is_hidden_in_figures(capsys, monkeypatch, tmp_path, kind):
    pytest.importorskip("matplotlib")
    from costgraph.showing import plot

    seen = []
    monkeypatch.setattr(plot, "save", lambda figure, path: seen.append(figure))
    _, err = run(capsys, "plot", kind, *SAID, *FIGURES[kind], "-o", str(tmp_path / "x.svg"))
    (figure,) = seen
    titles = [a.get_title(loc="left") for a in figure.axes]
    titles += [figure._suptitle.get_text()] if figure._suptitle else []
    title = " ".join(" ".join(titles).split())
    for word in ("llama-3.2-1b on h100", "fidelity calibrated", "reserve 84.67 GB"):
        assert word in title
    assert re.search("does not fit|no batch fits", title)
    assert "quantize did nothing: no format given" in err


@pytest.mark.parametrize(
    ("line", "by_range", "by_option"),
    [
        ("curve dit-xl-2 -B 4", "--set K=2:50", "--over K --from 2 --to 50"),
        ("curve dit-xl-2 --set K=3", "--set B=2:50", "--over B --from 2 --to 50"),
        ("curve gpt2 -B 1 -T 9", "--set BW=1e12:5e12", "--over BW --from 1e12 --to 5e12"),
        (
            "curve gpt2 -B 1 -T 9 --passes quantize{weights=int4,bits=b}",
            "--set b=2:8", "--over b --from 2 --to 8",
        ),
        ("map dit-xl-2", "-B 1:9 --set K=2:50", "--over B,K --from 1,2 --to 9,50"),
    ],
)  # fmt: skip
def test_figures_run_over_a_range_of_any_symbol(
    capsys, monkeypatch, tmp_path, line, by_range, by_option
):
    pytest.importorskip("matplotlib")
    from costgraph.showing import plot

    seen = []
    monkeypatch.setattr(plot, "save", lambda figure, path: seen.append(figure))
    for said in (by_range, by_option):
        run(capsys, *shlex.split(f"plot {line} --on h100 {said}"), "-o", str(tmp_path / "x.svg"))
    one, other = (
        [(a.get_xlim(), [n.get_xydata().tolist() for n in a.lines]) for a in figure.axes]
        for figure in seen
    )
    assert one
    assert one == other


def test_nothing_is_hidden_in_drawings_and_reports(capsys, tmp_path):
    out = tmp_path / "x.dot"
    _, err = run(capsys, "draw", *SAID, "-B", "1", "-T", "99", "-o", str(out))
    text = " ".join(out.read_text(encoding="utf-8").replace("\\l", "").split())
    for word in ("llama-3.2-1b on h100", "fidelity calibrated", "does not fit", "84.67 GB"):
        assert word in text
    assert "quantize did nothing: no format given" in err
    out = tmp_path / "x.html"
    _, err = run(capsys, "report", *SAID, "-o", str(out))
    text = out.read_text(encoding="utf-8")
    for word in ("llama-3.2-1b", "calibrated", "84.67 GB", "no format given"):
        assert word in text
    assert "quantize did nothing: no format given" in err


def test_a_value_is_that_of_python(capsys):
    line = ("formula", "llama-3-8b", "--on", "h100", "--passes", "fuse", "--at", "B=2,T=99")
    value = cg.compile("llama-3-8b", "h100", "fuse").tpot(B=2, T=99)
    assert f"tpot = {value * 1e3:.4g} ms\n" in run(capsys, *line)[0]
    assert json.loads(run(capsys, *line, "--json")[0])["value"] == value
    text = run(capsys, *line[:-2], "-B", "2", "--set", "T=99")[0]
    assert f"\ntpot = {value * 1e3:.4g} ms =\n" in text
    assert "\n          ← " in text  # and what it is made of
    assert "as text, json or csv" in refused(capsys, *line, "--format", "latex")


def test_short_long_and_set_are_the_same(capsys):
    model = ("compare", "llama-3-8b", "--on", "h100", "--json")
    found = [
        run(capsys, *model, *shlex.split(sizes))[0]
        for sizes in ("-B 2 -S 99 -N 9", "--batch 2 --prompt 99 --generate 9",
                      "--set B=2 --set S=99 --set N=9", "--at B=2,S=99,N=9")
    ]  # fmt: skip
    assert len(set(found)) == 1
    table = cg.compare("llama-3-8b", "h100", B=2, S=99, N=9)
    assert json.loads(found[0])["pipelines"][0]["latency"] == table.columns[0].latency


def test_usual_values_are_those_of_python(capsys):
    (row,) = json.loads(run(capsys, "compare", "gpt2", "--on", "h100", "--json", "-S", "99")[0])[
        "pipelines"
    ]
    assert row["latency"] == cg.compare("gpt2", "h100", S=99).columns[0].latency
    table = json.loads(run(capsys, "analyze", "gpt2", "--on", "h100", "-T", "9", "--json")[0])
    assert table["totals"] == cg.compile("gpt2", "h100").breakdown("decode", T=9).totals
    found = json.loads(run(capsys, "search", "gpt2", "--on", "h100", "-S", "9", "--json")[0])
    assert found["candidates"] == cg.search("gpt2", "h100", S=9).to_dict()["candidates"]


PIPELINE = "fuse,quantize{preset=w4a16}"


def test_passes_are_a_text_or_a_list_of_texts_and_passes():
    text = cg.compile("gpt2", "h100", PIPELINE)
    for same in (
        ["fuse", "quantize{preset=w4a16}"],
        text.passes,
        [PIPELINE],
        ("fuse", *text.passes[1:]),
    ):
        made = cg.compile("gpt2", "h100", same)
        assert (made.passes, made.tpot.expr) == (text.passes, text.tpot.expr)
    assert cg.compile("gpt2", "h100", []).passes == ()
    for wrong in (5, None, [5], ["fuse", None]):
        with pytest.raises(InputError, match="passes are a text"):
            cg.compile("gpt2", "h100", wrong)
        with pytest.raises(InputError, match="passes are a text"):
            cg.compare("gpt2", "h100", wrong, S=9, N=9)
    one = cg.compare("gpt2", "h100", PIPELINE, S=9, N=9)
    several = cg.compare(
        "gpt2", "h100", ["", PIPELINE, ["fuse", "quantize{preset=w4a16}"]], S=9, N=9
    )
    assert one.columns[0].latency == several.columns[1].latency == several.columns[2].latency
    assert [c.passes for c in several.columns] == ["none", PIPELINE, PIPELINE]


@pytest.mark.parametrize(
    "line",
    [
        "qwen2.5-vl-7b --on a100 -S 1500 -N 128 -G 1196",
        "dit-xl-2 --on h100,8xh100 --passes '' --passes fuse --set K=20",
        "flux-1-dev --on h100 -S 512 -G 1024 --set K=4",
        "whisper-large-v3 --on h100 -S 1500 -N 100",
        "llama-3-70b --on h100 --passes fuse --passes 'fuse,speculative{draft=llama-3.2-1b}'",
        "llama-3.2-1b --on h100 --beside gpt2 -S 99 -N 9",
    ],
)
@pytest.mark.parametrize("width", ["slide", "column"])
def test_comparisons_are_drawn_and_say_what_they_are_of(line, width):
    pytest.importorskip("matplotlib")
    from costgraph.asking.comparison import compare
    from costgraph.cli import vocabulary
    from costgraph.showing import plot

    found = PARSER.parse_args(["compare", *shlex.split(line)])
    table = compare(
        found.model, vocabulary.devices(found), vocabulary.pipelines(found), beside=found.beside,
        **vocabulary.conventions(found), **vocabulary.values(found),
    )  # fmt: skip
    figure = plot.comparison(table, width=width)
    figure.draw_without_rendering()
    title = " ".join(figure._suptitle.get_text().split())
    first = table.columns[0]
    assert title.startswith(f"{first.model}")
    assert "fidelity ideal" in title
    assert (table.tpot_of or "") in title
    assert ("does not fit" in title) == any(not c.fits for c in table.columns)
    drawn = [a for a in figure.axes if a.containers]
    heights = {b.get_height() for a in drawn for c in a.containers for b in c}
    for column in table.columns:
        assert {column.latency, column.memory} <= heights
    legend = " ".join(t.get_text() for t in figure.legends[0].get_texts())
    assert all(c.passes in legend for c in table.columns)


def test_a_timeline_says_what_was_served(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    from costgraph.showing import plot

    seen = []
    monkeypatch.setattr(plot, "save", lambda figure, path: seen.append(figure))
    run(capsys, "serve-simulate", *LINES["serve-simulate"], "--timeline", str(tmp_path / "x.svg"))
    title = " ".join(seen[0].axes[0].get_title(loc="left").split())
    told = "llama-3.2-1b on h100", "passes fuse,quantize", "fidelity calibrated", "chunked"
    for word in (*told, "rate 1, prompt 99, generate 9"):
        assert word in title


def test_a_sweep_prints_all_rows_for_programs(capsys):
    pytest.importorskip("xarray")
    line = ("sweep", "gpt2", "--on", "h100", "-B", "1:40", "-T", "9,10")
    found = json.loads(run(capsys, *line, "--json")[0])
    assert len(found["rows"]) == 80
    value = cg.compile("gpt2", "h100").tpot(B=40, T=10)
    assert found["rows"][-1]["tpot"] == pytest.approx(value, rel=1e-12)
    rows = list(csv.DictReader(io.StringIO(run(capsys, *line, "--format", "csv")[0])))
    assert float(rows[-1]["tpot"]) == found["rows"][-1]["tpot"]
    assert "at most 100000 rows" in refused(
        capsys, *line[:4], "-B", "1:100001", "-T", "9", "--json"
    )


def test_no_cell_of_csv_is_a_formula_of_a_spreadsheet():
    from costgraph.showing.export.records import records_csv

    text = records_csv(
        {"model": "=1+1", "rows": [{"name": "@x", "n": -1, "list": ["a", "b"]}]}, "rows"
    )
    assert text == "model,name,n,list\n'=1+1,'@x,-1,a; b\n"


def test_the_page_runs(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("xarray")
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    lines = [x for b in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for x in b.splitlines()]
    assert len(lines) == 8
    for line in lines:
        run(capsys, *shlex.split(line)[1:])
    figures = {"tpot.svg", "compare.svg", "waterfall.svg", "ablation.svg"}
    assert {p.name for p in tmp_path.iterdir()} == figures
    space = run_examples(text, "docs/cli.md", 3)
    assert space["table"].columns[5].passes == "fuse,quantize{preset=w4a16}"
    for letter, names in NAMES.items():
        assert f"`{names[0]} {letter}`, `{names[1]}`" in text
