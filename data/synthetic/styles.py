"""Style references of the embedded world: palettes, textures and strokes, no face and no artist's work in them.

Style ``index`` is a pure function of ``(STYLE_SEED, index)``; an item is given one of ``STYLES`` by a hash of its id.
Each has a palette of five colours in one of four harmonies, and one of six ways to lay it down.
"""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

from concord.data.synthetic.draw import hsv, rgb

STYLE_SEED = 1411
STYLES = 240
SIZE = 64
_FINE = 4  # drawn at four times the side, then averaged down

HARMONIES = ("neighbours", "opposites", "triad", "one hue")
TEXTURES = ("strokes", "dots", "stripes", "patches", "hatching", "washes")


def style_image(index: int, size: int = SIZE) -> np.ndarray:
    """Style reference ``index``, uint8 (size, size, 3) RGB."""
    if index < 0 or size < 8:
        raise ValueError(f"index, size: expected 0 or more and 8 or more, got {index}, {size}")
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([STYLE_SEED, index])))
    colours = palette(rng)
    draw = _DRAW[TEXTURES[index % len(TEXTURES)]]  # each way equally often, the palette and its figures at random
    return cv2.resize(draw(rng, colours, size * _FINE), (size, size), interpolation=cv2.INTER_AREA)


def style_of(item: str) -> int:
    """Which style an item is given: the same for every suite, method and run."""
    return int.from_bytes(hashlib.sha256(f"style\x00{item}".encode()).digest()[:8], "big") % STYLES


def palette(rng: np.random.Generator) -> np.ndarray:
    """Five colours (5, 3) in [0, 255], dark to light: the first is the ground on which the others lie."""
    harmony = HARMONIES[int(rng.integers(len(HARMONIES)))]
    start = rng.random()
    hues = {
        "neighbours": start + np.array([0.0, 0.04, 0.08, -0.04, 0.12]),
        "opposites": start + np.array([0.0, 0.03, 0.5, 0.53, 0.0]),
        "triad": start + np.array([0.0, 1 / 3, 2 / 3, 0.0, 1 / 3]),
        "one hue": start + np.zeros(5),
    }[harmony]
    values = np.linspace(rng.uniform(0.15, 0.4), rng.uniform(0.85, 1.0), 5)
    strength = rng.uniform(0.35, 0.95, 5)
    return np.stack([hsv(h % 1.0, s, v) for h, s, v in zip(hues, strength, values, strict=True)])


# --------------------------------------------------------------------------------------------- six ways to lay it down
# side: the canvas in pixels. Every length is a share of it, so that a larger image shows the same.


def _strokes(rng: np.random.Generator, colours: np.ndarray, side: int) -> np.ndarray:
    """Short bent brush strokes that follow a swirling field."""
    canvas = _ground(colours[0], side)
    turn, wave = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.7, 2.0, 2)
    long, thick = rng.uniform(0.06, 0.16) * side, rng.uniform(0.012, 0.035) * side
    for _ in range(1100):
        x, y = rng.random(2)
        angle = turn[0] + 2.2 * np.sin(2 * np.pi * wave[0] * x + turn[1]) * np.cos(2 * np.pi * wave[1] * y)
        step = long / 3 * rng.uniform(0.6, 1.2)
        points = [(x * side, y * side)]
        for _ in range(3):
            points.append((points[-1][0] + step * np.cos(angle), points[-1][1] + step * np.sin(angle)))
            angle += rng.normal(0, 0.18)
        cv2.polylines(
            canvas, [_fixed(np.array(points))], False, _tint(rng, colours), max(1, round(thick)), cv2.LINE_AA, _SHIFT
        )
    return canvas


def _dots(rng: np.random.Generator, colours: np.ndarray, side: int) -> np.ndarray:
    """Round dabs side by side, their colour drifting over the image."""
    canvas = _ground(colours[-1], side)
    drift = _noise(rng, side, 3)
    radius = rng.uniform(0.012, 0.03) * side
    for _ in range(1500):
        x, y = rng.random(2)
        level = drift[int(y * side), int(x * side)] + rng.normal(0, 0.14)
        colour = colours[int(np.clip(level * 5, 0, 4))]
        centre = _fixed(np.array([[x * side, y * side]]))[0]
        size = round(radius * rng.uniform(0.6, 1.3) * (1 << _SHIFT))
        cv2.circle(canvas, (int(centre[0]), int(centre[1])), size, _shade(rng, colour), -1, cv2.LINE_AA, _SHIFT)
    return canvas


def _stripes(rng: np.random.Generator, colours: np.ndarray, side: int) -> np.ndarray:
    """Bands that bend, each in a colour of the palette."""
    y, x = np.mgrid[:side, :side] / side
    angle, count = rng.uniform(0, np.pi), rng.uniform(4, 11)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    bend = rng.uniform(0.02, 0.09) * np.sin(2 * np.pi * rng.uniform(1, 2.6) * along + rng.uniform(0, 6))
    order = rng.permutation(5)
    return colours[order[(np.floor((across + bend) * count) % 5).astype(int)]].round().astype(np.uint8)


def _patches(rng: np.random.Generator, colours: np.ndarray, side: int) -> np.ndarray:
    """Flat cells with dark joints, like a window of coloured glass."""
    count = int(rng.integers(22, 70))
    seeds = rng.random((count, 2)) * side
    y, x = np.mgrid[:side, :side]
    apart = np.sort((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2, axis=-1)
    nearest = np.argmin((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2, axis=-1)
    tones = colours[rng.integers(1, 5, count)] + rng.normal(0, 9, (count, 1))
    canvas = tones[nearest]
    joint = np.sqrt(apart[..., 1]) - np.sqrt(apart[..., 0]) < rng.uniform(0.012, 0.03) * side
    canvas[joint] = colours[0] * 0.5
    return canvas.clip(0, 255).round().astype(np.uint8)


def _hatching(rng: np.random.Generator, colours: np.ndarray, side: int) -> np.ndarray:
    """Thin straight lines in two or three directions on light paper."""
    canvas = _ground(colours[-1] * 0.5 + 127, side)
    shade = _noise(rng, side, 3)
    for direction in range(int(rng.integers(2, 4))):
        angle = rng.uniform(0, np.pi)
        gap, colour = rng.uniform(0.022, 0.045), rgb(colours[direction])
        for offset in np.arange(-0.75, 0.75, gap):
            for start in np.arange(-0.75, 0.75, 0.09):
                ends = [
                    (0.5 + s * np.cos(angle) - offset * np.sin(angle), 0.5 + s * np.sin(angle) + offset * np.cos(angle))
                    for s in (start, start + 0.1)
                ]
                wobble = rng.normal(0, 0.002, (2, 2))  # drawn for every line, so that a size leaves out the same ones
                at = np.clip((np.mean(ends, axis=0) * side).astype(int), 0, side - 1)
                if shade[at[1], at[0]] > 0.25 * (direction + 1):
                    points = (np.array(ends) + wobble) * side
                    half = 0.0055 * side - 0.5  # cv2 paints half a pixel beyond an outline
                    across = half * np.array([-np.sin(angle), np.cos(angle)])
                    line = np.concatenate([points + across, (points - across)[::-1]])
                    cv2.fillPoly(canvas, [_fixed(line)], colour, cv2.LINE_AA, _SHIFT)
    return canvas


def _washes(rng: np.random.Generator, colours: np.ndarray, side: int) -> np.ndarray:
    """Soft clouds of colour with paler rims, as water leaves them."""
    level = _noise(rng, side, 4) * 4
    low = np.floor(level).clip(0, 3).astype(int)
    share = level - low
    soft = (3 * share**2 - 2 * share**3)[..., None]
    canvas = colours[low] * (1 - soft) + colours[low + 1] * soft
    rim = np.exp(-((share - 0.5) ** 2) / 0.004)[..., None]
    grain = rng.normal(0, 5, (side // _FINE, side // _FINE))
    canvas = canvas + 26 * rim + cv2.resize(grain, (side, side), interpolation=cv2.INTER_LINEAR)[..., None]
    return canvas.clip(0, 255).round().astype(np.uint8)


_DRAW = {
    "strokes": _strokes,
    "dots": _dots,
    "stripes": _stripes,
    "patches": _patches,
    "hatching": _hatching,
    "washes": _washes,
}

_SHIFT = 4


def _ground(colour: np.ndarray, side: int) -> np.ndarray:
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = rgb(colour)
    return canvas


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _tint(rng: np.random.Generator, colours: np.ndarray) -> tuple[int, int, int]:
    """A colour of the palette other than its ground, slightly lighter or darker."""
    return _shade(rng, colours[int(rng.integers(1, 5))])


def _shade(rng: np.random.Generator, colour: np.ndarray) -> tuple[int, int, int]:
    return rgb(colour + rng.normal(0, 11))


def _noise(rng: np.random.Generator, side: int, octaves: int) -> np.ndarray:
    """Smooth noise (side, side) in [0, 1], evenly spread over that range."""
    total = np.zeros((side, side))
    for octave in range(octaves):
        grid = rng.random((2 ** (octave + 1) + 2,) * 2)
        total += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC) / 2**octave
    return (total - total.min()) / (total.max() - total.min())
