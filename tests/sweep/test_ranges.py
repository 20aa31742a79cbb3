"""Values of a sweep from text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costgraph.asking.sweeping.ranges import parse_values
from costgraph.errors import InputError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("7", [7]),
        ("1,2,4", [1, 2, 4]),
        (" 1 , 2 ", [1, 2]),
        ("3:6", [3, 4, 5, 6]),
        ("1:100:10", [1, 11, 21, 31, 41, 51, 61, 71, 81, 91]),
        ("0010:30:10", [10, 20, 30]),
        ("1:1024:x2", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]),
        ("3:40:x3", [3, 9, 27]),
        ("5:5", [5]),
        ("1e3", [1000]),
        ("1:3e0", [1, 2, 3]),
        ("1:3,8:16:x2,100", [1, 2, 3, 8, 16, 100]),
    ],
)
def test_the_documented_forms(text, values):
    found = parse_values(text, "-B")
    assert list(found) == values
    assert all(type(v) is int for v in found)


def test_fractions_are_exact_steps():
    assert parse_values("0.1:0.9:0.2", "a", whole=False) == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert parse_values("0.5,1,1.50", "a", whole=False) == [0.5, 1, 1.5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty value"),
        ("1,,2", "empty value"),
        ("0", "must be positive"),
        ("-1", "must be positive"),
        ("1e9999999999", "too large"),
        ("1:1e9999999999", "too large"),
        ("1e400", "beyond"),
        ("1e-400", "closer to zero"),
        ("9" * 5000, "too long for a number"),
        ("1.5", "whole"),
        ("x", "not a positive number"),
        ("5:1", "ends before it starts"),
        ("1:2:3:4", "too many ':'"),
        ("1:9:0", "must be positive"),
        ("1:9:x1", "at least 1.01"),
        ("1:9:x", "empty value"),
        ("1:", "empty value"),
        ("1,2,1", "given twice"),
        ("1:4,3", "given twice"),
        ("1:1000000000000", "more than"),
        ("9999999999999", "beyond 1e12"),
        ("१", "not a positive number"),
        ("__import__('os')", "not a positive number"),
    ],
)
def test_anything_else_is_refused_in_one_line(text, words):
    with pytest.raises(InputError) as error:
        parse_values(text, "-B")
    assert words in str(error.value)
    assert str(error.value).startswith(("-B: ", "-B must be"))
    assert "\n" not in str(error.value)


@given(st.integers(1, 500), st.integers(0, 500), st.integers(1, 50))
def test_arithmetic_ranges_are_python_ranges(first, length, step):
    text = f"{first}:{first + length}:{step}"
    assert list(parse_values(text, "-B")) == list(range(first, first + length + 1, step))


@given(st.integers(1, 50), st.integers(0, 10**6), st.integers(2, 9))
def test_geometric_ranges_multiply(first, length, factor):
    found = parse_values(f"{first}:{first + length}:x{factor}", "-B")
    assert found[0] == first
    assert all(b == a * factor for a, b in pairwise(found))
    assert found[-1] <= first + length < found[-1] * factor
