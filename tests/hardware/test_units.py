"""Units: exact reading, refusals that say what is right, and printing."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sympy import Integer, Rational

from costgraph.errors import InputError, clip
from costgraph.units import DIMENSIONS, UNITS, apart, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("154.8385 TFLOP/s", "rate", 154_838_500_000_000),
        ("309.7 TOP/s", "rate", 309_700_000_000_000),
        ("309.7 TOPS", "rate", 309_700_000_000_000),
        ("2 GFLOPS", "rate", 2 * 10**9),
        ("2 GFLOPs/s", "rate", 2 * 10**9),
        ("2 PFLOP/s", "rate", 2 * 10**15),
        ("1 EFLOP/s", "rate", 10**18),
        ("1 OP/s", "rate", 1),
        ("89.6 GB/s", "bandwidth", 89_600_000_000),
        ("89.6 GBps", "bandwidth", 89_600_000_000),
        ("1 GiB/s", "bandwidth", 2**30),
        ("20480 kB", "size", 20_480_000),
        ("20480 KB", "size", 20_480_000),
        ("20480 KiB", "size", 20_971_520),
        ("6 MiB", "size", 6 * 2**20),
        ("1 TiB", "size", 2**40),
        ("1 B", "size", 1),
        (" 48\tGB ", "size", 48 * 10**9),
        ("+48 GB", "size", 48 * 10**9),
        ("48e0 GB", "size", 48 * 10**9),
        ("0.3 kW", "power", 300),
        ("0.5 ms", "time", Rational(1, 2000)),
        ("3 ns", "time", Rational(3, 10**9)),
        ("1.8 GHz", "frequency", 1_800_000_000),
        ("2.5 USD/h", "price", Rational(5, 2)),
    ],
)
def test_every_unit_reads_exactly(text, dimension, value):
    parsed = parse_quantity(text, dimension, "x")
    assert parsed == value
    assert isinstance(parsed, Rational)


def test_a_decimal_is_not_rounded_through_a_float():
    assert parse_quantity("0.1 GB/s", "bandwidth", "x") * 10 == Integer(10**9)
    assert parse_quantity("1.00000000000000000001 B", "size", "x") > 1


@pytest.mark.parametrize(
    ("text", "dimension", "words"),
    [
        ("768", "bandwidth", ["has no unit", "'768 GB/s'"]),
        ("300", "power", ["has no unit", "behind it", "'300 W'"]),
        ("768 GFLOP/s", "bandwidth", ["is a rate", "'768 GB/s'"]),
        ("768 GB", "bandwidth", ["is a size", "'768 GB/s'"]),
        ("768 GB/s", "size", ["is a bandwidth", "'48 GB'"]),
        ("768 GB/s", "rate", ["is a bandwidth", "TFLOP/s"]),
        ("5 GHz", "rate", ["is a frequency", "TFLOP/s"]),
        ("768 Gb/s", "bandwidth", ["bits", "bytes", "'768 GB/s'"]),
        ("768 Gbps", "bandwidth", ["bits", "bytes"]),
        ("768 Gbit/s", "bandwidth", ["bits", "bytes"]),
        ("8 Pb/s", "bandwidth", ["bits", "bytes"]),
        ("48 Gb", "size", ["bits", "'48 GB'"]),
        ("48 GBit", "size", ["bits"]),
        ("768 GB/sec", "bandwidth", ["unknown unit", "'GB/s'"]),
        ("768 gb/s", "bandwidth", ["unknown unit", "'GB/s'"]),
        ("10 TFLOP", "rate", ["unknown unit", "TFLOP"]),
        ("10 bananas", "power", ["unknown unit", "bananas"]),
        ("1 kUSD/h", "price", ["unknown unit"]),
        ("-1 GB/s", "bandwidth", ["must be positive"]),
        ("0 GB/s", "bandwidth", ["must be positive"]),
        ("0.0e0 GB/s", "bandwidth", ["must be positive"]),
        ("1e25 B", "size", ["beyond 1e24"]),
        ("1e99 GB/s", "bandwidth", ["beyond 1e24"]),
        ("1e999999999 GB/s", "bandwidth", ["too large"]),
        ("9" * 5000 + " GB/s", "bandwidth", ["not a number with a unit"]),
        ("nan GB/s", "bandwidth", ["not a number with a unit"]),
        ("inf GB/s", "bandwidth", ["not a number with a unit"]),
        ("GB/s", "bandwidth", ["not a number with a unit"]),
        ("", "bandwidth", ["not a number with a unit"]),
        ("1,555 GB/s", "bandwidth", ["GB/s"]),
        ("1_555 GB/s", "bandwidth", ["GB/s"]),
        ("0x10 GB/s", "bandwidth", ["GB/s"]),
        ("1/2 GB/s", "bandwidth", ["GB/s"]),
        ("2*3 GB/s", "bandwidth", ["GB/s"]),
        ("__import__('os') GB/s", "bandwidth", ["not a number with a unit"]),
        ("\u0663 GB/s", "bandwidth", ["not a number with a unit"]),
        ("1 GB/s\n2 GB/s", "bandwidth", ["w:"]),
        (768, "bandwidth", ["write a text with a unit", "'768 GB/s'"]),
        (768.0, "bandwidth", ["write a text with a unit"]),
        (float("nan"), "bandwidth", ["write a text with a unit"]),
        (True, "bandwidth", ["write a text with a unit"]),
        (None, "bandwidth", ["write a text with a unit"]),
        (b"768 GB/s", "bandwidth", ["write a text with a unit"]),
        (["768 GB/s"], "bandwidth", ["write a text with a unit"]),
        (16**6000, "bandwidth", ["write a text with a unit", "too large to show"]),
    ],
    ids=range(45),
)
def test_a_bad_quantity_is_one_line_that_says_what_is_right(text, dimension, words):
    with pytest.raises(InputError) as caught:
        parse_quantity(text, dimension, "w")
    message = str(caught.value)
    assert message.startswith("w")
    assert "\n" not in message
    assert len(message) < 250
    for word in words:
        assert word in message


def one_line(error: InputError) -> None:
    assert "\n" not in str(error)


@given(st.one_of(st.text(max_size=30), st.text(string.printable, max_size=12)))
def test_any_text_is_a_positive_value_or_an_input_error(text):
    for dimension in DIMENSIONS:
        try:
            assert parse_quantity(text, dimension, "w") > 0
        except InputError as error:
            one_line(error)


@given(
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(sorted(u for u, (_, f) in UNITS.items() if f < 10**15)),
)
def test_value_is_number_times_factor(whole, fraction, unit):
    dimension, factor = UNITS[unit]
    number = Rational(whole) + Rational(fraction, 10**7)
    assert parse_quantity(f"{whole}.{fraction:07d} {unit}", dimension, "w") == number * factor


def test_no_unit_belongs_to_two_dimensions():
    spelled = [s for _, spellings in DIMENSIONS.values() for s in spellings]
    assert len(spelled) == len(set(spelled))
    for base, _ in DIMENSIONS.values():
        assert UNITS[base][1] == 1


def test_clip_survives_what_repr_does_not():
    nested: object = 1
    for _ in range(100_000):
        nested = [nested]
    assert clip(nested) == "list too large to show"
    assert clip(16**6000) == "int too large to show"
    assert clip("x") == "'x'"
    while isinstance(nested, list):  # taken apart level by level, not by recursion
        nested = nested.pop()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (768e9, "B/s", "768 GB/s"),
        (154.8385e12, "FLOP/s", "154.8 TFLOP/s"),
        (13.5e9, "B", "13.5 GB"),
        (4.37e-3, "s", "4.37 ms"),
        (4.371e-5, "s", "43.71 µs"),
        (5e-9, "s", "5 ns"),
        (1e-12, "s", "0.001 ns"),
        (2.0, "s", "2 s"),
        (0.0, "s", "0 s"),
        (0.0, "B", "0 B"),
        (0.99999, "s", "1 s"),
        (999.96e-6, "s", "1 ms"),
        (999.96e6, "B", "1 GB"),
        (999.4, "B", "999.4 B"),
        (1e3, "B", "1 kB"),
        (2e15, "FLOP/s", "2 PFLOP/s"),
        (3e18, "FLOP/s", "3 EFLOP/s"),
        (1.8e9, "Hz", "1.8 GHz"),
        (-5e9, "B", "-5 GB"),
        (0.5, "B", "0.5 B"),
        (300, "W", "300 W"),
        (1000, "W", "1000 W"),
        (2.5, "USD/h", "2.5 USD/h"),
        (108, "count", "108"),
        (float("inf"), "s", "inf s"),
        (float("nan"), "B/s", "nan B/s"),
    ],
)
def test_quantities_print_with_prefixes(value, unit, text):
    assert format_quantity(value, unit) == text


@given(st.floats(1e-6, 9e20), st.sampled_from(["B", "B/s", "FLOP/s", "s", "W"]))
def test_a_printed_quantity_is_within_half_of_the_last_digit(value, unit):
    number, shown_unit = format_quantity(value, unit).split()
    factor = UNITS[shown_unit][1]
    assert float(number) * float(factor) == pytest.approx(value, rel=5.1e-4)


def test_neighbours_are_told_apart_and_others_stay_short():
    def show(value: float, digits: int) -> str:
        return format_quantity(value, "s", digits)

    close = [2.1080012e-3, 1.0, 2.1080039e-3]
    assert list(apart(close, show, 4).values()) == ["2.108001 ms", "2.108004 ms", "1 s"]
    assert apart([1 / 3], show, 4) == {1 / 3: "333.3 ms"}
    assert len(apart([1.0, 1.0 + 2**-52], show, 4)) == 2  # as far as it goes
