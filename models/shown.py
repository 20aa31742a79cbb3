"""What a request shows, as options say it: pictures of a size, videos."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from costgraph.errors import InputError, clip
from costgraph.models.blocks.pictures import Shown
from costgraph.number import is_array, parse_number, wholes

#: Pixels; no model takes images near this size.
LARGEST_SIDE = 2**16
#: Pictures, or frames, of one request.
MOST_SHOWN = 2**16
_PICTURES = re.compile(r"(?:(\d{1,5})x)?(\d{1,5})x(\d{1,5})\Z")
_SIDE = re.compile(r"\d{1,5}\Z")
_VIDEO = re.compile(r"(\d{1,5})x(\d{1,5})@(?:(\d{1,6})|(\d{1,5}(?:\.\d{1,6})?)s@(.{1,12})fps)\Z")


def pictures_of(given: Any) -> tuple[Shown, ...]:
    """The pictures that the option ``image`` asks for.

    A side in pixels, (height, width), or a text: ``224`` (a square), ``1280x720`` (width x
    height), ``4x1280x720`` (four of them), several of these separated by commas.

    Raises:
        InputError: it is none of these.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        return tuple(_picture(part.strip(), given) for part in given.split(","))
    try:
        sides = wholes(given if is_array(given) else (given, given), "image", LARGEST_SIDE)
    except InputError:
        sides = ()
    if len(sides) != 2:
        raise _refused("image", given)
    return (Shown(int(sides[0]), int(sides[1])),)


def _picture(text: str, given: str) -> Shown:
    if _SIDE.match(text):
        text = f"{text}x{text}"
    found = _PICTURES.match(text)
    if not found:
        raise _refused("image", given)
    count, width, height = (int(n or 1) for n in found.groups())
    _check("image", given, (width, height), count)
    return Shown(height, width, count)


def video_of(given: Any) -> tuple[Shown, ...]:
    """The video that the option ``video`` asks for.

    A text: ``640x360@60`` (width x height, 60 frames), or ``640x360@30s@2fps`` (as many as
    are sampled in that time).

    Raises:
        InputError: it is none of these.
    """
    if given is None:
        return ()
    found = _VIDEO.match(given) if isinstance(given, str) else None
    if not found:
        raise InputError(
            "video must be WIDTHxHEIGHT@FRAMES or WIDTHxHEIGHT@SECONDSs@RATEfps, as 640x360@60 or "
            f"640x360@30s@2fps, not {clip(given)}"
        )
    width, height, frames, seconds, rate = found.groups()
    count = int(frames) if frames else 0
    if not frames:
        count = int(parse_number(seconds, "video") * parse_number(rate, "video"))
    sides = int(width), int(height)
    _check("video", given, sides, count)
    return (Shown(sides[1], sides[0], frames=count),)


def _check(name: str, given: Any, sides: Iterable[int], count: int) -> None:
    if not all(1 <= n <= LARGEST_SIDE for n in sides):
        raise _refused(name, given)
    if not 1 <= count <= MOST_SHOWN:
        raise InputError(f"{name}: {clip(given)} shows {count}: from 1 to {MOST_SHOWN}")


def _refused(name: str, given: Any) -> InputError:
    return InputError(
        f"{name} must be a side, height and width, or a text such as '1280x720' or '4x1280x720' "
        f"(width x height), of 1 to {LARGEST_SIDE} pixels, not {clip(given)}"
    )
