"""Paints one face: background, body, head, features, signs of age, accessories, in that order."""

from __future__ import annotations

import cv2
import numpy as np

from concord.data.synthetic.draw import SIZE, Canvas, hsv, mirror, mix, oval, ramp, rgb, smooth
from concord.data.synthetic.faces.accessories import paint_earrings, paint_eyeglasses, paint_hat
from concord.data.synthetic.faces.beard import paint_beard
from concord.data.synthetic.faces.geometry import (
    Pose,
    Shape,
    body_pose,
    brow_patch,
    eye_ring,
    head_pose,
    landmarks_of,
    mouth_edges,
    nose_patch,
    shape_of,
)
from concord.data.synthetic.faces.hair import COVERS_EARS, hair_colours, paint_back_hair, paint_front_hair
from concord.data.synthetic.faces.person import Person, Scene

SKIN, NOSE, MOUTH, U_LIP, L_LIP, NECKLACE, NECK, CLOTH = 1, 2, 10, 11, 12, 16, 17, 18
# the image's left (-1) and right (1): CelebAMask-HQ's sides are the person's, so l_eye (4) is on the image's right
EYE = {-1: 5, 1: 4}
BROW = {-1: 7, 1: 6}
EAR = {-1: 9, 1: 8}

_SKIN_RAMP = np.array(
    [(250, 222, 202), (240, 200, 172), (224, 176, 140), (196, 142, 104), (154, 104, 74), (112, 74, 54)], float
)
_EYE_RAMP = np.array(
    [(58, 36, 26), (104, 66, 36), (122, 108, 52), (66, 116, 74), (56, 118, 158), (104, 132, 152)], float
)
_GRID_Y, _GRID_X = (g / 31.5 - 1 for g in np.mgrid[0:SIZE, 0:SIZE].astype(np.float32))


def paint_face(person: Person, attributes: dict[str, int], scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one face: image (64, 64, 3) uint8 RGB, mask (64, 64) uint8, landmarks (68, 2) float32."""
    s = shape_of(person, attributes)
    head, body = head_pose(scene, s), body_pose(scene, s)
    age, female = attributes["Young"], person.sex == "female"
    skin = ramp(_SKIN_RAMP, (person["skin_tone"] + 1) / 2) + np.array([4.0, 0.0, -6.0]) * person["skin_undertone"]
    if age == 5:
        skin = mix(skin, (skin.mean() + 10,) * 3, 0.16)
    hair = hair_colours(person, age)
    c = Canvas()
    _background(c, scene)
    paint_back_hair(c, s, head, person, hair)
    _body(c, s, body, person, scene, skin)
    _head(c, s, head, person, scene, skin, age)
    _age_marks(c, s, head, skin, age, female)
    paint_beard(c, s, head, scene, hair, skin, attributes["No_Beard"], age)
    _nose(c, s, head, scene, skin)
    _mouth(c, s, head, skin, female, attributes["Smiling"], age)
    for side in (-1, 1):
        _eye(c, s, head, person, side, female, skin)
        patch = head(brow_patch(s, side))
        brow = hair["brow"] if np.abs(hair["brow"] - skin).sum() > 90 else mix(hair["brow"], (30, 20, 16), 0.5)
        c.fill(patch, rgb(brow), BROW[side])
    if age == 5:
        _old_lines_over_features(c, s, head, skin)
    paint_front_hair(c, s, head, person, scene, hair, age, attributes["Bangs"])
    lx, ly = scene.light
    side_light = 1 + 0.12 * lx * _GRID_X + 0.08 * ly * _GRID_Y
    c.multiply(np.repeat(side_light[..., None], 3, 2), (13, 18))
    paint_earrings(c, s, head, scene, person)
    paint_eyeglasses(c, s, head, scene, attributes["Eyeglasses"])
    paint_hat(c, s, head, scene)
    image, mask = c.reduce()
    return image, mask, landmarks_of(s, head)


def _background(c: Canvas, scene: Scene) -> None:
    a, b = hsv(*scene.background_hsv[0]), hsv(*scene.background_hsv[1])
    lx, ly = scene.light
    if scene.background == "plain":
        share = 0.12 * (_GRID_X**2 + _GRID_Y**2)
    elif scene.background == "gradient":
        share = np.clip(0.5 + 0.45 * (lx * _GRID_X - ly * _GRID_Y), 0, 1)
    elif scene.background == "two-tone":
        share = np.clip(0.5 + 12 * (_GRID_Y * (abs(lx) + 0.15) + lx * _GRID_X - 0.2 * ly), 0, 1)
    else:
        share = np.zeros_like(_GRID_X)
        for k in range(3):
            x, y = np.cos(2.4 * k + 3 * lx) * 0.85, np.sin(2.4 * k + 3 * lx) * 0.8
            share = np.maximum(share, np.clip(3.5 - 7 * np.hypot(_GRID_X - x, _GRID_Y - y), 0, 1) * 0.85)
    coarse = (a + (b - a) * share[..., None]).clip(0, 255).astype(np.uint8)
    c.image[...] = cv2.resize(coarse, c.image.shape[:2], interpolation=cv2.INTER_LINEAR)


def _body(c: Canvas, s: Shape, body: Pose, person: Person, scene: Scene, skin: np.ndarray) -> None:
    """Neck, clothes and necklace."""
    male = person.sex == "male"
    half = 10.6 if male else 8.6
    cloth = hsv(*scene.cloth_hsv)
    dark, light = rgb(cloth * 0.6), rgb(mix(cloth, (255, 255, 255), 0.25))
    neck = smooth(
        mirror([(half * 0.9, 6.0), (half, 20.0), (half + 1.5, 26.0), (half + 9, 30.0), (half + 8, 42.0)]), closed=True
    )
    c.fill(body(neck), rgb(skin * 0.93), NECK)
    c.line(body(neck), rgb(skin * 0.55), 0.5, closed=True)
    dip = {"crew": 27.0, "v": 35.5, "scoop": 32.0, "shirt": 28.5}[scene.neckline]
    wide = half + {"crew": 1.2, "v": 2.2, "scoop": 3.6, "shirt": 1.0}[scene.neckline]
    rise = 23.6 if scene.neckline != "scoop" else 25.5
    if scene.neckline == "v":
        collar = np.array([(wide, rise), (wide * 0.5, (rise + dip) / 2), (0.0, dip)])
    else:
        collar = smooth([(wide, rise), (wide * 0.85, rise * 0.45 + dip * 0.55), (wide * 0.4, dip - 0.5), (0.0, dip)])
    shoulder = smooth([(wide, rise), (wide + 4, rise + 1.8), (24.0, rise + 5.5), (33.0, rise + 9.5), (40.0, 44.0)])
    right = np.concatenate([collar[::-1], shoulder])
    shirt = np.concatenate([right, (right * (-1, 1))[::-1]])
    shadow = s.outline * (0.78, 1.0) + (0.0, 3.6)
    c.soft(body(shadow), rgb(skin * 0.55), 0.62, 0.9, (NECK,))
    c.fill(body(shirt), rgb(cloth), CLOTH)
    c.line(body(shirt), dark, 0.5, closed=True)
    if scene.neckline == "shirt":
        for side in (-1, 1):
            flap = np.array(
                [
                    (wide - 0.3, rise - 1.2),
                    (wide + 3.4, rise + 2.2),
                    (6.6, 34.0),
                    (0.6, dip + 0.8),
                    (wide * 0.7, dip - 1.5),
                ]
            ) * (side, 1)
            c.fill(body(flap), light, CLOTH)
            c.line(body(flap), dark, 0.5, closed=True)
        c.line(body([(0.0, dip + 0.6), (0.0, 44.0)]), dark, 0.5)
    else:
        both = np.concatenate([collar, (collar * (-1, 1))[::-1]])
        c.line(body(np.add(both, (0, 0.6))), light, 1.2, CLOTH)
    if scene.necklace:
        low = 29.4
        chain = smooth(
            [(-half - 0.6, 23.0), (-half * 0.72, 26.6), (0.0, low), (half * 0.72, 26.6), (half + 0.6, 23.0)], steps=7
        )
        beads = scene.necklace == "beads"
        tone = (244, 240, 236) if beads else (222, 178, 70)
        c.line(body(chain), (int(tone[0] * 0.6), int(tone[1] * 0.6), int(tone[2] * 0.6)), 1.5, NECKLACE)
        if beads:
            c.dots(body(chain[::2]), tone, 0.72)
        else:
            c.line(body(chain), tone, 0.8)
            pendant = oval(0.0, low + 1.0, 1.5, 1.7)
            c.fill(body(pendant), tone, NECKLACE)
            c.line(body(pendant), (140, 100, 30), 0.4, closed=True)


def _head(c: Canvas, s: Shape, head: Pose, person: Person, scene: Scene, skin: np.ndarray, age: int) -> None:
    """Ears and the face with its light, blush and shadows."""
    line = rgb(skin * 0.5)
    if person.hair_style not in COVERS_EARS:
        for side in (-1, 1):
            ear = oval(side * (s.width + 0.9), 1.4, 2.9 * s.ear, 5.3 * s.ear)
            c.fill(head(ear), rgb(skin * 0.96), EAR[side])
            c.line(head(ear), line, 0.55, EAR[side], closed=True)
            c.line(
                head(
                    smooth(
                        [(side * (s.width + 1.0), -1.6), (side * (s.width + 2.2), 0.4), (side * (s.width + 1.0), 3.6)]
                    )
                ),
                rgb(skin * 0.7),
                0.6,
            )
    face = head(s.outline)
    c.fill(face, rgb(skin), SKIN)
    lx, ly = scene.light
    x, y = _GRID_X - (head.origin[0] - 32) / 32, _GRID_Y
    r2 = np.clip((x / 0.62) ** 2 + ((y + 0.02) / 0.78) ** 2, 0, 1.6)
    glow = 1.05 + 0.15 * (lx * x + ly * y * 0.6) - 0.16 * r2**2
    tint = np.array([0.0, 0.015, 0.03]) * scene.warmth
    field = glow[..., None] * (1 - (1 - glow[..., None]) * np.array([-0.1, 0.12, 0.22])) - tint
    c.multiply(field, (1, 8, 9, 17))
    rosy = mix(skin, (226, 84, 84), 0.5)
    strength = 0.75 if age == 0 else 0.32 if person.sex == "female" else 0.16
    for side in (-1, 1):
        c.soft(head(oval(side * s.width * 0.62, 6.2, 4.4, 3.0)), rgb(rosy), strength, 0.9, (SKIN,))
    brow_shadow = [
        (-s.width, s.hairline - 2),
        (s.width, s.hairline - 2),
        (s.width * 0.92, -9.0),
        (s.width * 0.6, s.hairline + 4.5),
        (-s.width * 0.6, s.hairline + 4.5),
        (-s.width * 0.92, -9.0),
    ]
    if person.hair_style not in ("bald", "buzz"):
        c.soft(head(brow_shadow), rgb(skin * 0.62), 0.4, 0.8, (SKIN,))
    else:
        c.soft(head(oval(lx * 5, -19.0, 6.0, 2.8)), rgb(mix(skin, (255, 255, 255), 0.6)), 0.55, 1.0, (SKIN,))
    c.line(face, line, 0.6, SKIN, closed=True)


def _age_marks(c: Canvas, s: Shape, head: Pose, skin: np.ndarray, age: int, female: bool) -> None:
    """Each level's own mark: 0 freckles, 1 spots, 2 none, 3 folds, 4 lines and eye bags too, 5 hollow cheeks too."""
    crease, deep = rgb(skin * 0.58), rgb(skin * 0.48)
    w = s.width
    if age == 0:
        spots = np.array(
            [(3.8, 4.4), (6.2, 3.4), (8.4, 4.6), (6.0, 6.0), (10.4, 3.6), (1.4, 2.6), (8.6, 7.0), (3.9, 6.9)]
        )
        c.dots(head(np.concatenate([spots, spots * (-1, 1)])), rgb(mix(skin, (120, 52, 22), 0.62)), 0.46)
    elif age == 1:
        red = rgb(mix(np.maximum(skin, 120), (222, 30, 44), 0.78))
        at = np.array(
            [
                (-10.5, 6.2),
                (-7.2, 8.2),
                (-13.6, 4.2),
                (10.6, 7.8),
                (13.2, 4.4),
                (7.6, 5.8),
                (-5.0, -11.0),
                (1.2, -12.2),
                (6.4, -10.8),
                (3.4, s.chin - 3.2),
                (-4.4, s.chin - 3.6),
            ]
        )
        c.dots(head(at), red, 1.0)
        c.dots(head(at - 0.25), rgb(mix(skin, (255, 224, 210), 0.8)), 0.34)
    if age >= 3:
        for side in (-1, 1):
            fold = smooth(
                [
                    (s.nose_width + 0.9, s.nose_tip - 1.6),
                    (s.mouth_x + 2.2, s.mouth_y - 2.2),
                    (s.mouth_x + 2.7, s.mouth_y + 2.0),
                ]
            )
            c.line(head(fold * (side, 1)), crease if age < 5 else deep, 0.85)
    if age >= 4:
        for k, y in enumerate((-14.2, -11.9)):
            c.line(
                head(smooth([(-9.5 + k, y), (-4.5, y - 0.6), (0.0, y + 0.2), (4.5, y - 0.6), (9.5 - k, y)])),
                crease,
                0.65,
            )
        for side in (-1, 1):
            x, y = side * s.eye_x, s.eye_y + s.eye_ry
            c.soft(
                head(oval(x, y + 1.5, s.eye_rx * 0.85, 1.4)),
                rgb(mix(skin * 0.6, (90, 50, 90), 0.25)),
                0.75,
                0.4,
                (SKIN,),
            )
            c.line(head(smooth([(x - 3.6, y + 1.6), (x, y + 2.9), (x + 3.6, y + 1.6)])), crease, 0.6)
    if age == 5:
        for side in (-1, 1):
            hollow = smooth(
                [(w * 0.92, 3.6), (w * 0.66, 6.8), (w * 0.53, 11.0), (w * 0.62, 14.0), (w * 0.84, 9.5)], closed=True
            )
            c.soft(head(hollow * (side, 1)), rgb(skin * 0.5), 0.7, 1.1, (SKIN,))
            c.line(head(smooth(np.array([(w * 0.8, 4.2), (w * 0.6, 7.4), (w * 0.58, 11.5)]) * (side, 1))), crease, 0.65)
            c.line(
                head(smooth(np.array([(w * 0.74, 9.5), (w * 0.66, 12.5), (w * 0.6, 14.5)]) * (side, 1))), crease, 0.55
            )
        c.dots(head([(-9.8, -8.6), (11.2, -9.4), (-13.5, -4.6), (13.0, 2.2)]), rgb(mix(skin, (110, 66, 40), 0.55)), 0.8)


def _old_lines_over_features(c: Canvas, s: Shape, head: Pose, skin: np.ndarray) -> None:
    """Crow's feet and lip lines of old age, drawn over eyes and mouth."""
    crease = rgb(skin * 0.55)
    for side in (-1, 1):
        x0, y0 = s.eye_x + s.eye_rx + 0.6, s.eye_y
        for dy in (-1.8, 0.2, 2.2):
            c.line(head([(side * x0, y0 + dy * 0.35), (side * (x0 + 2.6), y0 + dy)]), crease, 0.5)
    c.line(head([(-1.8, -7.4), (-1.4, -4.6)]), crease, 0.6)
    c.line(head([(1.8, -7.4), (1.4, -4.6)]), crease, 0.6)


def _nose(c: Canvas, s: Shape, head: Pose, scene: Scene, skin: np.ndarray) -> None:
    w, tip = s.nose_width, s.nose_tip
    patch = head(nose_patch(s))
    c.soft(head(nose_patch(s) * (1.04, 1.0) + (-scene.light[0] * 1.3, 1.2)), rgb(skin * 0.6), 0.5, 0.6, (SKIN,))
    c.fill(patch, None, NOSE)
    c.soft(patch, rgb(mix(skin, (232, 150, 120), 0.3) * 0.97), 0.75, 0.25, (NOSE,))
    dark_side = -1 if scene.light[0] > 0 else 1
    flank = [
        (dark_side * 1.2, s.eye_y + 1),
        (dark_side * 2.2, s.eye_y + 2),
        (dark_side * w, tip - 1),
        (dark_side * w * 0.4, tip),
    ]
    c.soft(head(flank), rgb(skin * 0.66), 0.6, 0.4, (NOSE,))
    c.soft(
        head(oval(scene.light[0] * 0.5, tip - 2.0, 1.3, 1.2)), rgb(mix(skin, (255, 255, 255), 0.65)), 0.8, 0.3, (NOSE,)
    )
    c.soft(
        head(oval(scene.light[0] * 0.4, tip - 5.8, 0.7, 2.4)), rgb(mix(skin, (255, 255, 255), 0.55)), 0.6, 0.3, (NOSE,)
    )
    for side in (-1, 1):
        c.fill(head(oval(side * w * 0.45, tip - 0.25, 0.95, 0.6)), rgb(skin * 0.36))
        c.line(
            head(smooth([(side * w * 0.78, tip - 2.7), (side * w * 1.0, tip - 1.3), (side * w * 0.74, tip + 0.2)])),
            rgb(skin * 0.52),
            0.55,
            NOSE,
        )


def _mouth(c: Canvas, s: Shape, head: Pose, skin: np.ndarray, female: bool, smile: int, age: int) -> None:
    m = mouth_edges(s)
    red = mix(skin * 0.86, (206, 58, 70) if female and age else (196, 92, 84), 0.72 if female and age else 0.5)
    lower = mix(red, (255, 190, 180), 0.12)
    edge = rgb(red * 0.52)
    c.soft(head(oval(0, m["bottom"][6, 1] + 1.0, s.mouth_x * 0.5, 1.0)), rgb(skin * 0.6), 0.5, 0.4, (SKIN,))
    c.fill(head(np.concatenate([m["upper"], m["bottom"][::-1]])), rgb(lower), L_LIP)
    c.fill(head(np.concatenate([m["top"], m["upper"][::-1]])), rgb(red * 0.9), U_LIP)
    if s.mouth_open > 0:
        inside = np.concatenate([m["upper"], m["lower"][::-1]])
        c.fill(head(inside), (92, 24, 30), MOUTH)
        teeth = np.concatenate(
            [m["upper"], (m["upper"] * 0.35 + m["lower"] * 0.65 if smile > 3 else m["lower"] - (0, 0.1))[::-1]]
        )
        c.fill(head(teeth), (250, 248, 242))
        if smile == 5:
            tongue = m["lower"][3:10]
            roof = (m["lower"] * 0.8 + m["upper"] * 0.2)[3:10][::-1]
            c.fill(head(np.concatenate([tongue, roof])), (214, 104, 108))
        c.line(head(inside), edge, 0.4, closed=True)
    else:
        c.line(head(m["upper"]), edge, 0.7)
    c.line(head(m["top"]), edge, 0.35)
    shine = (m["lower"] * 0.5 + m["bottom"] * 0.5)[4:9]
    c.line(head(shine), rgb(mix(lower, (255, 255, 255), 0.4)), 0.4)
    if smile >= 1:
        for side, corner in ((-1, m["upper"][0]), (1, m["upper"][12])):
            c.line(
                head(smooth(np.add(corner, [(side * 0.3, -0.9), (side * 1.0, 0.1), (side * 0.6, 1.0)]))),
                rgb(skin * 0.5),
                0.5 + 0.06 * smile,
            )


def _eye(c: Canvas, s: Shape, head: Pose, person: Person, side: int, female: bool, skin: np.ndarray) -> None:
    ring = eye_ring(s, side)
    upper, lash = ring[:11], rgb(np.array([34, 24, 24]) if female else skin * 0.24)
    x, y = side * s.eye_x, s.eye_y
    socket = oval(x, y - 0.8, s.eye_rx * 1.18, s.eye_ry * 1.5)
    c.soft(head(socket), rgb(mix(skin * 0.7, (150, 80, 110), 0.22 if female else 0.05)), 0.5, 0.6, (SKIN,))
    c.fill(head(ring), (246, 244, 242), EYE[side])
    iris = ramp(_EYE_RAMP, (person["eye_colour"] + 1) / 2)
    radius = min(s.eye_ry * 1.02, 3.2)
    centre_y = y - 0.2
    white = head(ring)
    c.soft(head(oval(x, y - s.eye_ry, s.eye_rx, 1.3)), (150, 140, 150), 0.6, 0.2, (EYE[side],))
    for r, tone in ((radius, iris * 0.55), (radius * 0.8, iris), (radius * 0.45, np.array([14, 12, 14]))):
        c.soft(head(oval(x, centre_y, r, r)), rgb(tone), 1.0, 0.0, (EYE[side],))
    c.soft(
        head(oval(x, centre_y + radius * 0.55, radius * 0.5, radius * 0.28)),
        rgb(mix(iris, (255, 255, 255), 0.45)),
        0.8,
        0.0,
        (EYE[side],),
    )
    c.fill(head(oval(x - 0.9, centre_y - 0.9, 0.6, 0.6)), (255, 255, 255))
    c.line(white[10:], rgb(skin * 0.5), 0.4)
    c.line(head(upper), lash, 0.95 if female else 0.7, EYE[side])
    c.line(head(np.add(upper, (0, -1.5))), rgb(skin * 0.62), 0.4)
    if female:
        tip = upper[-1] if side > 0 else upper[0]
        c.line(head([tip, np.add(tip, (side * 1.7, -1.5))]), lash, 0.9)
        c.line(head([np.add(tip, (-side * 1.3, -1.2)), np.add(tip, (side * 0.2, -2.7))]), lash, 0.6)
