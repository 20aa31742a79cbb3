"""Completion: what shells offer, as the shells themselves say, without a program being started."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess

import pytest

from costgraph.cli.completion import SHELLS, script
from costgraph.cli.entry import _build_parser
from costgraph.hardware import device_names
from costgraph.models.catalog import model_names
from costgraph.passes import PASSES

COMMANDS = next(a for a in _build_parser()._actions if a.choices).choices
HELPS = {name: f"it's 100% {name}" for name in COMMANDS}
#: A line that is being typed, and what it is completed by.
LINES = [
    ("costgraph ", set(COMMANDS)),
    ("costgraph fo", {"formula", "formats"}),
    ("costgraph formula llama-2", {"llama-2-7b", "llama-2-13b", "llama-2-70b"}),
    ("costgraph formula --me", {"--metric"}),
    ("costgraph formula gpt2 --metric tp", {"tpot"}),
    ("costgraph analyze --json gpt2", {"gpt2", "gpt2-xl"}),
    ("costgraph formula gpt2 --on a60", {n for n in device_names() if n.startswith("a60")}),
    ("costgraph compare gpt2 --on h100,a60", {f"h100,{n}" for n in device_names() if "a60" in n}),
    ("costgraph passes fus", {n for n in PASSES if n.startswith("fus")}),
    ("costgraph formula gpt2 --passes fus", {n for n in PASSES if n.startswith("fus")}),
    ("costgraph formula gpt2 --fidelity cal", {"calibrated"}),
    ("costgraph completion z", {"zsh"}),
    ("costgraph formula gpt2 --weights nf4-", {"nf4-dq"}),
]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_offers_what_fits():
    text = script("bash", COMMANDS, HELPS)
    asks = "\n".join(
        f"COMP_WORDS=({line}{'' if line[-1] != ' ' else ' x'}); "
        f"COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        + ("COMP_WORDS[COMP_CWORD]=''; " if line[-1] == " " else "")
        + 'COMPREPLY=(); _costgraph; echo "${COMPREPLY[*]}"'
        for line, _ in LINES
    )
    found = subprocess.run(
        ["bash", "--norc", "-c", f"set -u\nPATH=/nowhere\n{text}\n{asks}"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert found.stderr == ""  # nothing was started: there is no program to be found
    offered = [set(line.split()) for line in found.stdout.splitlines()]
    assert [(line, o) for (line, _), o in zip(LINES, offered, strict=True)] == LINES


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
def test_zsh_reads_it():
    found = subprocess.run(
        ["zsh", "-f", "-c", "compdef() { : }\n" + script("zsh", COMMANDS, HELPS)
         + '_costgraph_words formula --metric'],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert "tpot" in found.stdout.split()


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish_offers_what_fits():
    asks = "\n".join(f"complete -C {line!r}; echo ---" for line, _ in LINES if "," not in line)
    found = subprocess.run(
        ["fish", "--no-config", "-c", script("fish", COMMANDS, HELPS) + asks],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    offered = found.stdout.split("---\n")
    for (_, words), text in zip((c for c in LINES if "," not in c[0]), offered, strict=False):
        assert words <= {line.split("\t")[0] for line in text.splitlines()}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_everything(shell):
    text = script(shell, COMMANDS, HELPS)
    words = set(re.findall(r"[^\s'|()]+", text))
    assert words >= {*COMMANDS, *model_names(), *device_names(), *PASSES}
    actions = [a for c in COMMANDS.values() for a in c._actions]
    options = {s for a in actions if a.help != argparse.SUPPRESS for s in a.option_strings}
    hidden = {s for a in actions for s in a.option_strings} - options
    assert hidden == {"--metrics", "--objective"}  # old names
    told = {f"--{w}" for w in words} if shell == "fish" else words
    assert {o for o in options if o.startswith("--")} <= told
    assert not [o for o in hidden if o in words or f" -l {o[2:]} " in text]
    if shell == "fish":
        assert "it\\'s 100% formula" in text
        assert "'formula analyze" not in text  # commands that take the same share a line
        assert "__fish_seen_subcommand_from formula analyze" in text
