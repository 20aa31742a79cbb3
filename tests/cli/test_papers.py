"""Answers in papers: LaTeX that compiles, captions, labels, and sources as BibTeX."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

import costgraph as cg
from costgraph.asking.references import references
from costgraph.cli import main
from costgraph.counting.accounting import ACCOUNTINGS
from costgraph.errors import InputError
from costgraph.hardware import device_names, load_hardware
from costgraph.models.catalog import config_of
from costgraph.passes import PASSES
from costgraph.passes.papers import papers_in
from costgraph.showing.export.bibtex import added, bibliography, bibtex
from costgraph.showing.export.escaping import caption_latex

#: Every command that prints LaTeX.
LINES = {
    "formula": "formula llama-2-7b --on a6000 --passes quantize{weights=int8}",
    "summary": "formula gpt2 --on h100 --detail summary",
    "analyze": "analyze gpt2 --on h100 -T 99",
    "compare": "compare gpt2 --on h100,a100 --passes fuse -S 64 -N 8",
    "sweep": "sweep gpt2 --on h100 -B 1,2 -T 64 --metric tpot",
    "search": "search gpt2 --on h100 -S 64 -N 8 -B 1:8",
    "explain": "explain llama-3-8b --on h100 --passes fuse -B 32 -T 4096",
    "regimes": "regimes llama-2-7b --on a6000 -T 2048",
    "calibrated": "regimes gpt2 --on h100 --fidelity calibrated -T 64",
    "map": "regimes gpt2 --on h100 --metric ttft --over B,S",
    "solve": "solve llama-3-8b --on h100 --budget 20ms -T 4096",
    "wins": "wins gpt2 --on h100,mi300x -T 64",
    "parts": "wins gpt2 --on a6000 --passes= --passes fuse -T 64",
}
HEAD = r"\documentclass{article}\usepackage{amsmath,array,booktabs,graphicx}\begin{document}"


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> tuple[dict[str, str], str]:
    """What each line prints with everything that a paper takes, and the sources of all."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("paper")
    found = {}
    for name, line in LINES.items():
        out = io.StringIO()
        more = ["--format", "latex", "--label", f"x:{name}", "--bib", str(folder / "all.bib")]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            assert main([*line.split(), *more, "--caption", r"One of $B$, 5\%"]) == 0
        found[name] = out.getvalue()
    return found, (folder / "all.bib").read_text()


@pytest.mark.parametrize("name", LINES)
def test_what_is_printed_has_its_caption_its_label_and_its_sources(printed, name):
    text, bib = printed[0][name], printed[1]
    assert text.count(r"\caption{One of $B$, 5\%}") == 1
    assert text.count(rf"\label{{x:{name}}}") == 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    model = LINES[name].split()[1]
    assert model in text.partition("Sources")[0]  # what it is about is said below
    keys = [k for group in re.findall(r"\\cite\{([^}]*)\}", text) for k in group.split(",")]
    assert f"model:{model}" in keys
    assert "costgraph" in keys
    there = re.findall(r"^@misc\{([^,]+),$", bib, re.MULTILINE)
    assert len(there) == len(set(there))
    assert set(keys) <= set(there)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_all_of_it_compiles(printed, tmp_path):
    texts, bib = printed
    (tmp_path / "all.bib").write_text(bib)
    body = "\n\\clearpage\n".join(texts.values())
    refs = " ".join(rf"\ref{{x:{name}}}" for name in texts)
    last = r"\bibliographystyle{plain}\bibliography{all}\end{document}"
    (tmp_path / "all.tex").write_text(f"{HEAD}\n{body}\n{refs}\n{last}\n")
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all"]
    steps = [latex, ["bibtex", "all"], latex, latex]
    for step in steps if shutil.which("bibtex") else [latex, latex]:
        done = subprocess.run(step, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Warning--" not in done.stdout
    if shutil.which("bibtex"):
        assert "undefined" not in (tmp_path / "all.log").read_text(errors="replace")


def test_a_document_lists_its_sources_by_itself(capsys, tmp_path):
    line = ["formula", "gpt2", "--on", "h100", "--passes", "fuse", "--format", "tex"]
    assert main(line) == 0
    alone = capsys.readouterr().out
    assert r"\bibitem{arXiv:2307.08691} Dao. FlashAttention-2" in alone
    assert main([*line, "--bib", str(tmp_path / "refs.bib")]) == 0
    text = capsys.readouterr().out
    assert r"\bibliography{refs}" in text
    assert "bibitem" not in text
    cited = re.findall(r"\\cite\{[^}]*\}", text)
    assert cited == re.findall(r"\\cite\{[^}]*\}", alone)


def test_a_file_keeps_what_it_holds(capsys, tmp_path):
    path = tmp_path / "mine.bib"
    path.write_text("@book{mine,\n title = {Mine}}\n@misc{costgraph, title={as I cite it}}")
    line = ["solve", "gpt2", "--on", "h100", "--budget", "1ms", "-T", "64", "--bib", str(path)]
    assert main(line) == 0
    assert "wrote" in capsys.readouterr().err
    text = path.read_text()
    assert text.startswith("@book{mine,")
    assert text.count("@misc{costgraph,") == 1
    assert main(line) == 0
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--label", "x"], "--label is for latex"),
        (["--format", "latex", "--label", "a b"], "letters, digits"),
        (["--format", "json", "--caption", "x"], "--caption is for latex"),
        (["--format", "latex", "--caption", "{"], "braces in pairs"),
        (["--format", "latex", "--caption", "50 %"], "braces in pairs"),
        (["--format", "latex", "--caption", "x\\"], "braces in pairs"),
        (["--bib", "x.txt"], "the suffix names the format"),
    ],
)
def test_what_has_no_place_is_refused_before_anything_is_computed(
    capsys, monkeypatch, tmp_path, more, words
):
    monkeypatch.chdir(tmp_path)
    for line in LINES.values():
        with pytest.raises(SystemExit):
            main([*line.split(), *more])
        assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_captions_are_latex():
    assert caption_latex(r"$\{B\}$ {of} 5\%") == r"\caption{$\{B\}$ {of} 5\%}"
    for bad in ("}{", "a\nb", "a\\\\\\", " "):
        with pytest.raises(InputError):
            caption_latex(bad)


def test_every_paper_that_a_source_names_is_on_file_and_no_other():
    from costgraph.passes.papers import _known

    texts = [p.source for p in PASSES.values()]
    texts += [f"{a.title}; {a.source}" for a in ACCOUNTINGS.values()]
    found = {paper.number for t in texts for _, paper in papers_in(t) if paper is not None}
    assert found == set(_known())
    for number in found:
        assert re.search(rf"(?<!\d){number}", " ".join(texts))


def test_figures_cite_what_their_device_file_names():
    for name in device_names():
        machine = load_hardware(name)
        for figure in machine.figures.values():
            assert figure.key
            assert figure.source
    made = cg.compile("llama-3-8b", "h100")
    keys = {r.key for r in references([(made, (made.tpot,))])}
    assert {"h100:whitepaper", "h100:datasheet"} <= keys
    assert not any("price" in k or "nvlink" in k for k in keys)
    priced = {r.key for r in references([(made, (made.cost_per_token,))])}
    assert any("price" in k for k in priced - keys)
    free = cg.compile("llama-3-8b", "h100", symbolic_hardware=True)
    assert "h100:whitepaper" not in {r.key for r in references([(free, (free.tpot,))])}


def test_sources_name_drafts_conventions_calibrations_and_ones_own_models():
    drafted = cg.compile("llama-3-8b", "h100", "speculative{draft=llama-3.2-1b}")
    keys = {r.key for r in references([(drafted, ())])}
    assert {"model:llama-3-8b", "model:llama-3.2-1b", "arXiv:2211.17192"} <= keys
    survey = cg.compile("llama-2-7b", "a6000", accounting="survey")
    assert "arXiv:2402.16363" in {r.key for r in references([(survey, ())])}
    fitted = cg.compile("gpt2", "h100", fidelity="calibrated")
    assert "timing:h100" in {r.key for r in references([(fitted, ())])}
    config = {**config_of("gpt2"), "_name_or_path": "gpt2"}
    (own,) = [r for r in references([(cg.compile(config, "h100"), ())]) if r.about == "model"]
    assert "one's own" in own.note  # it has the name of a shipped one, and is none


def test_entries_are_whole():
    made = cg.compile("llama-3-8b", "h100", "fuse,quantize{weights=int4},lora", fidelity="low")
    found = references([(made, (made.latency,))])
    text = bibtex(found)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert added("", found) == (text, len(found))
    assert bibliography(found).count(r"\bibitem{") == len(found)
    assert ".." not in bibliography(found)
