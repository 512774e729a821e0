"""What a person wears on the head: hats, earrings, glasses."""

from __future__ import annotations

import numpy as np

from concord.data.synthetic.draw import Canvas, hsv, mirror, mix, oval, rgb, smooth
from concord.data.synthetic.faces.geometry import Pose, Shape
from concord.data.synthetic.faces.hair import COVERS_EARS
from concord.data.synthetic.faces.person import Person, Scene

GLASSES, HAT, EARRING = 3, 14, 15
_FRAMES = np.array([(40, 36, 40), (92, 52, 34), (60, 66, 96), (122, 34, 44)], float)


def paint_hat(canvas: Canvas, s: Shape, pose: Pose, scene: Scene) -> None:
    """A knitted beanie, a peaked cap or a brimmed hat; it hides the hair above its rim."""
    if scene.hat is None:
        return
    base = hsv(*scene.hat_hsv)
    dark, light = rgb(base * 0.62), rgb(mix(base, (255, 255, 255), 0.22))
    w = s.width + 2.6
    rim = s.hairline + 2.6
    if scene.hat == "beanie":
        dome = smooth(
            mirror([(4.0, -31.0), (w * 0.7, -27.0), (w * 0.98, -19.5), (w, rim + 0.6), (w * 0.4, rim - 0.6)]),
            closed=True,
        )
        band = smooth(
            mirror(
                [(4.0, rim - 5.6), (w * 0.9, rim - 4.4), (w + 0.6, rim - 1.2), (w + 0.3, rim + 1.2), (w * 0.4, rim)]
            ),
            closed=True,
        )
        canvas.fill(pose(dome), rgb(base), HAT)
        for x in np.linspace(-0.8, 0.8, 7):
            canvas.line(pose([(x * w * 0.5, -30.0), (x * w * 0.95, rim - 5)]), dark, 0.4)
        canvas.fill(pose(band), light, HAT)
        for x in np.linspace(-0.9, 0.9, 12):
            canvas.line(pose([(x * w, rim - 4.6 + 0.8 * x * x), (x * w, rim + 0.4)]), dark, 0.35)
        canvas.line(pose(band), dark, 0.5, HAT, closed=True)
        canvas.line(pose(dome), dark, 0.5, HAT, closed=True)
    else:
        high = -30.0 if scene.hat == "cap" else -29.0
        dome = smooth(
            mirror(
                [(6.0, high), (w * 0.74, high + 4.0), (w * 0.96, -17.5), (w * 0.97, rim - 0.5), (w * 0.4, rim - 1.0)]
            ),
            closed=True,
        )
        canvas.fill(pose(dome), rgb(base), HAT)
        canvas.line(pose(dome), dark, 0.5, HAT, closed=True)
        if scene.hat == "cap":
            canvas.line(pose([(0, high), (0, rim - 3)]), dark, 0.4)
            canvas.soft(pose(oval(-w * 0.4, -22, 4, 5)), light, 0.6, 1.0, (HAT,))
            visor = smooth(
                mirror([(w * 0.5, rim - 3.4), (w * 0.96, rim - 1.4), (w * 0.8, rim + 1.6), (w * 0.3, rim + 2.2)]),
                closed=True,
            )
        else:
            ribbon = np.array(
                [
                    (-w * 0.97, rim - 4.6),
                    (0, rim - 5.6),
                    (w * 0.97, rim - 4.6),
                    (w * 0.98, rim - 1),
                    (0, rim - 1.6),
                    (-w * 0.98, rim - 1),
                ]
            )
            canvas.fill(pose(ribbon), dark, HAT)
            visor = smooth(
                mirror([(w * 0.5, rim - 2.6), (w * 1.32, rim - 0.8), (w * 1.3, rim + 1.4), (w * 0.4, rim + 1.4)]),
                closed=True,
            )
        canvas.fill(pose(visor), rgb(mix(base, (0, 0, 0), 0.14)), HAT)
        canvas.line(pose(visor), dark, 0.55, HAT, closed=True)


def paint_earrings(c: Canvas, s: Shape, head: Pose, scene: Scene, person: Person) -> None:
    """Gold or silver studs, drops or hoops at both lobes, over the hair where it hides the ears."""
    if scene.earrings is None:
        return
    gold = scene.glasses_colour % 2 == 0
    tone, dark = ((236, 192, 84), (132, 92, 24)) if gold else ((226, 230, 240), (106, 112, 128))
    for side in (-1, 1):
        x, y = side * (s.width + (0.9 if person.hair_style not in COVERS_EARS else 0.2)), 6.6
        if scene.earrings == "hoop":
            c.line(head(oval(x, y + 2.9, 2.2, 2.9)), dark, 1.3, EARRING, closed=True)
            c.line(head(oval(x, y + 2.9, 2.2, 2.9)), tone, 0.7, closed=True)
            continue
        shapes = (
            [oval(x, y + 0.5, 1.7, 1.7)]
            if scene.earrings == "stud"
            else [oval(x, y, 1.0, 1.0), oval(x, y + 3.6, 1.6, 2.7)]
        )
        for shape in shapes:
            c.fill(head(shape), tone, EARRING)
            c.line(head(shape), dark, 0.45, EARRING, closed=True)
        c.dots(head([(x - 0.4, y + (0.1 if scene.earrings == "stud" else 2.6))]), (255, 255, 255), 0.45)


def paint_eyeglasses(c: Canvas, s: Shape, head: Pose, scene: Scene, level: int) -> None:
    """1 rimless (pale fine rim), 2 thin frame, 3 thick frame, 4 thick frame with tinted lenses, 5 black sunglasses.

    The label ``eye_g`` covers frame and lenses, as in CelebAMask-HQ; eyes (and brows) seen through clear or tinted
    lenses keep their own labels, behind sunglasses there is only ``eye_g``.
    """
    if level == 0:
        return
    rx, ry = s.eye_rx + 2.2, s.eye_ry + (3.0 if level < 5 else 3.4)
    rx = min(rx, s.eye_x - 1.0)
    y = s.eye_y + 0.6
    frame = (
        rgb(_FRAMES[scene.glasses_colour]) if level in (2, 3, 4) else (150, 150, 158) if level == 1 else (20, 20, 24)
    )
    width = {1: 0.7, 2: 0.9, 3: 1.9, 4: 1.9, 5: 1.4}[level]
    keep = c.where((4, 5, 6, 7)) > 0
    kept = c.label.copy()
    for side in (-1, 1):
        if scene.glasses_shape == "round":
            lens = oval(side * s.eye_x, y, rx, ry, 28)
        else:
            corners = [
                (0.2, -1.0),
                (0.85, -1.0),
                (1.0, -0.6),
                (0.95, 0.55),
                (0.6, 1.0),
                (-0.2, 1.0),
                (-0.8, 0.85),
                (-1.0, 0.1),
                (-0.97, -0.75),
                (-0.7, -1.0),
            ]
            lens = smooth(np.array(corners) * (side * rx, ry) + (side * s.eye_x, y), closed=True, steps=3)
        ring = head(lens)
        if level == 5:
            c.fill(ring, (26, 26, 32), GLASSES)
            c.soft(head(oval(side * s.eye_x - 1.6, y - 1.4, 1.6, 1.8)), (150, 160, 180), 0.75, 0.5, (GLASSES,))
        else:
            c.fill(ring, None, GLASSES)
            tint, share = ((206, 226, 240), 0.26) if level < 4 else ((150, 88, 40), 0.52)
            c.soft(ring, tint, share, 0.0)
            streak = [(-rx * 0.75, 1.2), (-rx * 0.2, -ry * 0.8), (-rx * 0.02, -ry * 0.8), (-rx * 0.55, 1.8)]
            gleam = np.add(streak, (side * s.eye_x, y))
            c.soft(head(gleam), (255, 255, 255), 0.4, 0.0)
            c.label[keep] = kept[keep]
        c.line(ring, frame, width, GLASSES, closed=True)
        arm = [(side * (s.eye_x + rx * 0.98), y - 1.4), (side * (s.width + 0.6), y - 1.8)]
        c.line(head(arm), frame, max(width * 0.8, 0.8), GLASSES)
    bridge = smooth([(-(s.eye_x - rx), y - 0.8), (0.0, y - 1.6), (s.eye_x - rx, y - 0.8)])
    c.line(head(bridge), frame, max(width * 0.85, 0.8), GLASSES)
