"""Drawings of printed circuit boards with seeded defects and known boxes, and the command that writes one.

They stand in for DeepPCB's pictures where those cannot be: binarised scans, black copper on white, whose six defect
classes the shipped model knows. A seed fixes the layout, the defects and every pixel, as long as NumPy and OpenCV stay
the same: a major release of either may draw other boards.

A defect is what it does to the board's topology, not how it was drawn: strokes are proposed at likely places, and one
is kept only if it joins, parts or leaves the copper and the free areas as its class says (`KINDS`).
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import click
import cv2
import numpy as np
import numpy.typing as npt

from eagleeye.files import write_atomically
from gateway.annotate import encode_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.bool_]
Points: TypeAlias = npt.NDArray[np.float64]

LABELS: Final = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
"""The defect classes in DeepPCB's order: the index is the class id."""

DEFAULT_SEED: Final = 66
"""The board of the first hundred on which the shipped model is surest: it scores all six defects 0.64 or more, and
nothing else above 0.26."""
DRAWING_SIZE: Final = 640
"""Side in pixels of every drawing, as of DeepPCB's pictures; other sizes are made from it, so a seed's board stays."""
SMALLEST_SIZE: Final = 160
"""Side in pixels below which the smallest defects may vanish."""
LARGEST_SIZE: Final = 8192
MOST_DEFECTS: Final = 10
"""Of each class on one board; there was room for so many on every board that was tried."""
CLEARANCE: Final = 9
"""Least free distance in pixels between conductors that do not belong together."""
HOLE_RADII: Final = (11, 13)
"""Radii in pixels of drilled holes, clearly larger than a pin-hole: measured on the shipped model, which takes nearly
every hole of radius 7 for a pin-hole and none from 10 on."""
EDGE: Final = 26
"""Defects begin this many pixels away from the picture's edge, or farther."""
BOX_MARGIN: Final = 10
"""Pixels between a defect and its box, as in DeepPCB."""
LONGEST: Final = 45
"""An open is shorter than this many pixels, and so is a short: wider conductors and gaps keep whole."""
SHALLOWEST: Final = 6
"""Pixels that a bite or spur measures at least: smaller ones are noise."""
BITE_SHARE: Final = 0.45
"""A bite takes at most this share of its conductor's width, a spur of the gap: more looks like an open or a short."""
STRAIGHT: Final = 9
"""Pixels of straight outline on both sides of a bite or spur: at a corner either is no more than a rounding of it."""
STROKES_PER_DEFECT: Final = 150
"""Attempts before a layout counts as too full for one more defect."""
LAYOUTS_PER_BOARD: Final = 5
"""Layouts that are tried before a board counts as too full."""

FILE: Final = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Board:
    """One drawn board, the same without defects, and where its defects are.

    Attributes:
        image: uint8 (H, W, 3) RGB, the board with its defects.
        clean: uint8 (H, W, 3) RGB, the same board without any; the two differ inside of `boxes` only.
        boxes: float64 (N, 4) xyxy in pixels.
        class_ids: int64 (N,), positions in `LABELS`.
    """

    image: UInt8Array
    clean: UInt8Array
    boxes: Points
    class_ids: npt.NDArray[np.int64]

    @property
    def labels(self) -> list[str]:
        """The N names of the defects."""
        return [LABELS[class_id] for class_id in self.class_ids]


def draw_board(seed: int, size: int = DRAWING_SIZE, defects_per_class: int = 1) -> Board:
    """Draws the board that belongs to `seed`.

    Args:
        seed: 0 or greater; equal seeds give equal pixels.
        size: Side of the square picture in pixels, SMALLEST_SIZE to LARGEST_SIZE; the same board in any size.
        defects_per_class: How many of each of the six classes, at most MOST_DEFECTS.

    Returns:
        The board; its N boxes (6 * `defects_per_class`) do not overlap.

    Raises:
        ValueError: An argument is out of range, or the board has no room for so many defects.
    """
    if seed < 0 or not SMALLEST_SIZE <= size <= LARGEST_SIZE or not 0 <= defects_per_class <= MOST_DEFECTS:
        raise ValueError(f"seed {seed}, size {size} or defects_per_class {defects_per_class} is out of range")
    for layout in range(LAYOUTS_PER_BOARD):
        rng = np.random.Generator(np.random.PCG64([seed, layout]))
        clean = _roughen(rng, _draw_layout(rng))
        defects = _add_defects(rng, clean, defects_per_class)
        if defects is not None:
            boxes = defects.boxes * (size / DRAWING_SIZE)
            return Board(_print(defects.copper, size), _print(clean, size), boxes, defects.class_ids)
    raise ValueError(f"board {seed} has no room for {defects_per_class} defects of each class")


def _print(copper: Mask, size: int) -> UInt8Array:
    """Copper as black on white, uint8 (size, size, 3)."""
    ink = np.where(copper, 0, 255).astype(np.uint8)
    scaled = cv2.resize(ink, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.repeat(np.where(scaled > 127, 255, 0).astype(np.uint8)[..., None], 3, axis=2)  # noqa: PLR2004 (half)


# --- layout: conductors of several widths, none nearer to another than CLEARANCE --------------------------------------


@dataclass(frozen=True, slots=True)
class Trace:
    """A conductor along a polyline (N, 2) of x, y pixels."""

    points: Points
    width: int

    def draw(self, canvas: UInt8Array, grow: int = 0) -> None:
        """Draws the trace, `grow` pixels wider on every side."""
        cv2.polylines(canvas, [np.rint(self.points).astype(np.int32)], False, 255, self.width + 2 * grow)


@dataclass(frozen=True, slots=True)
class Pad:
    """A round or rectangular pad with a drilled hole; a hole radius of zero is a pad without one."""

    centre: Points
    half_wh: tuple[int, int]
    hole_radius: int = 0
    is_round: bool = True

    def draw(self, canvas: UInt8Array, grow: int = 0) -> None:
        """Draws the pad, `grow` pixels larger on every side and then without its hole."""
        x, y = (int(value) for value in np.rint(self.centre))
        half_width, half_height = self.half_wh[0] + grow, self.half_wh[1] + grow
        if self.is_round:
            cv2.circle(canvas, (x, y), half_width, 255, cv2.FILLED)
        else:
            cv2.rectangle(canvas, (x - half_width, y - half_height), (x + half_width, y + half_height), 255, cv2.FILLED)
        if self.hole_radius and not grow:
            cv2.circle(canvas, (x, y), self.hole_radius, 0, cv2.FILLED)


@dataclass(frozen=True, slots=True)
class Pour:
    """A ground area: a filled polygon (N, 2) of x, y pixels."""

    points: Points

    def draw(self, canvas: UInt8Array, grow: int = 0) -> None:
        """Draws the area, `grow` pixels larger on every side."""
        outline = [np.rint(self.points).astype(np.int32)]
        cv2.fillPoly(canvas, outline, 255)
        if grow:
            cv2.polylines(canvas, outline, True, 255, 2 * grow)


Conductor: TypeAlias = list[Trace | Pad | Pour]
"""Shapes that touch one another on purpose."""


def _draw_layout(rng: np.random.Generator) -> UInt8Array:
    """A board without defects: uint8 (640, 640), copper 255."""
    canvas = np.zeros((DRAWING_SIZE, DRAWING_SIZE), np.uint8)
    for conductor in _conductors(rng):
        _place(canvas, conductor)
    turned = np.rot90(canvas, int(rng.integers(4)))
    return np.ascontiguousarray(turned if rng.integers(2) else turned.T)


def _place(canvas: UInt8Array, conductor: Conductor) -> None:
    """Draws the conductor unless another one is nearer than CLEARANCE."""
    grown = np.zeros_like(canvas)
    for shape in conductor:
        shape.draw(grown, CLEARANCE)
    if not np.any(grown & canvas):
        for shape in conductor:
            shape.draw(canvas)


def _conductors(rng: np.random.Generator) -> Iterator[Conductor]:
    """Everything that may stand on one board, the most important first; what finds no room is left out by `_place`."""
    yield from _bus(rng)
    yield _ground(rng)
    for _ in range(3):
        yield from _pad_row(rng)
    for _ in range(60):
        yield _net(rng)
    for _ in range(8):
        yield [_round_pad(rng, _anywhere(rng), least_radius=14)]


def _bus(rng: np.random.Generator) -> Iterator[Conductor]:
    """Parallel traces from edge to edge that turn together by 45 degrees."""
    middle, count = _guide(rng), int(rng.integers(5, 8))
    widths = rng.choice([8, 8, 10, 12, 14, 20, 28, 38], count)
    pitches = widths + rng.integers(13, 24, count)
    lefts = np.cumsum(pitches) - pitches - pitches.sum() / 2
    for left, width in zip(lefts, widths, strict=True):
        yield [Trace(_parallel(middle, left + width / 2), int(width))]


def _guide(rng: np.random.Generator) -> Points:
    """The middle of a bus, left to right across the picture, with two jogs of 45 degrees: (6, 2)."""
    x, y = -60.0, float(rng.integers(160, 400))
    points = [(x, y)]
    for longest in (280, 220):
        x += float(rng.integers(180, longest))  # long enough for the innermost trace between two turns of one sense
        points.append((x, y))
        rise = float(rng.integers(40, 110))
        x, y = x + rise, y + (rise if y < DRAWING_SIZE / 2 else -rise)
        points.append((x, y))
    points.append((DRAWING_SIZE + 60.0, y))
    return np.array(points)


def _parallel(points: Points, offset: float) -> Points:
    """The polyline (N, 2) shifted by `offset` pixels to its right, the distance kept in the bends."""
    along = np.diff(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    normals = np.stack([-along[:, 1], along[:, 0]], axis=1)
    before, after = np.vstack([normals[:1], normals]), np.vstack([normals, normals[-1:]])
    bisector = (before + after) / (1 + np.sum(before * after, axis=1, keepdims=True))
    result: Points = points + offset * bisector
    return result


def _ground(rng: np.random.Generator) -> Conductor:
    """A ground area in the lower left corner with one slanted side."""
    width, height, slant = (int(rng.integers(low, high)) for low, high in ((170, 360), (90, 160), (30, 70)))
    top, bottom = DRAWING_SIZE - height, DRAWING_SIZE + 40
    outline = [(-40, top), (width - slant, top), (width, top + slant), (width, bottom), (-40, bottom)]
    return [Pour(np.array(outline, np.float64))]


def _pad_row(rng: np.random.Generator) -> Iterator[Conductor]:
    """Solder pads side by side, some with a trace that leaves them."""
    corner, half_wh = _anywhere(rng), (int(rng.integers(9, 14)), int(rng.integers(14, 24)))
    for column in range(rng.integers(3, 7)):
        centre = corner + np.array([column * (2 * half_wh[0] + 16), 0])
        pad = Pad(centre, half_wh, is_round=False)
        trace = Trace(np.array([centre, centre + np.array([0, rng.integers(70, 150)])]), 8)
        yield [pad, trace] if rng.integers(2) else [pad]


def _net(rng: np.random.Generator) -> Conductor:
    """A trace with bends of 45 degrees between two round pads."""
    width = int(rng.choice([8, 8, 10, 12, 16, 20, 28]))
    points, heading = [_anywhere(rng)], int(rng.integers(8))
    for _ in range(rng.integers(1, 4)):
        angle = heading * np.pi / 4
        points.append(points[-1] + float(rng.integers(80, 150)) * np.array([np.cos(angle), np.sin(angle)]))
        heading += int(rng.choice([-1, 1]))
    pads = [_round_pad(rng, end, least_radius=width // 2 + 7) for end in (points[0], points[-1])]
    return [Trace(np.array(points), width), *pads]


def _round_pad(rng: np.random.Generator, centre: Points, least_radius: int) -> Pad:
    """A round pad, drilled two times in three."""
    hole_radius = int(rng.choice([0, *HOLE_RADII]))
    radius = max(least_radius, hole_radius + 4) + int(rng.integers(5, 10))
    return Pad(centre, (radius, radius), hole_radius)


def _anywhere(rng: np.random.Generator) -> Points:
    return rng.uniform(0, DRAWING_SIZE, 2)


def _roughen(rng: np.random.Generator, drawing: UInt8Array) -> Mask:
    """The drawing as a scanner would binarise it: slightly jagged outlines, no specks."""
    blurred = cv2.GaussianBlur(drawing, (0, 0), 1.0).astype(np.float32)
    noisy = blurred + rng.normal(0, 45, drawing.shape) > 127  # noqa: PLR2004 (half of white)
    return cv2.medianBlur(noisy.astype(np.uint8), 3).astype(np.bool_)


# --- defects: strokes at likely places, kept if they change the topology as their class says --------------------------


class Stroke(NamedTuple):
    """An irregular line from one point (2,) to another, `width` pixels wide."""

    start: Points
    end: Points
    width: float


class Terrain:
    """What a copper mask (640, 640) looks like from every one of its pixels."""

    def __init__(self, copper: Mask) -> None:
        ink = copper.astype(np.uint8)
        self.copper = copper
        inside = cv2.distanceTransform(ink, cv2.DIST_L2, 5)
        outside = cv2.distanceTransform(1 - ink, cv2.DIST_L2, 5)
        self.depth = inside - outside  # pixels to the nearest outline, positive in copper
        smooth = cv2.GaussianBlur(self.depth, (0, 0), 3)
        self._slope = np.stack([cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)], axis=-1)

    def sites(self, low: float, high: float) -> npt.NDArray[np.int64]:
        """All pixels (N, 2) as x, y whose depth lies within the limits, away from the picture's edge."""
        inner = self.depth[EDGE:-EDGE, EDGE:-EDGE]
        rows, columns = np.nonzero((inner >= low) & (inner <= high))
        return np.stack([columns, rows], axis=1) + EDGE

    def inward(self, x: int, y: int) -> Points:
        """Unit vector (2,) at a pixel that points to where the copper is deeper."""
        slope = self._slope[y, x].astype(np.float64)
        unit: Points = slope / max(float(np.linalg.norm(slope)), 1e-6)
        return unit

    def is_straight(self, site: Points, inward: Points) -> bool:
        """Whether the outline goes straight on for some pixels on both sides of the site."""
        x, y = np.rint(site + np.outer((-STRAIGHT, STRAIGHT), _tangent(inward))).astype(np.int64).T
        return bool(np.all(np.abs(self.depth[y, x]) <= 2))  # noqa: PLR2004 (jagged by a pixel or two)

    def run(self, start: Points, direction: Points, longest: int) -> int:
        """How many pixels one can go before the material changes, `longest` at most."""
        steps = start + np.arange(1, longest + 1)[:, None] * direction
        columns, rows = np.clip(np.rint(steps).astype(np.int64), 0, DRAWING_SIZE - 1).T
        changes = np.nonzero(self.copper[rows, columns] != self.copper[rows[0], columns[0]])[0]
        return int(changes[0]) if changes.size else longest


def _across_copper(rng: np.random.Generator, terrain: Terrain, site: Points, inward: Points) -> Stroke | None:
    """Open: across a conductor and out on both sides."""
    thickness = terrain.run(site, inward, LONGEST)
    if thickness == LONGEST:
        return None
    lean = _tangent(inward) * rng.uniform(-0.5, 0.5) * thickness
    return Stroke(site - 4 * inward - lean, site + (thickness + 5) * inward + lean, rng.uniform(3.5, 6))


def _across_gap(rng: np.random.Generator, terrain: Terrain, site: Points, inward: Points) -> Stroke | None:
    """Short: from one conductor to the next."""
    gap = terrain.run(site, -inward, LONGEST)
    if gap == LONGEST:
        return None
    lean = _tangent(inward) * rng.uniform(-0.3, 0.3) * gap
    return Stroke(site + 3 * inward - lean, site - (gap + 4) * inward + lean, rng.uniform(3.5, 7))


def _into_copper(rng: np.random.Generator, terrain: Terrain, site: Points, inward: Points) -> Stroke | None:
    """Mousebite: from outside into a conductor, not through it."""
    deepest = BITE_SHARE * terrain.run(site, inward, LONGEST)
    if deepest < SHALLOWEST or not terrain.is_straight(site, inward):
        return None
    depth = min(deepest, rng.uniform(7, 13))
    lean = _tangent(inward) * rng.uniform(-5, 5)
    return Stroke(site - 2 * inward, site + depth * inward + lean, rng.uniform(4, 7))


def _out_of_copper(rng: np.random.Generator, terrain: Terrain, site: Points, inward: Points) -> Stroke | None:
    """Spur: from a conductor into free space, not to the next one."""
    farthest = BITE_SHARE * terrain.run(site, -inward, LONGEST)
    if farthest < SHALLOWEST or not terrain.is_straight(site, inward):
        return None
    length = min(farthest, rng.uniform(7, 13))
    lean = _tangent(inward) * rng.uniform(-5, 5)
    return Stroke(site + 2 * inward, site - length * inward + lean, rng.uniform(4, 7))


def _blob(rng: np.random.Generator, terrain: Terrain, site: Points, inward: Points) -> Stroke:
    """Spurious copper and pin-hole: a short thick stroke in any direction."""
    del terrain, inward
    angle = rng.uniform(0, 2 * np.pi)
    return Stroke(site, site + rng.uniform(2, 9) * np.array([np.cos(angle), np.sin(angle)]), rng.uniform(6, 10))


def _tangent(normal: Points) -> Points:
    return np.array([-normal[1], normal[0]])


class Pieces(NamedTuple):
    """Into how many connected pieces a board falls."""

    copper: int
    free: int


@dataclass(frozen=True, slots=True)
class Kind:
    """One defect class.

    Attributes:
        adds: Whether copper is added, or taken away.
        depths: Where it may begin: pixels from the outline, positive in copper.
        propose: Gives a stroke that may be such a defect, or None if the site will not do.
        copper_pieces: By how much the number of pieces of copper changes.
        free_pieces: By how much the number of free areas changes; None if by any number.
    """

    adds: bool
    depths: tuple[float, float]
    propose: Callable[[np.random.Generator, Terrain, Points, Points], Stroke | None]
    copper_pieces: int
    free_pieces: int | None

    def accepts(self, before: Pieces, after: Pieces) -> bool:
        """Whether a board that fell into `before` and now falls into `after` has got this defect."""
        copper_fits = after.copper - before.copper == self.copper_pieces
        return copper_fits and (self.free_pieces is None or after.free - before.free == self.free_pieces)


OUTLINE: Final = (0.0, 1.0)
KINDS: Final = {
    "open": Kind(False, OUTLINE, _across_copper, copper_pieces=+1, free_pieces=None),
    "short": Kind(True, OUTLINE, _across_gap, copper_pieces=-1, free_pieces=None),
    "mousebite": Kind(False, OUTLINE, _into_copper, copper_pieces=0, free_pieces=0),
    "spur": Kind(True, OUTLINE, _out_of_copper, copper_pieces=0, free_pieces=0),
    "copper": Kind(True, (-60.0, -18.0), _blob, copper_pieces=+1, free_pieces=0),
    "pin-hole": Kind(False, (10.0, 24.0), _blob, copper_pieces=0, free_pieces=+1),
}


class Defective(NamedTuple):
    """A copper mask (640, 640) with the boxes (N, 4) xyxy and class ids (N,) of its defects."""

    copper: Mask
    boxes: Points
    class_ids: npt.NDArray[np.int64]


def _add_defects(rng: np.random.Generator, clean: Mask, defects_per_class: int) -> Defective | None:
    """The clean board with all its defects, or None if it has no room for them."""
    copper, boxes, class_ids = clean, list[Points](), list[int]()
    for class_id in np.repeat(np.arange(len(LABELS)), defects_per_class).tolist():
        added = _add_defect(rng, copper, KINDS[LABELS[class_id]], boxes)
        if added is None:
            return None
        copper, box = added
        boxes.append(box)
        class_ids.append(class_id)
    return Defective(copper, np.reshape(boxes, (-1, 4)).astype(np.float64), np.array(class_ids, np.int64))


def _add_defect(
    rng: np.random.Generator, copper: Mask, kind: Kind, others: Sequence[Points]
) -> tuple[Mask, Points] | None:
    """The board with one more defect and that defect's box (4,) xyxy, or None if no stroke out of many will do."""
    terrain, before = Terrain(copper), _count_pieces(copper)
    sites = terrain.sites(*kind.depths)
    for x, y in rng.permutation(sites)[:STROKES_PER_DEFECT]:
        stroke = kind.propose(rng, terrain, np.array([x, y], np.float64), terrain.inward(x, y))
        if stroke is None:
            continue
        changed = _draw_stroke(rng, stroke) & (copper != kind.adds)
        if not changed.any():
            continue
        box = _box_around(changed)
        after = copper ^ changed
        if _is_free(box, others) and kind.accepts(before, _count_pieces(after)):
            return after, box
    return None


def _count_pieces(copper: Mask) -> Pieces:
    ink = copper.astype(np.uint8)
    return Pieces(cv2.connectedComponents(ink)[0] - 1, cv2.connectedComponents(1 - ink)[0] - 1)


def _draw_stroke(rng: np.random.Generator, stroke: Stroke) -> Mask:
    """The stroke as a mask (640, 640): wavy, of uneven width, with a jagged outline."""
    canvas = np.zeros((DRAWING_SIZE, DRAWING_SIZE), np.uint8)
    points = np.linspace(stroke.start, stroke.end, 5)
    points[1:-1] += rng.normal(0, 1.2, (3, 2))
    for start, end in itertools.pairwise(points):
        width = max(2, round(stroke.width + rng.normal(0, 1)))
        cv2.line(canvas, np.rint(start).astype(int), np.rint(end).astype(int), 255, width)
    return _roughen(rng, canvas)


def _box_around(changed: Mask) -> Points:
    """The box (4,) xyxy around the changed pixels, with BOX_MARGIN; it may reach beyond the picture."""
    x, y, width, height = cv2.boundingRect(changed.astype(np.uint8))
    corners = [x - BOX_MARGIN, y - BOX_MARGIN, x + width + BOX_MARGIN, y + height + BOX_MARGIN]
    return np.array(corners, np.float64)


def _is_free(box: Points, others: Sequence[Points]) -> bool:
    """Whether `box` lies in the picture and touches none of the others."""
    if box.min() < 0 or box.max() > DRAWING_SIZE:
        return False
    return not any(np.all(box[:2] <= other[2:]) and np.all(other[:2] <= box[2:]) for other in others)


# --- the command ------------------------------------------------------------------------------------------------------


def coco_annotations(board: Board, file_name: str) -> dict[str, list[dict[str, object]]]:
    """The ground truth of one board as a COCO data set; category ids begin at 1, as DeepPCB's do."""
    height, width = board.image.shape[:2]
    corners = zip(board.boxes.tolist(), board.class_ids.tolist(), strict=True)
    return {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "categories": [{"id": class_id + 1, "name": label} for class_id, label in enumerate(LABELS)],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": class_id + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for number, ((x1, y1, x2, y2), class_id) in enumerate(corners, start=1)
        ],
    }


@click.command()
@click.option("--output", required=True, type=FILE, help="Picture to write, JPEG or PNG by its suffix.")
@click.option("--annotations", type=FILE, help="COCO file to write: the defects' boxes and classes.")
@click.option("--seed", default=DEFAULT_SEED, show_default=True, type=click.IntRange(0), help="Which board.")
@click.option(
    "--size",
    default=DRAWING_SIZE,
    show_default=True,
    type=click.IntRange(SMALLEST_SIZE, LARGEST_SIZE),
    help="Side of the picture in pixels.",
)
@click.option(
    "--defects-per-class",
    default=1,
    show_default=True,
    type=click.IntRange(0, MOST_DEFECTS),
    help="How many defects of each class.",
)
def sample(output: Path, annotations: Path | None, seed: int, size: int, defects_per_class: int) -> None:
    """Draws a printed circuit board with defects that are known: a first picture for the shipped model."""
    try:
        board = draw_board(seed, size, defects_per_class)
        write_atomically(output, encode_image(board.image, output.suffix))
        if annotations:
            write_atomically(annotations, json.dumps(coco_annotations(board, output.name), indent=1).encode())
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename}: {error.strerror}") from error
    click.echo(f"{output}: board {seed}, {size} x {size} pixels, {len(board.labels)} defects")
