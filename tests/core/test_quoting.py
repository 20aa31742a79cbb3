"""Texts from outside, as terminals, spreadsheets and TOML read them."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import tomllib
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costgraph.errors import CostgraphError, InputError
from costgraph.hardware.schema import machine_from
from costgraph.quoting import csv_text, printed, toml_key, toml_text, visible
from costgraph.timing.fidelity.calibration import (
    Calibration,
    Fit,
    calibration_from,
    calibration_text,
)
from costgraph.timing.fidelity.forms import FORMS
from costgraph.timing.fidelity.measure import Measured, device_text
from costgraph.timing.fidelity.table import Datasheet

#: Any text, with much of what steers terminals, and lone surrogates.
STEERING = (
    "\x00\x07\x08\t\n\r\x1b\x7f\x85\x9b\u00ad\u061c\u200b\u200e\u200f\u2028\u202a\u202e\u2066\u2069"
    "\ufeff\U000e0041\udc80"
)
TEXTS = st.text(
    st.one_of(st.characters(), st.sampled_from(STEERING), st.sampled_from("\"'\\=+-@#"))
)


@given(TEXTS)
def test_what_is_visible_steers_nothing(text):
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – ×½ 漢字 é", "plain – ×½ 漢字 é"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\u202etxt.exe", "a\\u202etxt.exe"),
        ("two\nlines", "two\\nlines"),
        ("\udc80", "\\udc80"),
        ("\U000e0041", "\\U000e0041"),
        ("\u00a0\u3000", "\\xa0\\u3000"),
    ],
)
def test_escapes_are_those_of_python(text, shown):
    assert visible(text) == shown


@given(TEXTS)
def test_errors_are_one_line_that_steers_nothing(text):
    for kind in (CostgraphError, InputError):
        assert str(kind(f"about {text}")) == f"about {visible(text)}"


@given(st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_json_stays_what_it_is(value):
    for ascii_only in (False, True):
        text = json.dumps(value, ensure_ascii=ascii_only, indent=2)
        out = printed(text)
        assert not set(out) & set(STEERING) - {"\n", "\t"}
        assert json.loads(out) == value


@given(TEXTS, TEXTS)
def test_toml_reads_back(text, key):
    found = tomllib.loads(f"{toml_key(key or 'k')} = {toml_text(text)}\n")
    ((name, value),) = found.items()
    halves = any(0xD800 <= ord(c) < 0xE000 for c in text + key)
    if not halves:
        assert (name, value) == (key or "k", text)
    # Not a character of it steers an editor.
    assert not set(toml_text(text)) & set(STEERING)


@given(TEXTS)
def test_cells_begin_no_formula(text):
    cell = csv_text(text)
    assert cell.endswith(text)
    if cell == text and text[:1] in tuple("=+-@\t\r\n"):
        assert text == "" or math.isfinite(float(text)) or "inf" in text or "nan" in text
    out = io.StringIO()
    csv.writer(out).writerow([cell, "next"])
    (row,) = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert row == [cell, "next"]


@pytest.mark.parametrize("number", ["-1.5", "+3", "-1e-7", "12", "0"])
def test_numbers_stay_numbers(number):
    assert csv_text(number) == number


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1"])
def test_formulas_are_defused(text):
    assert csv_text(text) == f"'{text}"


# --- files that the program writes


def _fit(kind: str, variant: str) -> Fit:
    form = FORMS[kind]
    values = {p.name: (p.low * p.high) ** 0.5 for p in form.parameters}
    held = {"rows": 3.0, "mean": 1.0, "median": 1.0, "q10": 0.9, "q50": 1.0, "q90": 1.1}
    return Fit(kind, variant, values, held, {})


@given(TEXTS.filter(str.strip), TEXTS)
def test_calibrations_read_back_whatever_the_names(provenance, variant):
    kind = sorted(FORMS)[0]
    made = Calibration("toy", provenance, {(kind, variant): _fit(kind, variant)})
    found = calibration_from(tomllib.loads(calibration_text(made)), "x.toml")
    assert visible(found.provenance) == visible(provenance)
    assert [visible(v) for _, v in found.fits] == [visible(variant)]


@settings(max_examples=40)
@given(TEXTS, TEXTS)
def test_device_files_read_back_whatever_the_machine_is_called(library, processor):
    sheet = Datasheet({"fp32": 1e12}, 1e11, 1, math.inf)
    made = Measured("this-machine", sheet, (), 4, {2: 2**20}, library)
    with mock.patch.object(platform, "processor", return_value=processor):
        text = device_text(made)
    assert machine_from(tomllib.loads(text), "x.toml").name == "this-machine"
