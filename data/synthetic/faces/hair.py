"""Hair: outlines, strands, highlights and the greying of age."""

from __future__ import annotations

import cv2
import numpy as np

from concord.data.synthetic.draw import Canvas, mirror, mix, oval, ramp, rgb, smooth
from concord.data.synthetic.faces.geometry import Pose, Shape
from concord.data.synthetic.faces.person import Person, Scene

HAIR = 13
HAIR_RAMP = np.array(
    [(32, 27, 30), (62, 40, 30), (98, 62, 38), (134, 84, 46), (158, 74, 38), (190, 136, 70), (226, 190, 120)], float
)
HAIR_NAMES = ("black", "dark brown", "brown", "light brown", "red", "dark blond", "blond")

#: Per style: how far the hair stands off the head (x, top), where its outside ends (y), and its flare there.
_STYLES = {
    "long": (2.6, 2.6, 40.0, 2.2),
    "wavy": (3.6, 3.0, 40.0, 3.2),
    "bob": (3.4, 2.8, 15.0, 2.6),
    "pixie": (1.8, 2.6, 1.5, -0.3),
    "bun": (1.4, 2.0, -0.5, -0.6),
    "curly": (5.0, 3.4, 13.0, 2.6),
    "short": (1.5, 2.4, -2.0, -0.2),
    "parted": (1.8, 3.2, -1.0, -0.2),
    "buzz": (0.7, 0.9, -4.5, 0.0),
    "curls": (2.4, 3.4, -1.5, 0.2),
    "shoulder": (2.8, 2.4, 23.0, 2.2),
    "bald": (0.0, 0.0, 0.0, 0.0),
}
COVERS_EARS = ("long", "wavy", "bob", "curly", "shoulder")


def hair_colour_index(person: Person) -> int:
    """Index into HAIR_NAMES of the person's own (not yet grey) hair colour."""
    return round((person["hair_colour"] + 1) / 2 * (len(HAIR_RAMP) - 1))


def hair_colours(person: Person, age: int) -> dict[str, np.ndarray]:
    """Base, dark, light and brow colours: own colour to 40, half grey at level 4, white at level 5."""
    # the ramp is entered at whole steps, so that each colour has one name
    own = ramp(HAIR_RAMP, hair_colour_index(person) / (len(HAIR_RAMP) - 1))
    own = own + 8 * person["skin_undertone"]
    if age == 5:
        base, light, dark = np.array([226.0, 226, 230]), np.array([252.0, 252, 253]), np.array([168.0, 170, 180])
        brow = np.array([214.0, 214, 218])
    elif age == 4:
        base = mix(own, (142, 142, 146), 0.66)
        light, dark, brow = (
            np.array([206.0, 206, 210]),
            mix(own, (70, 70, 76), 0.4),
            mix(own * 0.8, (110, 110, 114), 0.6),
        )
    else:
        base, light, dark = own, mix(own, (255, 232, 200), 0.28) + 6, own * 0.62
        brow = own * 0.72
    return {"base": base, "light": light, "dark": dark, "brow": brow}


def _outer(s: Shape, style: str) -> list[tuple[float, float]]:
    """The right half of the hair's outside, from the top down to its end."""
    side, top, end, flare = _STYLES[style]
    w = s.width
    points = [(5.0, -24.4 - top), (w * 0.66, -21.0 - top * 0.9), (w * 0.97 + side * 0.8, -12.5), (w + side, -4.0)]
    if end > 3:
        points += [(w + side + flare * 0.7, 5.0), (w + side + flare, min(end * 0.75, 16.0))]
    return [*points, (w + side + flare * (0.6 if end < 30 else 1.2), end)]


def paint_back_hair(canvas: Canvas, s: Shape, pose: Pose, person: Person, colours: dict[str, np.ndarray]) -> None:
    """The hair behind head and neck."""
    style = person.hair_style
    dark = rgb(colours["base"] * 0.62)
    if style == "bun":
        knot = oval(0.0, -26.5, 7.5, 5.5)
        canvas.fill(pose(knot), rgb(colours["base"]), HAIR)
        canvas.line(pose(knot), rgb(colours["dark"] * 0.8), 0.6, closed=True)
        canvas.line(pose(smooth([(-5, -27), (0, -29.5), (5, -27)])), rgb(colours["light"]), 0.6)
    if style in COVERS_EARS:
        canvas.fill(pose(smooth(mirror(_outer(s, style)), closed=True)), dark, HAIR)


def paint_front_hair(
    canvas: Canvas,
    s: Shape,
    pose: Pose,
    person: Person,
    scene: Scene,
    colours: dict[str, np.ndarray],
    age: int,
    bangs: int,
) -> None:
    """The hair on top and at the sides, the bangs, strands and highlights."""
    style = person.hair_style
    if style == "bald":
        if age >= 3:
            _tufts(canvas, s, pose, colours, age)
        return
    rng = np.random.Generator(np.random.Philox(scene.texture_seed))
    end = _STYLES[style][2]
    w, line = s.width, s.hairline
    base, outline = rgb(colours["base"]), rgb(colours["dark"] * 0.7)
    part = 0.0
    if style in ("parted", "long", "pixie", "short"):
        part = 6.5 * (1 if person["brow_arch"] > 0 else -1)
    outer = _outer(s, style)
    right_outside = np.array(outer)
    recede = -1.3 if style in ("short", "parted") else 0.6
    inner = [(w * 0.58, line + recede), (w * 0.81, line + 2.6 + recede), (w * 0.915, -6.5)]
    if end > 3:
        inner += [(w * 0.955, 2.0), (w * (0.98 if style != "curly" else 1.0), min(end * 0.6, 14.0)), (w * 0.99, end)]
    else:
        inner += [(w * 0.955, end)]
    right_inside = np.array(inner)
    peak = [(part, line - 1.4 if part else line)]
    left_out, left_in = right_outside[::-1] * (-1, 1), right_inside * (-1, 1)
    out = smooth(np.concatenate([left_out, right_outside]))
    inn = smooth(np.concatenate([right_inside[::-1], peak, left_in]))
    if style == "wavy":
        out = out + np.sign(out[:, :1]) * 1.1 * np.sin(out[:, 1:] * 0.9) * (out[:, 1:] > -16) * (1.0, 0.0)
    cap = np.concatenate([out, inn])
    if style == "buzz":
        base = rgb(mix(colours["base"], (150, 120, 100), 0.18))
    canvas.fill(pose(cap), base, HAIR)
    if style in ("curly", "curls"):
        ring = out[::3]
        ring = ring[ring[:, 1] < 26]
        size = 3.0 if style == "curly" else 2.1
        for x, y in ring:
            lock = pose(oval(x * 0.985, y * 0.985, size, size, 12))
            canvas.fill(lock, base, HAIR)
            canvas.line(lock[3:10], outline, 0.45)
    if style not in ("curly", "curls"):
        canvas.line(pose(inn), outline, 0.5, HAIR)
        canvas.line(pose(out), outline, 0.5, HAIR)
    fringe = _bangs(s, bangs, part)
    for piece in fringe:
        canvas.fill(pose(piece), base, HAIR)
    _strands(canvas, s, pose, colours, rng, style, end, part, age)
    if age == 3:
        # grey temples: the mark of one's forties
        for sign in (-1, 1):
            for x0, x1, tone in ((0.84, 1.0, (206, 206, 212)), (1.03, 1.25, (176, 176, 182))):
                patch = smooth(
                    [
                        (w * x0, -15.5),
                        (w * x1, -16.5),
                        (w * (x1 + 0.06), -6.0),
                        (w * (x1 + 0.03), 5.0),
                        (w * x0, 3.0),
                        (w * x0, -6.0),
                    ],
                    closed=True,
                )
                canvas.soft(pose(patch * (sign, 1)), tone, 0.88, 0.5, (HAIR,))
    for piece in fringe:
        low = piece[:13] if bangs >= 3 else piece[1:16] if bangs == 1 else piece[1:]
        canvas.line(pose(low), outline, 0.5 if bangs != 2 else 0.35, HAIR)
    shine = smooth(
        [(-w * 0.62, -19.5), (0, -22.8), (w * 0.62, -19.5), (w * 0.5, -17.6), (0, -20.2), (-w * 0.5, -17.6)],
        closed=True,
    )
    offset = np.array([scene.light[0] * 4.5, 0.0])
    canvas.soft(pose(shine + offset), rgb(colours["light"] + 22), 0.5, 0.9, (HAIR,))


def _bangs(s: Shape, level: int, part: float) -> list[np.ndarray]:
    """Polygons of the bangs: 1 a swept lock, 2 thin strands, 3-5 a fringe to mid-forehead, to the brows, over them."""
    w, line = s.width, s.hairline
    brow_top = s.brow_y - s.brow_arch - s.brow_thick
    if level == 0:
        return []
    if level == 1:
        sign = -1 if part >= 0 else 1
        swoop = [
            (-4.5, line - 1.4),
            (2.5, line + 2.2),
            (9.0, line + 5.8),
            (w * 0.93, -6.0),
            (w * 1.0, -11.0),
            (w * 0.6, -20.0),
        ]
        return [smooth(np.array(swoop) * (sign, 1), closed=True)]
    if level == 2:
        tips = np.array([-10.5, -5.4, 0.3, 5.8, 10.6])
        drops = np.array([-9.8, -9.2, -9.6, -9.0, -9.9])
        return [
            np.array(
                [
                    (x * 0.95 - 1.9, line - 1.6),
                    (x * 0.95 - 1.7, line + 0.4),
                    (x + 0.2, d),
                    (x * 0.95 + 1.7, line + 0.4),
                    (x * 0.95 + 1.9, line - 1.6),
                ]
            )
            for x, d in zip(tips, drops)
        ]
    low = {3: line + 0.55 * (brow_top - line), 4: brow_top + 0.2, 5: s.brow_y + s.brow_thick + 0.9}[level]
    xs = np.linspace(-w * 0.94, w * 0.94, 13)
    jag = np.where(np.arange(13) % 2 == 0, 0.0, 0.9) - (0.9 if level == 5 else 0.7)
    bend = 4.0 * np.clip(np.abs(xs / w) - 0.55, 0, 1) ** 1.5
    bottom = np.stack([xs, low + jag + bend + (0.5 if level == 5 else 0.0)], 1)
    roof = np.array([(w * 0.93, -12.5), (w * 0.7, -18.5), (0.0, -21.5), (-w * 0.7, -18.5), (-w * 0.93, -12.5)])
    return [np.concatenate([bottom, roof])]


def _strands(
    canvas: Canvas,
    s: Shape,
    pose: Pose,
    colours: dict[str, np.ndarray],
    rng: np.random.Generator,
    style: str,
    end: float,
    part: float,
    age: int,
) -> None:
    """Light and dark strands from the parting outwards, kept inside the hair."""
    w = s.width
    sheet = canvas.image.copy()
    saved, canvas.image = canvas.image, sheet
    light, dark = rgb(colours["light"]), rgb(mix(colours["base"], colours["dark"], 0.75))
    jitter = rng.uniform(-1, 1, (40, 3))
    wave = 1.5 if style == "wavy" else 0.0
    if style == "buzz":
        x, y = rng.uniform(-w, w, 60), rng.uniform(-26, -5, 60)
        canvas.dots(pose(np.stack([x, y], 1)), dark, 0.35)
    elif style in ("curly", "curls"):
        for k in range(26 if style == "curly" else 16):
            a = (
                np.pi
                * (k + 0.5 + 0.4 * jitter[k, 0])
                / (26 if style == "curly" else 16)
                * (1.24 if style == "curly" else 1.0)
            )
            a -= 0.38 if style == "curly" else 0.0
            r = 1.03 + 0.13 * jitter[k, 1]
            lock = oval(np.cos(a) * (w + 0.5) * r, -3 - np.sin(a) * 19.5 * r, 1.7, 1.7, 12)
            canvas.line(pose(lock[: 7 + k % 3]), light if k % 2 else dark, 0.6)
    else:
        for k, u in enumerate(np.linspace(-1, 1, 17)):
            u = u + 0.05 * jitter[k, 0]
            foot_y = end + 1 if abs(u) > 0.8 and end > 3 else -9.0 + 5.0 * abs(u)
            x = u * (w + 1.6)
            drift = part * (1 - abs(u)) * 0.9
            points = [
                (drift + 3 * u, -26.5),
                (drift * 0.6 + x * 0.72, -21.0 + 2.2 * u * u),
                (x * 0.97, -13.0 + 5 * u * u),
            ]
            if foot_y > 3:
                points += [(x * 1.06 + wave, 2.0), (x * 1.1 - wave, 12.0), (x * 1.12 + wave, 24.0), (x * 1.12, 34.0)]
            else:
                points += [(x, foot_y)]
            heavy = 0.75 if age == 4 and k % 2 == 0 else 0.5
            canvas.line(pose(smooth(points, steps=4)), light if k % 2 == 0 else dark, heavy)
    canvas.image = saved
    cv2.copyTo(sheet, canvas.where((HAIR,)), canvas.image)


def _tufts(canvas: Canvas, s: Shape, pose: Pose, colours: dict[str, np.ndarray], age: int) -> None:
    """The hair left above the ears of a bald man from his forties on."""
    w = s.width
    tone = mix(colours["base"], (196, 196, 202), 0.6) if age == 3 else colours["base"]
    for sign in (-1, 1):
        tuft = smooth(
            [(w * 0.9, -12.5), (w + 1.6, -11.5), (w + 2.8, -5.5), (w + 1.8, -1.0), (w * 0.96, -1.5), (w * 0.9, -6.0)],
            closed=True,
        )
        canvas.fill(pose(tuft * (sign, 1)), rgb(tone), HAIR)
        canvas.line(pose(tuft * (sign, 1)), rgb(colours["dark"] * 0.8), 0.45, HAIR, closed=True)
        canvas.line(pose([(sign * w * 0.98, -10.0), (sign * (w + 0.8), -2.5)]), rgb(colours["light"]), 0.5)
