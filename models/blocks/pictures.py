"""What image processors make of pictures and videos of a size: tiles, patches, tokens.

The arithmetic of the published processors (transformers; class names stand with each), in
the floating-point numbers that they use, so that every count is theirs. Sizes are height and
width in pixels.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from costgraph.errors import InputError


@dataclass(frozen=True)
class Seen:
    """One picture, or one video.

    Attributes:
        rows: rows of the tower that take places in the prompt.
        pieces: images of equal size that the tower sees: tiles, or steps in time.
        marks: further tokens that the processor puts among the rows (ends of lines).
        mixed: rows that are interpolated from those of the tower.
        scaled: height and width that it is scaled to, where the tower sees it as it is.
        said: what figures that are in no configuration come from.
    """

    rows: int
    pieces: int = 1
    marks: int = 0
    mixed: int = 0
    scaled: tuple[int, int] | None = None
    said: str = ""


@dataclass(frozen=True)
class Shown:
    """What a request shows: ``count`` pictures of a size, or a video of ``frames``."""

    height: int
    width: int
    count: int = 1
    frames: int = 0

    def __str__(self) -> str:
        size = f"{self.width} x {self.height} pixels"
        if self.frames:
            return f"a video of {self.frames} frames of {size}"
        return f"one image of {size}" if self.count == 1 else f"{self.count} images of {size}"


class Processor(ABC):
    """What a model's image processor does."""

    #: What figures that are in no configuration come from; empty where there are none.
    said: str = ""

    @abstractmethod
    def picture(self, height: int, width: int) -> Seen:
        """One picture.

        Raises:
            InputError: the processor refuses such a size.
        """

    def seen(self, shown: Shown) -> Seen:
        """Everything that one item of a request shows.

        Raises:
            InputError: the processor refuses it.
        """
        if shown.frames:
            return self.video(shown.frames, shown.height, shown.width)
        one = self.picture(shown.height, shown.width)
        n = shown.count
        return replace(
            one, rows=one.rows * n, pieces=one.pieces * n, marks=one.marks * n, mixed=one.mixed * n
        )

    def video(self, frames: int, height: int, width: int) -> Seen:
        """A video of so many frames, as they are sampled.

        Raises:
            InputError: the model sees no videos.
        """
        raise InputError("its processor takes no videos")


@dataclass(frozen=True)
class Whole(Processor):
    """Every picture is scaled, or cut, to the tower's own size: ``tokens`` each."""

    tokens: int

    def picture(self, height: int, width: int) -> Seen:
        return Seen(self.tokens)


def best_grid(height: int, width: int, grids: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The grid that shows most of a picture, then the one that wastes least.

    Source: ``select_best_resolution`` of transformers.
    """
    best, effective, wasted = grids[0], 0, math.inf
    for tall, wide in grids:
        scale = min(wide / width, tall / height)
        found = min(int(width * scale) * int(height * scale), width * height)
        waste = tall * wide - found
        if found > effective or (found == effective and waste < wasted):
            best, effective, wasted = (tall, wide), found, waste
    return best


@dataclass(frozen=True)
class AnyRes(Processor):
    """Tiles of a grid that suits the picture, beside the picture as a whole; lines end in a row.

    Rows of the grid that only pad are left out. With ``most`` a grid of more than that many
    tiles' rows is made smaller (``anyres_max_9``).
    Source: ``LlavaNextProcessor``, ``LlavaOnevisionProcessor``.

    Attributes:
        side: pixels of a tile's side.
        across: tokens of a tile's side.
        grids: heights and widths in pixels that a picture may be laid out in.
        most: tiles whose rows are kept at the most, or None.
        pooled: frames of a video are pooled to half as many tokens a side.
    """

    side: int
    across: int
    grids: tuple[tuple[int, int], ...]
    most: int | None = None
    pooled: bool = False

    def picture(self, height: int, width: int) -> Seen:
        tall, wide = best_grid(height, width, self.grids)
        down, over = tall // self.side * self.across, wide // self.side * self.across
        tiles = math.ceil(tall / self.side) * math.ceil(wide / self.side)
        if width / height > over / down:
            left = int(round(height * (over / width), 7))
            down -= (down - left) // 2 * 2
        else:
            left = int(round(width * (down / height), 7))
            over -= (over - left) // 2 * 2
        mixed = 0
        if self.most is not None:
            ratio = math.sqrt(down * over / (self.most * self.across**2))
            if ratio > 1.1:
                down, over = int(down // ratio), int(over // ratio)
                mixed = down * over
        return Seen(self.across**2 + down * over + down, tiles + 1, mixed=mixed)

    def video(self, frames: int, height: int, width: int) -> Seen:
        if not self.pooled:
            return super().video(frames, height, width)
        rows = frames * math.ceil(self.across / 2) ** 2
        return Seen(rows + 1, frames, mixed=rows)


@dataclass(frozen=True)
class Tiles(Processor):
    """Tiles of the grid whose shape is nearest, and the picture as a whole beside several.

    Source: ``get_optimal_tiled_canvas`` of ``GotOcr2ImageProcessor``, which InternVL uses.

    Attributes:
        side: pixels of a tile's side.
        tokens: of a tile.
        least, most: tiles.
        whole: the picture as a whole comes beside several tiles.
    """

    side: int
    tokens: int
    least: int = 1
    most: int = 12
    whole: bool = True
    said: str = ""

    def picture(self, height: int, width: int) -> Seen:
        ratio, area = width / height, width * height
        best, nearest = (1, 1), math.inf
        for over, down in self._grids():
            far = abs(ratio - over / down)
            large = area > 0.5 * self.side**2 * over * down
            if far < nearest or (far == nearest and large):
                best, nearest = (over, down), far
        tiles = best[0] * best[1]
        tiles += self.whole and tiles > 1
        return Seen(tiles * self.tokens, tiles)

    def video(self, frames: int, height: int, width: int) -> Seen:
        return Seen(frames * self.tokens, frames)

    def _grids(self) -> list[tuple[int, int]]:
        sides = range(1, self.most + 1)
        found = [(w, h) for w in sides for h in sides if self.least <= w * h <= self.most]
        return sorted(found, key=lambda grid: grid[0] * grid[1])


@dataclass(frozen=True)
class Enlarged(Processor):
    """Scaled until the longer side is ``longest``, then cut into tiles beside the whole picture.

    The other side is scaled up to whole tiles; even small pictures make a full line of them.
    Source: ``Idefics3ImageProcessor``, ``SmolVLMImageProcessor``, ``SmolVLMVideoProcessor``.

    Attributes:
        side: pixels of a tile's side.
        tokens: of a tile.
        longest: pixels of the longer side.
        videos: the model sees them: a frame is one tile.
    """

    side: int
    tokens: int
    longest: int
    videos: bool = False
    said: str = ""

    def picture(self, height: int, width: int) -> Seen:
        wide = width >= height
        shape = width / height
        short = int(self.longest / shape) if wide else int(self.longest * shape)
        short = max(short + short % 2, 1)
        height, width = (short, self.longest) if wide else (self.longest, short)
        shape = width / height
        # The processor comes back to the shorter side by way of the shape, rounding down.
        along = math.ceil(self.longest / self.side)
        back = along * self.side
        across = math.ceil(int(back / shape if width >= height else back * shape) / self.side)
        tiles = along * max(across, 1)
        tiles += tiles > 1
        return Seen(tiles * self.tokens, tiles)

    def video(self, frames: int, height: int, width: int) -> Seen:
        if not self.videos:
            return super().video(frames, height, width)
        return Seen(frames * self.tokens, frames)


@dataclass(frozen=True)
class Canvas(Processor):
    """Tiles of the grid that makes a picture larger by the least, and the picture as a whole.

    If every grid makes it smaller, that which does so by the least. Scales are compared in 32 bit.
    Source: ``get_best_fit`` of ``Llama4ImageProcessor``, which shows no videos.

    Attributes:
        side: pixels of a tile's side.
        tokens: of a tile.
        most: tiles of a grid.
    """

    side: int
    tokens: int
    most: int = 16
    said: str = ""

    def picture(self, height: int, width: int) -> Seen:
        found: dict[float, list[int]] = {}
        for down, over in self._grids():
            scale = min(_single(down * self.side / height), _single(over * self.side / width))
            found.setdefault(scale, []).append(down * over)
        larger = [scale for scale in found if scale >= 1]
        tiles = min(found[min(larger) if larger else max(found)])
        tiles += tiles > 1
        return Seen(tiles * self.tokens, tiles)

    def _grids(self) -> list[tuple[int, int]]:
        sides = range(1, self.most + 1)
        return [(h, w) for h in sides for w in sides if h * w <= self.most]


def _single(value: float) -> float:
    """The nearest number of 32 bit."""
    (found,) = struct.unpack("f", struct.pack("f", value))
    return float(found)


@dataclass(frozen=True)
class Squares(Processor):
    """Sides are rounded to multiples of ``side``, within numbers of pixels: a token a square.

    Source: ``smart_resize`` of ``Qwen2VLImageProcessor``, ``Qwen2VLVideoProcessor`` and
    ``Qwen3VLVideoProcessor``.

    Attributes:
        side: pixels of the side of a token.
        least, most: pixels of a picture; None: not known.
        least_video, most_video: pixels of a frame, or (``together``) of a whole video.
        together: a video's pixels are counted over all of its frames.
        frames: frames in time that a patch holds.
        said: where the numbers of pixels come from.
    """

    side: int
    least: int | None = None
    most: int | None = None
    least_video: int | None = None
    most_video: int | None = None
    together: bool = False
    frames: int = 2
    said: str = ""

    def picture(self, height: int, width: int) -> Seen:
        if self.most is None:
            tall, wide = (max(1, round(n / self.side)) for n in (height, width))
            return Seen(tall * wide, scaled=(tall * self.side, wide * self.side))
        return self._fitted(height, width, 1, 1, self.least or 0, self.most)

    def video(self, frames: int, height: int, width: int) -> Seen:
        if self.most_video is None:
            return super().video(frames, height, width)
        steps = -(-frames // self.frames)
        count, even = 1, 1
        if self.together:
            if min(height, width) < self.side:
                scale = max(self.side / height, self.side / width)
                height, width = int(height * scale), int(width * scale)
            count, even = frames, round(frames / self.frames) * self.frames
        one = self._fitted(height, width, count, even, self.least_video or 0, self.most_video)
        return Seen(one.rows * steps, steps, scaled=one.scaled)

    def _fitted(
        self, height: int, width: int, count: int, even: int, least: int, most: int
    ) -> Seen:
        """Of ``count`` frames, ``even`` after rounding; one for a picture."""
        if max(height, width) / min(height, width) > 200:
            raise InputError(f"{width}x{height}: one side is more than 200 times the other")
        side = self.side
        tall, wide = round(height / side) * side, round(width / side) * side
        if even * tall * wide > most:
            factor = math.sqrt(count * height * width / most)
            tall, wide = (max(side, math.floor(n / factor / side) * side) for n in (height, width))
        elif even * tall * wide < least:
            factor = math.sqrt(least / (count * height * width))
            tall, wide = (math.ceil(n * factor / side) * side for n in (height, width))
        if not (tall and wide):
            raise InputError(f"{width}x{height}: a side rounds to no token")
        return Seen(tall // side * (wide // side), scaled=(tall, wide))


@dataclass(frozen=True)
class Lines(Processor):
    """Scaled to fit ``longest``, filled up to squares of ``side``; every line ends in a token.

    Source: ``PixtralProcessor``.
    """

    longest: int
    side: int

    def picture(self, height: int, width: int) -> Seen:
        ratio = max(height / self.longest, width / self.longest)
        if ratio > 1:
            height, width = math.floor(height / ratio), math.floor(width / ratio)
        if not (height and width):
            raise InputError(f"{width}x{height}: a side is scaled to nothing")
        tall, wide = ((n - 1) // self.side + 1 for n in (height, width))
        return Seen(tall * wide, marks=tall, scaled=(tall * self.side, wide * self.side))


@dataclass(frozen=True)
class Budget(Processor):
    """Sides are scaled alike until a picture has at most ``most`` tokens.

    Source: ``get_aspect_ratio_preserving_size`` of Gemma 4's published processor.
    """

    most: int

    def picture(self, height: int, width: int) -> Seen:
        tall, wide = (math.isqrt(self.most * a // b) for a, b in ((height, width), (width, height)))
        if tall == 0:
            tall, wide = 1, min(width // height, self.most)
        elif wide == 0:
            tall, wide = min(height // width, self.most), 1
        return Seen(tall * wide)
