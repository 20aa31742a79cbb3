"""Mutations of texts, bytes and parsed values, from a seeded generator."""

from __future__ import annotations

import copy
from random import Random
from typing import Any


class Dice(Random):
    """A seeded generator that is, for a case, mostly sensible or wild.

    Attributes:
        sane: how often a value is a sensible one.
    """

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self.sane = self.choice((0.995, 0.995, 0.95, 0.7))

    def odd(self) -> bool:
        """Whether this value is to be strange."""
        return self.random() > self.sane


#: Numbers as people and machines write them, and as they should not.
WHOLE_NUMBERS = ("1", "1", "2", "4", "16", "100", "512", "2048", "65536", "1e3", "1e6")
REAL_NUMBERS = ("0.5", "3/4", "1.5", "1", "3", "1e-3", "20", "1e4")
ODD_NUMBERS = (
    "0", "-1", "-0", "1.5", "1/3", "1e6", "1e12", "1e13", "1e24", "1e25", "1e400", "1e-400",
    "1e9999999999", "-1e9999999999", "9" * 40, "9" * 5000, "1/0", "1/9999999999", "nan", "inf",
    "-inf", "", " ", "x", "B", "0x10", "\u0967", "1_000", " 7 ", "+3", "00012", "1e", "e1", ".",
    "1.", ".5", "1..2", "1,2", "1:2", "--", "1e+3", "1E3", "True", "None", "__import__('os')",
)  # fmt: skip
WORDS = (
    "", "x", "none", "fuse", "\x00", "\x1b[31m", "\u202e", "\udcff", "é", "a" * 300, "%s", "{}",
    "{", "}", ",", "=", "=1+1", "../..", "/dev/null", "/", ".", "*", "\n", "-h", "'", '"', "\\",
)  # fmt: skip
BYTES = (b"", b"\x00", b"\xff\xfe", b"\x1f\x8b", b"\r\n", b"9" * 60, b"{", b'"', b"\x80" * 8)


def whole(rng: Dice) -> str:
    """A whole number as text, mostly a sensible one."""
    return rng.choice(ODD_NUMBERS if rng.odd() else WHOLE_NUMBERS)


def real(rng: Dice) -> str:
    """A number as text, mostly a sensible one."""
    return rng.choice(ODD_NUMBERS if rng.odd() else REAL_NUMBERS)


def text(rng: Dice, given: str, times: int = 2) -> str:
    """A text with pieces left out, repeated, exchanged or put in."""
    for _ in range(rng.randint(1, times)):
        i = rng.randint(0, len(given))
        j = min(len(given), i + rng.randint(0, 6))
        kind = rng.randrange(5)
        if kind == 0:
            given = given[:i] + given[j:]
        elif kind == 1:
            given = given[:j] + given[i:j] * rng.randint(1, 3) + given[j:]
        elif kind == 2:
            given = given[:i] + rng.choice(WORDS) + given[j:]
        elif kind == 3:
            given = given[:i] + rng.choice(ODD_NUMBERS) + given[j:]
        else:
            given = given[:i] + chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x2000))))
            given += given[j:]
    return given


def data(rng: Dice, given: bytes) -> bytes:
    """Bytes cut off, turned, exchanged or put in."""
    made = bytearray(given)
    for _ in range(rng.choice((1, 1, 2, 8))):
        i = rng.randint(0, len(made))
        kind = rng.randrange(5)
        if kind == 0:
            del made[i:]
        elif kind == 1 and i < len(made):
            made[i] ^= 1 << rng.randrange(8)
        elif kind == 2:
            made[i : i + rng.randint(0, 16)] = rng.choice(BYTES)
        elif kind == 3:
            made[i:i] = made[i : i + rng.randint(1, 64)]
        elif i < len(made):
            made[i] = rng.choice((0, 1, 127, 128, 255))
    return bytes(made)


def value(rng: Dice) -> Any:
    """Any value of JSON, often one that stands for a number, a flag or a name."""
    return rng.choice(
        (
            None, True, False, 0, 1, -1, 2, 3, 7, 64, 4096, 10**6, 10**9, 10**12, 10**30,
            10**4000, 0.0, 0.5, 1.5, -2.5, 1e300, float("inf"), float("nan"), "", "x", "silu",
            "bfloat16", "full_attention", "9" * 400, "\udcff", "\u202e", [], [1], [0, 1, 2],
            ["full_attention"] * 3, [[1]], {}, {"x": 1}, {"type": "linear", "factor": 2},
            [None] * 40, {"a": {"b": {"c": []}}},
        )
    )  # fmt: skip


def tree(rng: Dice, given: Any, times: int = 2) -> Any:
    """A parsed file with entries changed, left out, renamed or put in, at any depth."""
    made = copy.deepcopy(given)
    for _ in range(rng.randint(1, times)):
        at = made
        while True:
            inside = [v for v in (at.values() if isinstance(at, dict) else at)
                      if isinstance(v, (dict, list)) and v]  # fmt: skip
            if not inside or rng.random() < 0.5:
                break
            at = rng.choice(inside)
        if isinstance(at, dict):
            _in_object(rng, at)
        elif at:
            at[rng.randrange(len(at))] = value(rng)
    return made


def _in_object(rng: Dice, at: dict[str, Any]) -> None:
    key = rng.choice(list(at)) if at else "x"
    kind = rng.randrange(5)
    if kind == 0:
        at.pop(key, None)
    elif kind == 1:
        at[text(rng, key, 1)] = at.pop(key, None)
    elif kind == 2 and isinstance(at.get(key), (int, float)) and not isinstance(at[key], bool):
        at[key] = at[key] * rng.choice((0, -1, 2, 3, 0.5, 10**6)) + rng.choice((0, 0, 1))
    else:
        at[key] = value(rng)
