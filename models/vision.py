"""Vision models as programs of one phase, ``forward``: ViT, CLIP and classifiers.

``B`` is images. Their size is that of the configuration, or the one that the import
asks for; positions that a learned table does not have are interpolated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from sympy import Expr, Integer, Symbol

from costgraph.errors import InputError
from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program
from costgraph.models.blocks import Ends, Maker, Norm, Segment, Style
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.image import Patches, picture
from costgraph.models.blocks.stack import embed, positions_end, run
from costgraph.models.blocks.tower import LAYER_NORM, Pooled, TowerLayer
from costgraph.ops import Activation, Add, Concat, RelativeBias, Scale, SelectLast
from costgraph.ops.image import Cut, Similarity
from costgraph.ops.maps import Reduce
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B, G, S, q
from costgraph.symbols import T as CONTEXT

ONE = Integer(1)
Size = tuple[Expr, Expr]


class OnePass(ABC):
    """A model whose every request is one pass over its graph."""

    @abstractmethod
    def graph(self, name: str, style: Style) -> Graph:
        """The graph over ``B``, and ``S`` where there is text."""

    @abstractmethod
    def positions(self, style: Style) -> Expr:
        """Positions of the sequence or of the last grid, per image."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Bounds outside which the graph does not describe the model."""
        return ()

    def symbolic(self) -> tuple[OnePass, dict[Symbol, Expr]]:
        """Refused: dimensions of vision models stay numbers."""
        raise InputError("vision and diffusion models keep no symbolic dimensions")

    def program(self, name: str, style: Style) -> Program:
        """The program of one phase, ``forward``."""
        count = self.positions(style)
        bindings = ((q, count), (CONTEXT, count))
        phase = Phase("forward", self.graph(name, style), bindings, tokens=Integer(0))
        return Program(name, (phase,), limits=self.limits)


def of_image(program: Program, tokens: Expr | None, style: Style) -> Program:
    """The program with ``G`` bound to the tokens of an image of the size that is asked for."""
    if tokens is None or style.image is None:
        return program
    phases = tuple(p.with_binding(G, tokens) for p in program.phases)
    (shown,) = style.pictures
    return replace(program, phases=phases).assuming(f"{shown} makes G = {tokens} tokens")


@dataclass(frozen=True)
class Tower:
    """A vision transformer: patches, layers, norms around them.

    Attributes:
        patches: makes the first hidden state.
        at, feed: heads and feed-forward block of the layers.
        layers: their number.
        channels, size: of the image, where the import asks for no other.
        front, back: norm in front of the layers and after them, or None.
        scaled: layers scale what their blocks make.
        norm: of the layers.
        head: pools all positions behind the back norm, or None.
        biases: rows of a table of position biases that all layers share, or None.
        frames: of a video, in front of height and width; None for a picture.
    """

    patches: Patches
    at: Heads
    feed: FeedForward
    layers: Expr
    size: Size
    front: Norm | None = None
    back: Norm | None = LAYER_NORM
    scaled: bool = False
    norm: Norm = LAYER_NORM
    head: Pooled | None = None
    biases: Expr | None = None
    frames: Expr | None = None

    @property
    def grid(self) -> Size:
        """Patches of the height and the width of an image, where no other size is asked for."""
        (tall, wide), (down, across) = self.size, self.patches.patch
        return tall // down, wide // across

    def sized(self, style: Style) -> Size:
        """Height and width of an image in pixels."""
        return style.image or self.size

    def positions(self, style: Style) -> Expr:
        """Positions per image, the class token included."""
        return self.patches.count(self._shown(style))

    def _shown(self, style: Style) -> tuple[Expr, ...]:
        """Sizes of what the patches are cut from."""
        size = self.sized(style)
        return size if self.frames is None else (self.frames, *size)

    def add(self, m: Maker, batch: Expr = B) -> str:
        """Adds the tower over ``batch`` images: ``(batch, n, d)``, before the back norm."""
        x = self.patched(m, batch)
        if self.front is not None:
            x = m.norm("front_norm", x, self.at.d, self.front)
        layer = self.layer(batch, m.shape(x)[1])
        given = self._shared(m, layer)
        return run(m, (Segment("vision_layers", layer, self.layers),), x, **given)

    def patched(self, m: Maker, batch: Expr) -> str:
        """Adds the image and its patches."""
        x = picture(m, batch, self.patches.channels, self._shown(m.style))
        return self.patches.add(m, x)

    def through(self, m: Maker, x: str, taken: tuple[int, ...]) -> list[str]:
        """Adds the layers over ``x``: rows behind ``taken`` numbers of layers, and behind all."""
        layer = self.layer(m.shape(x)[0], m.shape(x)[1])
        given, ends = self._shared(m, layer), (*taken, int(self.layers))
        kept = []
        for index, (start, end) in enumerate(zip((0, *ends), ends, strict=False), start=1):
            if end > start:
                part = Segment(f"vision_layers{index}", layer, Integer(end - start))
                x = run(m, (part,), x, **given)
            kept.append(x)
        return kept

    def _shared(self, m: Maker, layer: TowerLayer) -> dict[str, str]:
        """What all layers share: a position bias ``(H, n, n)``, or a table of rotations."""
        if self.biases is not None:
            table = m.vector("relative_bias.weight", self.biases, self.at.heads)
            bias = RelativeBias(layer.length, layer.length)
            return {"position_bias": m.add("position_bias", bias, table)}
        return {t.name: m.source(t) for t in layer.operands(m.style)}

    def layer(self, batch: Expr, length: Expr) -> TowerLayer:
        """One layer over ``length`` positions."""
        return TowerLayer(batch, length, self.at, self.feed, self.norm, scaled=self.scaled)


@dataclass(frozen=True)
class VisionTransformer(OnePass):
    """A ViT: the tower, and a classifier or a pooler on its class token.

    Source: Dosovitskiy et al., arXiv 2010.11929.

    Attributes:
        tower: the layers.
        classes: of a classifier, or None.
        pooler: a product and tanh on the class token.
        head: the tower's own head pools all positions.
        back_last: only the class token passes the back norm (CLIP).
        bias: of the classifier.
        mask: a vector for masked patches rests in memory.
        beside_mean: the classifier reads the mean of all patches beside the class token.
        mean: it reads that mean in place of the class token.
        teacher: a second classifier reads the second token.
        pair: the mean of both tokens passes a norm and the classifier (AST).
    """

    tower: Tower
    classes: Expr | None
    pooler: bool = False
    head: bool = False
    back_last: bool = False
    bias: bool = True
    beside_mean: bool = False
    mask: bool = False
    mean: bool = False
    teacher: bool = False
    pair: bool = False

    def positions(self, style: Style) -> Expr:
        return self.tower.positions(style)

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        made = self._made(m)
        if self.mask:
            row = Reshape((ONE, self.tower.at.d))
            made = (*made, m.add("mask_row", row, m.vector("mask_token", self.tower.at.d)))
        return m.build(*made)

    def features(self, m: Maker) -> tuple[str, ...]:
        """Adds tower and pooler: all positions behind the norm, then what is made besides."""
        x, back = self.tower.add(m), self.tower.back
        if back is not None and self.back_last:
            first = m.add("class_position", SelectLast(ONE), x)
            return x, m.norm("final_norm", first, self.tower.at.d, back)
        if back is not None:
            x = m.norm("final_norm", x, self.tower.at.d, back)
        if self.head and self.tower.head is not None:
            return x, self.tower.head.add(m, x)
        if not self.pooler:
            return (x,)
        first = m.add("class_position", SelectLast(ONE), x)
        return x, self._pooled(m, m.add("class_vector", Reshape((B, self.tower.at.d)), first))

    def _pooled(self, m: Maker, x: str) -> str:
        """Adds the pooler of a class token ``(B, d)``."""
        d = self.tower.at.d
        return m.add("pooler_act", Activation("tanh"), m.linear("pooler", x, d, d, True))

    def _made(self, m: Maker) -> tuple[str, ...]:
        """Adds tower and head: what they make."""
        d = self.tower.at.d
        x = seen = self.tower.add(m)
        back, late = self.tower.back, self.back_last
        if back is not None and not late:
            x = m.norm("final_norm", x, d, back)
        if self.head and self.tower.head is not None:
            return self.tower.head.add(m, x), x
        if self.classes is None and not (self.pooler or self.pair or late):
            return (x,)
        every = x
        # Only the class token is needed; where it stands does not matter to the cost.
        x = self._mean(m, every) if self.mean else m.add("class_position", SelectLast(ONE), x)
        if back is not None and late:
            x = m.norm("final_norm", x, d, back)
        x = x if self.mean else m.add("class_vector", Reshape((B, d)), x)
        if late and self.classes is None:
            return x, seen
        if self.beside_mean:
            x = m.add("beside", Concat(), x, self._mean(m, every))
        if self.pair or self.teacher:
            y = m.add("second_position", SelectLast(ONE), every)
            y = m.add("second_vector", Reshape((B, d)), y)
        if self.pair:
            x = m.add("half", Scale(), m.add("both", Add(), x, y))
            if self.classes is None:
                return x, every
            x = m.norm("head_norm", x, d, LAYER_NORM)
        if self.teacher and self.classes is not None:
            first = m.linear("classifier", x, self.classes, d, self.bias)
            second = m.linear("second_classifier", y, self.classes, d, self.bias)
            both = m.add("both", Add(), first, second)
            return (m.add("half", Scale(), both),)
        if self.classes is not None:
            wide = m.shape(x)[-1]
            return (m.linear("classifier", x, self.classes, wide, self.bias),)
        return (self._pooled(m, x),)

    def _mean(self, m: Maker, x: str) -> str:
        """Adds the mean of all patches."""
        lead = self.tower.patches.lead
        if lead:
            x = m.add_many("patches_alone", Cut((lead, m.shape(x)[1] - lead)), x)[1]
        return m.add("patches_mean", Reduce("mean", (1,)), x)


@dataclass(frozen=True)
class PatchClassifier(VisionTransformer):
    """A classifier of the mean of all patches, beside what else the tower's class makes."""

    def _made(self, m: Maker) -> tuple[str, ...]:
        every, *beside = self.features(m)
        mean, classes = self._mean(m, every), self.classes
        assert classes is not None
        return (m.linear("classifier", mean, classes, self.tower.at.d, True), *beside)


def embedded(m: Maker, text: Ends) -> str:
    """Adds token and position embeddings of ``S`` tokens; ``embed`` counts in ``q``."""
    inner = Maker("text", m.style)
    table = embed(inner, text)[0]
    made = inner.build(table)
    for tensor in made.sources:
        shape = tuple(n.xreplace({q: S}) for n in tensor.shape)
        m.source(replace(tensor, name=f"text_{tensor.name}", shape=shape))
    for node in made.nodes:
        m.add(f"text_{node.name}", node.op, *(f"text_{i}" for i in node.inputs))
    return f"text_{table}"


@dataclass(frozen=True)
class TextTower(OnePass):
    """CLIP's reader alone: ``B`` texts of ``S`` tokens, and the vector of each one's end.

    Attributes:
        text, layer, layers: of the texts.
        longest: most tokens.
        width: of the common space that the vector is projected to, or None.
        norm: behind the layers.
    """

    text: Ends
    layer: TowerLayer
    layers: Expr
    longest: int
    width: Expr | None = None
    norm: Norm = LAYER_NORM

    def positions(self, style: Style) -> Expr:
        return S

    @property
    def limits(self) -> tuple[Limit, ...]:
        return positions_end(S, self.longest)

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        y, end = self.add(m)
        if self.width is None:
            return m.build(y, end)
        return m.build(m.linear("text_proj", end, self.width, self.text.d), y)

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds the tower: all positions ``(B, S, d)``, and the vector of the last ``(B, d)``."""
        d = self.text.d
        y = run(m, (Segment("text_layers", self.layer, self.layers),), embedded(m, self.text))
        y = m.norm("text_norm", y, d, self.norm)
        return y, m.add("end_vector", Reshape((B, d)), m.add("end_position", SelectLast(ONE), y))


@dataclass(frozen=True)
class TwoTowers(OnePass):
    """What models of images and texts share: both of CLIP's halves.

    Attributes:
        tower: of the images.
        text: of the texts.
        width: of the common space.
    """

    tower: Tower
    text: TextTower
    width: Expr

    def positions(self, style: Style) -> Expr:
        return self.tower.positions(style)

    @property
    def limits(self) -> tuple[Limit, ...]:
        return self.text.limits


@dataclass(frozen=True)
class ImageText(TwoTowers):
    """CLIP: ``B`` images against ``B`` texts of ``S`` tokens.

    Source: Radford et al., arXiv 2103.00020. Both vectors are brought to unit length
    and every image is compared with every text.

    Attributes:
        pooled: the tower's own head pools the image, the text alone is projected, with a bias,
            and the logits have a bias (SigLIP).
    """

    pooled: bool = False

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        image = self._image(m)
        _, end = self.text.add(m)
        text = self._joint(m, "text", end, self.text.text.d, self.pooled)
        scale = m.vector("logit_scale", ONE)
        logits = m.add("similarity", Similarity(), text, image, scale)
        if self.pooled:
            bias = m.add("bias_rows", Expand((B, B)), m.vector("logit_bias", ONE, ONE))
            logits = m.add("bias_add", Add(), logits, bias)
        return m.build(logits)

    def _image(self, m: Maker) -> str:
        """Adds the tower: unit vectors ``(B, width)``."""
        d, x, head = self.tower.at.d, self.tower.add(m), self.tower.head
        if self.pooled and head is not None:
            x = m.norm("vision_norm", x, d, LAYER_NORM)
            return m.norm("image_unit", head.add(m, x), d, Norm("rms", weight=False))
        x = m.add("class_position", SelectLast(ONE), x)
        x = m.add("class_vector", Reshape((B, d)), x)
        return self._joint(m, "image", m.norm("vision_norm", x, d, LAYER_NORM), d)

    def _joint(self, m: Maker, name: str, x: str, d: Expr, bias: bool = False) -> str:
        x = m.linear(f"{name}_proj", x, self.width, d, bias)
        # Unit length is a root mean square up to a constant.
        return m.norm(f"{name}_unit", x, self.width, Norm("rms", weight=False))
