"""Drawing tools: a canvas that paints the image and its label image with one geometry, and smooth curves.

Everything is drawn on a 256 x 256 canvas (four times the final side) with coordinates to 1/16 of a canvas pixel.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

SIZE = 64
SUPER = 4
CANVAS = SIZE * SUPER
_SHIFT = 4
_FIX = 1 << _SHIFT

Colour = tuple[int, int, int]

#: Weight of a class in the vote for a mask pixel, in quarters: thin parts count 1.5 times, to survive at 64 x 64.
_VOTE = np.full(19, 4, np.uint16)
_VOTE[[3, 4, 5, 6, 7, 10, 11, 12, 15, 16]] = 6


class Canvas:
    """An image (256, 256, 3) RGB uint8 and a label image (256, 256) uint8, drawn together."""

    def __init__(self) -> None:
        self.image = np.zeros((CANVAS, CANVAS, 3), np.uint8)
        self.label = np.zeros((CANVAS, CANVAS), np.uint8)

    def fill(self, points: np.ndarray, colour: Colour | None, label: int | None = None) -> None:
        """Fill a polygon (n, 2), in pixels of the 64 x 64 image; ``None`` leaves image or label as it is."""
        fixed = [_fixed(points)]
        if colour is not None:
            cv2.fillPoly(self.image, fixed, colour, cv2.LINE_8, _SHIFT)
        if label is not None:
            cv2.fillPoly(self.label, fixed, label, cv2.LINE_8, _SHIFT)

    def line(
        self, points: np.ndarray, colour: Colour | None, width: float, label: int | None = None, closed: bool = False
    ) -> None:
        """Draw a polyline (n, 2); ``width`` is in pixels of the 64 x 64 image."""
        fixed = [_fixed(points)]
        thick = max(1, round(width * SUPER))
        if colour is not None:
            cv2.polylines(self.image, fixed, closed, colour, thick, cv2.LINE_8, _SHIFT)
        if label is not None:
            cv2.polylines(self.label, fixed, closed, label, thick, cv2.LINE_8, _SHIFT)

    def dots(self, points: np.ndarray, colour: Colour, radius: float) -> None:
        """Filled circles in the image only."""
        r = max(1, round(radius * SUPER * _FIX))
        for x, y in _fixed(points):
            cv2.circle(self.image, (int(x), int(y)), r, colour, -1, cv2.LINE_8, _SHIFT)

    def soft(
        self, points: np.ndarray, colour: Colour, alpha: float, blur: float = 0.0, within: tuple[int, ...] | None = None
    ) -> None:
        """Blend a polygon with softened edges into the image, only over the labels ``within`` (all if None)."""
        spread = round(blur * SUPER)
        fixed = _fixed(points)
        left, top, wide, tall = cv2.boundingRect(fixed)
        x0, y0 = max(left // _FIX - 2 * spread - 2, 0), max(top // _FIX - 2 * spread - 2, 0)
        x1 = min((left + wide - 1) // _FIX + 2 * spread + 3, CANVAS)
        y1 = min((top + tall - 1) // _FIX + 2 * spread + 3, CANVAS)
        if x1 <= x0 or y1 <= y0:
            return
        weight: np.ndarray = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(
            weight, [fixed - np.array([x0 * _FIX, y0 * _FIX], np.int32)], round(255 * alpha), cv2.LINE_8, _SHIFT
        )
        if spread > 0:
            side = 2 * spread + 1
            weight = cv2.blur(cv2.blur(weight, (side, side), borderType=cv2.BORDER_CONSTANT), (side, side))
        if within is not None:
            weight = cv2.bitwise_and(weight, cv2.LUT(self.label[y0:y1, x0:x1], _table(within)))
        region = self.image[y0:y1, x0:x1]
        share = cv2.merge([weight, weight, weight]).astype(np.uint16)
        blend = region * (255 - share) + np.array(colour, np.uint16) * share + np.uint16(127)
        # (v + 1 + v // 256) // 256 is v // 255 for every v below 65,535, without the slow division
        region[...] = (blend + np.uint16(1) + (blend >> 8)) >> 8

    def multiply(self, field: np.ndarray, within: tuple[int, ...]) -> None:
        """Multiply the image by a smooth field (64, 64, 3), float in [0, 1.99], over the labels ``within``."""
        coarse = np.clip(field * 128, 0, 255).astype(np.uint8)
        fine = cv2.resize(coarse, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)
        lit = cv2.multiply(self.image, fine, scale=1 / 128)
        cv2.copyTo(lit, self.where(within), self.image)

    def where(self, labels: tuple[int, ...]) -> np.ndarray:
        """255 where the label image shows one of ``labels``, else 0: uint8 (256, 256)."""
        return cv2.LUT(self.label, _table(labels))

    def reduce(self) -> tuple[np.ndarray, np.ndarray]:
        """The image (64, 64, 3) as means of 4 x 4 canvas pixels, and the mask (64, 64) by a weighted vote.

        The vote: a mask pixel takes the class that covers most of its 4 x 4 canvas pixels, where the thin parts
        (glasses, eyes, brows, mouth, lips, earrings, necklace) count 1.5 times; of equals, the lower number wins.
        """
        image = cv2.resize(self.image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        best = np.zeros((SIZE, SIZE), np.uint16)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for c in range(19):
            # 240 = 15 * 16: the mean of 4 x 4 values 0/240 is a whole number, so the vote is exact
            part = (self.label == c) * np.uint8(240)
            left, top, wide, tall = cv2.boundingRect(part)
            if wide == 0:
                continue
            x0, y0, x1, y1 = left // SUPER, top // SUPER, -(-(left + wide) // SUPER), -(-(top + tall) // SUPER)
            part = part[y0 * SUPER : y1 * SUPER, x0 * SUPER : x1 * SUPER]
            votes = cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA) * _VOTE[c]
            wins = votes > best[y0:y1, x0:x1]
            np.copyto(mask[y0:y1, x0:x1], c, where=wins)
            np.maximum(best[y0:y1, x0:x1], votes, out=best[y0:y1, x0:x1])
        return image, mask


@lru_cache(maxsize=64)
def _table(labels: tuple[int, ...]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[list(labels)] = 255
    return table


def _fixed(points: np.ndarray) -> np.ndarray:
    """Image coordinates (pixel centres at .5) to fixed-point canvas coordinates (pixel centres at whole numbers)."""
    return np.rint((np.asarray(points, np.float64) * SUPER - 0.5) * _FIX).astype(np.int32)


@lru_cache(maxsize=256)
def _spline_basis(count: int, closed: bool, steps: int) -> np.ndarray:
    """Catmull-Rom weights (m, count): basis @ control points = points on a smooth curve through them."""
    segments = count if closed else count - 1
    t = np.arange(steps) / steps
    weights = 0.5 * np.stack(
        [-(t**3) + 2 * t**2 - t, 3 * t**3 - 5 * t**2 + 2, -3 * t**3 + 4 * t**2 + t, t**3 - t**2], axis=1
    )
    basis = np.zeros((segments * steps + (not closed), count))
    for s in range(segments):
        for k in range(4):
            j = s + k - 1
            j = j % count if closed else min(max(j, 0), count - 1)
            basis[s * steps : (s + 1) * steps, j] += weights[:, k]
    if not closed:
        basis[-1, -1] = 1.0
    return basis


def smooth(control: np.ndarray | list[tuple[float, float]], closed: bool = False, steps: int = 6) -> np.ndarray:
    """Points on a smooth curve through the control points (n, 2)."""
    control = np.asarray(control, np.float64)
    return _spline_basis(len(control), closed, steps) @ control


@lru_cache(maxsize=8)
def _circle(count: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def oval(x: float, y: float, rx: float, ry: float, count: int = 20) -> np.ndarray:
    """Points (count, 2) on an ellipse."""
    return _circle(count) * (rx, ry) + (x, y)


def mirror(half: list[tuple[float, float]]) -> np.ndarray:
    """A symmetric curve: the points of ``half`` (right side, x >= 0), then their mirror images in reverse order."""
    right = np.asarray(half, np.float64)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def rgb(values: np.ndarray | tuple[float, ...]) -> Colour:
    """Clip and round to an RGB colour."""
    r, g, b = (int(min(max(v, 0), 255) + 0.5) for v in values)
    return r, g, b


def mix(a: np.ndarray | Colour, b: np.ndarray | Colour, share: float) -> np.ndarray:
    """(1 - share) * a + share * b, float64 (3,)."""
    return np.asarray(a, np.float64) * (1 - share) + np.asarray(b, np.float64) * share


def hsv(h: float, s: float, v: float) -> np.ndarray:
    """Hue, saturation and value in [0, 1] to RGB in [0, 255]."""
    k = (np.array([5.0, 3.0, 1.0]) + h * 6) % 6
    return 255 * (v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1))


def ramp(stops: np.ndarray, position: float) -> np.ndarray:
    """The colour at ``position`` in [0, 1] of a ramp of colours (n, 3)."""
    x = min(max(position, 0.0), 1.0) * (len(stops) - 1)
    i = min(int(x), len(stops) - 2)
    return mix(stops[i], stops[i + 1], x - i)
