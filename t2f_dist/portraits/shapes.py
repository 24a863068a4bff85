"""Smooth outlines, tapered strokes and soft spots on a supersampled canvas.

Points are [K, 2] (x to the right, y down). They are given in a frame, `PAGE` (the picture is the unit square) or the
head's own (origin between the ears, unit = half its height, turned by its tilt), and mapped to canvas pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from t2f_dist.portraits.palette import Colour

Points = np.ndarray | Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Frame:
    """Maps (x, y) to the page: turned by `angle` radians, scaled by `unit`, moved to (x0, y0)."""

    x0: float
    y0: float
    unit: float
    angle: float = 0.0


PAGE = Frame(0.0, 0.0, 1.0)


@lru_cache(maxsize=8)
def _catmull_rom(steps: int) -> np.ndarray:
    """Weights [steps, 4] of a uniform Catmull-Rom segment for its four control points."""
    t = np.arange(steps) / steps
    return 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=1)


@lru_cache(maxsize=64)
def _windows(count: int, closed: bool) -> np.ndarray:
    """Indices [segments, 4] of the control points of each segment of a curve through `count` points."""
    segments = np.arange(count if closed else count - 1)[:, None] + np.arange(-1, 3)
    return segments % count if closed else segments.clip(0, count - 1)


@lru_cache(maxsize=8)
def _circle(steps: int) -> np.ndarray:
    angles = np.arange(steps) * (2 * np.pi / steps)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _spot(width: int, height: int, alpha: float) -> Image.Image:
    """A soft spot: 255 * alpha in the middle, 0 at the rim, a smooth bell between."""
    y, x = np.ogrid[:height, :width]
    square = ((x + 0.5) / width * 2 - 1) ** 2 + ((y + 0.5) / height * 2 - 1) ** 2
    bell = np.rint(255 * np.clip(1 - square, 0, 1) ** 2).astype(np.uint8)
    return Image.fromarray(np.array([round(level * alpha) for level in range(256)], dtype=np.uint8)[bell])


_small_spot = lru_cache(maxsize=256)(_spot)  # most spots of small portraits share a few sizes


def mirrored(right: Points, axis: float = 0.0) -> np.ndarray:
    """A closed symmetric outline from its right half, listed from the top (x = 0) to the bottom (x = 0); moved so that
    the axis of symmetry stands at x = axis."""
    right = np.asarray(right, dtype=np.float64)
    return np.concatenate([right, right[-2:0:-1] * (-1, 1)]) + np.array((axis, 0.0))


class Canvas:
    """A square picture of `resolution` pixels, drawn `oversampling` times larger and reduced by an area filter."""

    def __init__(self, resolution: int) -> None:
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1 pixel, got {resolution}")
        self.oversampling = max(4 if resolution <= 512 else 2, min(8, 192 // resolution))
        self.size = resolution * self.oversampling
        self.steps = 5 if self.size <= 256 else 8 if self.size <= 1024 else 20
        self.image = Image.new("RGB", (self.size, self.size))
        self.pen = ImageDraw.Draw(self.image, "RGBA")

    def pixels(self) -> np.ndarray:
        """uint8 [resolution, resolution, 3]."""
        return np.asarray(self.image.reduce(self.oversampling))

    def _place(self, points: np.ndarray, frame: Frame) -> np.ndarray:
        unit = frame.unit * self.size
        cos, sin = math.cos(frame.angle) * unit, math.sin(frame.angle) * unit
        turned = points @ np.array(((cos, sin), (-sin, cos)))
        return turned + np.array((frame.x0 * self.size - 0.5, frame.y0 * self.size - 0.5))

    def polygon(self, points: Points, colour: Colour, frame: Frame, alpha: float = 1.0) -> None:
        """Fill the polygon with these corners."""
        placed = np.rint(self._place(np.asarray(points, dtype=np.float64), frame)).astype(np.int64)
        red, green, blue = (round(channel) for channel in colour)
        self.pen.polygon(placed.ravel().tolist(), fill=(red, green, blue, round(alpha * 255)))

    def curve(self, points: Points, closed: bool = True) -> np.ndarray:
        """The smooth curve through the points (Catmull-Rom), as many corners as the size of the canvas deserves."""
        points = np.asarray(points, dtype=np.float64)
        curve = np.matmul(_catmull_rom(self.steps), points[_windows(len(points), closed)]).reshape(-1, 2)
        return curve if closed else np.concatenate([curve, points[-1:]])

    def blob(self, points: Points, colour: Colour, frame: Frame, alpha: float = 1.0) -> None:
        """Fill the smooth closed outline through the points."""
        self.polygon(self.curve(points), colour, frame, alpha)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, frame: Frame, alpha: float = 1.0) -> None:
        self.polygon(_circle(self.steps * 4) * (rx, ry) + (x, y), colour, frame, alpha)

    def stroke(self, points: Points, widths: Sequence[float], colour: Colour, frame: Frame, alpha: float = 1.0) -> None:
        """A smooth line through the points, `widths` thick at each of them."""
        table = np.column_stack([np.asarray(points, dtype=np.float64), np.asarray(widths, dtype=np.float64) / 2])
        curve = np.matmul(_catmull_rom(self.steps), table[_windows(len(table), False)]).reshape(-1, 3)
        curve = np.concatenate([curve, table[-1:]])
        along = np.empty((len(curve), 2))
        along[1:-1] = curve[2:, :2] - curve[:-2, :2]
        along[0], along[-1] = curve[1, :2] - curve[0, :2], curve[-1, :2] - curve[-2, :2]
        along /= np.sqrt((along**2).sum(axis=1, keepdims=True)) + 1e-12
        side = along[:, ::-1] * (-1, 1) * curve[:, 2:]
        self.polygon(np.concatenate([curve[:, :2] + side, (curve[:, :2] - side)[::-1]]), colour, frame, alpha)

    def ring(
        self, outline: np.ndarray, inner: float, colour: Colour, frame: Frame, centre: tuple[float, float]
    ) -> None:
        """The band between an outline and the same outline shrunk to `inner` about its centre."""
        outline = np.concatenate([outline, outline[:1]])
        self.polygon(np.concatenate([outline, ((outline - centre) * inner + centre)[::-1]]), colour, frame)

    def spot(self, x: float, y: float, rx: float, ry: float, colour: Colour, frame: Frame, alpha: float) -> None:
        """A soft spot of light or shade; its axes stay upright, whatever the frame's angle."""
        px, py = self._place(np.array([[x, y]]), frame)[0]
        width, height = (max(2, round(2 * radius * frame.unit * self.size)) for radius in (rx, ry))
        mask = (_small_spot if width * height < 1 << 17 else _spot)(width, height, alpha)
        fill = (round(colour[0]), round(colour[1]), round(colour[2]))
        self.image.paste(fill, (round(px - width / 2), round(py - height / 2)), mask)
