"""The five beards, which change the image and never the mask."""

from __future__ import annotations

import numpy as np

from concord.data.synthetic.draw import Canvas, mirror, mix, rgb, smooth
from concord.data.synthetic.faces.geometry import Pose, Shape
from concord.data.synthetic.faces.person import Scene


def paint_beard(
    canvas: Canvas,
    s: Shape,
    pose: Pose,
    scene: Scene,
    colours: dict[str, np.ndarray],
    skin: np.ndarray,
    level: int,
    age: int,
) -> None:
    """The five beards. They change the image only: every pixel keeps the label of what lies beneath.

    1 stubble: an even dark (on dark skin: darker; in old age pale) shade with dots. 2 short: a thin solid band along
    the jaw. 3 medium: the whole jaw and a moustache. 4 bushy: also far beyond the jaw, ragged. 5 long: hangs over the
    neck to the clothes.
    """
    if level == 0:
        return
    rng = np.random.Generator(np.random.Philox(scene.texture_seed + 1))
    base, dark, light = colours["base"], rgb(mix(colours["base"], colours["dark"], 0.8)), rgb(colours["light"])
    if age == 4:
        base = np.full(3, 112.0 if skin.sum() > 480 else 184.0)
        dark, light = rgb(base * 0.5), rgb(mix(base, (255, 255, 255), 0.6))
    elif np.abs(base - skin).sum() < 165 and base.sum() < 640:  # hair of the skin's own colour would be invisible
        if skin.sum() > 250:
            base = base * (0.62 if base.sum() > 400 else 0.36)
        else:
            base = base + 74
        dark, light = rgb(base * 0.55), rgb(mix(base, (255, 232, 200), 0.3))
    w, chin = s.width, s.chin
    jaw = s.jaw[s.jaw[:, 1] > -1.5]
    cheek = [
        (w * 0.86, -1.5),
        (w * 0.80, 4.5),
        (s.mouth_x + 3.2, 8.4),
        (s.nose_width + 0.8, s.nose_tip + 1.2),
        (0.0, s.nose_tip + 1.7),
    ]
    over = np.concatenate([smooth(cheek), (smooth(cheek) * (-1, 1))[::-1]])
    full = np.concatenate([jaw, over])
    if level == 1:
        shade = np.array([70.0, 74, 84]) if skin.sum() > 300 else np.array([18.0, 16, 20])
        if colours["base"].sum() > 640:
            shade = np.array([128.0, 132, 142]) if skin.sum() > 420 else np.array([190.0, 190, 196])
        canvas.soft(pose(full), rgb(shade), 0.46, 0.6, (1,))
        xs, ys = rng.uniform(-w, w, 150), rng.uniform(0, chin, 150)
        keep = pose(np.stack([xs, ys], 1))
        inside = _inside(canvas, full, pose)
        at = np.clip((keep * 4).astype(int), 0, 255)
        canvas.dots(keep[inside[at[:, 1], at[:, 0]] > 0], rgb(shade * 0.55), 0.3)
        return
    if level == 2:
        inner = [
            (w * 0.865, -1.5),
            (w * 0.82, 5.0),
            (w * 0.66, chin * 0.62),
            (w * 0.36, chin * 0.82),
            (0.0, chin * 0.845),
        ]
        band = np.concatenate([s.jaw[s.jaw[:, 1] > -1.5] * (1.0, 1.0), smooth(inner), (smooth(inner) * (-1, 1))[::-1]])
        canvas.fill(pose(band), rgb(base))
        canvas.line(pose(np.concatenate([smooth(inner), (smooth(inner) * (-1, 1))[::-1]])), dark, 0.4)
        canvas.line(pose(jaw), dark, 0.5)
        _grey_sides(canvas, s, pose, age)
        return
    patch = full
    if level == 4:
        grow = jaw * (1.0, 1.0)
        out = np.array([0.0, chin * 0.55])
        away = grow - out
        away /= np.hypot(*away.T)[:, None]
        rise = np.clip((grow[:, 1] + 2.0) / 8.0, 0, 1)[:, None]
        edge = smooth(grow + away * 4.6 * rise + (0.0, 1.0) * rise, steps=5)
        ragged = np.where(np.arange(len(edge)) % 4 < 2, 0.0, 1.3)[:, None]
        centre = edge - out
        patch = np.concatenate([edge + centre / np.hypot(*centre.T)[:, None] * ragged, over])
    elif level == 5:
        hang = smooth(
            [
                (w * 0.80, chin * 0.62),
                (w * 0.66, chin + 2.5),
                (w * 0.5, chin + 8.0),
                (w * 0.26, chin + 13.5),
                (0.0, chin + 15.0),
            ]
        )
        left = s.jaw[(s.jaw[:, 1] > -1.5) & (s.jaw[:, 1] < chin * 0.6) & (s.jaw[:, 0] < 0)]
        patch = np.concatenate([left, (hang * (-1, 1)), hang[::-1], (left * (-1, 1))[::-1], over])
    canvas.fill(pose(patch), rgb(base))
    canvas.line(pose(patch), dark, 0.5, closed=True)
    reach = {3: chin - 0.8, 4: chin + 4.0, 5: chin + 13.0}[level]
    spread = {3: 0.74, 4: 0.98, 5: 0.74}[level]
    for k, u in enumerate(np.linspace(-1, 1, 13)):
        x0, x1 = u * w * 0.74, u * w * spread * (0.62 if level != 5 else 0.3)
        start = s.mouth_y + 3.4 + s.mouth_open - 8.0 * abs(u) ** 1.5
        stop = reach - (0.28 if level != 5 else 0.45) * (reach - 6.0) * abs(u) ** 2
        canvas.line(
            pose(smooth([(x0, start), (x0 * 1.02 + 0.3, (start + stop) / 2), (x1, stop)], steps=4)),
            light if k % 2 else dark,
            0.45,
        )
    moustache = smooth(
        mirror(
            [
                (0.6, s.nose_tip + 1.7),
                (s.nose_width + 1.0, s.nose_tip + 1.4),
                (s.mouth_x + 2.6, s.mouth_y + 0.6),
                (s.mouth_x * 0.6, s.mouth_y - 1.2),
            ]
        ),
        closed=True,
    )
    canvas.line(pose(moustache), dark, 0.4, closed=True)
    _grey_sides(canvas, s, pose, age)


def _grey_sides(canvas: Canvas, s: Shape, pose: Pose, age: int) -> None:
    """The greying sides of a beard in one's forties, in line with the temples."""
    if age == 3:
        for sign in (-1, 1):
            patch = smooth(
                [
                    (s.width * 0.8, -1.0),
                    (s.width * 1.02, -1.0),
                    (s.width * 0.98, 6.0),
                    (s.width * 0.84, 9.5),
                    (s.width * 0.8, 4.0),
                ],
                closed=True,
            )
            canvas.soft(pose(patch * (sign, 1)), (196, 196, 202), 0.85, 0.4)


def _inside(canvas: Canvas, polygon: np.ndarray, pose: Pose) -> np.ndarray:
    """The polygon as a 0/1 image (256, 256), cut to the skin."""
    probe = Canvas.__new__(Canvas)
    probe.label = np.zeros_like(canvas.label)
    probe.fill(pose(polygon), None, 1)
    return probe.label * (canvas.label == 1)
