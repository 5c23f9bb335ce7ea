"""Labels beside points, where they cover neither points nor each other."""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

_MARKER = 4.0  # half the width and height that a marker keeps free, in points
# Places of a label relative to its point, the nearest first: its side (1 is right), and the
# distances of its edge and of its centre line, in points.
_PLACES = sorted(
    product((1, -1), (12.0, 20.0, 32.0), [7.0 * i for i in range(-10, 11)]),
    key=lambda place: math.hypot(*place[1:]),
)


class Point(NamedTuple):
    """A drawn point.

    Attributes:
        x: place in data coordinates.
        y: place in data coordinates.
        text: its label, "" for none.
        color: colour of the label.
    """

    x: float
    y: float
    text: str
    color: object


def label_points(axis: Axes, points: Sequence[Point]) -> None:
    """Write the labels of points, each as close to its point as there is room inside the axes.

    A thin line connects each point with its label. If there is no room, a label covers as little as
    possible.

    Args:
        axis: axes with their final ranges, and all else drawn.
        points: all points of the axes.
    """
    axis.figure.draw_without_rendering()  # sets the final place of the axes in the figure
    taken = [_marker(axis, point) for point in points]
    taken += [text.get_window_extent() for text in axis.texts]
    for point in points:
        if point.text:
            taken.append(_write(axis, point, taken))


def _marker(axis: Axes, point: Point) -> Bbox:
    """Return the area of a point's marker, in pixels."""
    x, y = axis.transData.transform((point.x, point.y))
    pad = _MARKER * axis.figure.dpi / 72
    return Bbox.from_extents(x - pad, y - pad, x + pad, y + pad)


def _write(axis: Axes, point: Point, taken: Sequence[Bbox]) -> Bbox:
    """Write a label at the best place, and return its area with a margin, in pixels."""
    font = {"fontsize": mpl.rcParams["legend.fontsize"], "parse_math": False}  # may contain $
    sample = axis.text(0, 0, point.text, **font)
    width, height = sample.get_window_extent().size
    sample.remove()
    x, y = axis.transData.transform((point.x, point.y))
    pixels = axis.figure.dpi / 72
    boxes = {}
    for side, right, up in _PLACES:
        left = x + side * right * pixels - (0 if side > 0 else width)
        boxes[side, right, up] = Bbox.from_bounds(left, y + up * pixels - height / 2, width, height)
    side, right, up = min(boxes, key=lambda place: _covered(axis, boxes[place], taken))
    axis.annotate(
        point.text,
        xy=(point.x, point.y),
        xytext=(side * right, up),
        textcoords="offset points",
        color=point.color,
        horizontalalignment="left" if side > 0 else "right",
        verticalalignment="center",
        arrowprops={
            "arrowstyle": "-",
            "color": point.color,
            "linewidth": 0.4,
            "relpos": ((1 - side) / 2, 0.5),  # the line ends at the edge of the label
        },
        **font,
    )
    return boxes[side, right, up].padded(pixels)


def _covered(axis: Axes, box: Bbox, taken: Sequence[Bbox]) -> float:
    """Return how much of a label's area is taken or outside the axes, in square pixels."""
    outside = _area(box) - _area(Bbox.intersection(box, axis.bbox))
    return outside + sum(_area(Bbox.intersection(box, other)) for other in taken)


def _area(box: Bbox | None) -> float:
    return box.width * box.height if box else 0.0
