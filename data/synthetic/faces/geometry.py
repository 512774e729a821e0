"""Where everything is: the shapes of one face, in face units, its pose, and the 68 landmarks.

Face units are pixels of the 64 x 64 image around the middle of the face (x right, y down) before the pose is
applied. 'Right' and 'left' here are those of the image; the mask classes follow CelebAMask-HQ, where ``l_eye`` is the
eye on the image's right side (the person's own left).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from concord.data.synthetic.draw import mirror, smooth
from concord.data.synthetic.faces.person import Person, Scene


@dataclass(frozen=True)
class Pose:
    """Maps face units to pixels of the image: yaw (features slide over the head), tilt, scale, shift."""

    origin: tuple[float, float]
    scale: float
    tilt: float
    yaw: float
    width: float

    def __call__(self, points: np.ndarray | list[tuple[float, float]]) -> np.ndarray:
        p = np.asarray(points, np.float64)
        x, y = p[:, 0], p[:, 1]
        if self.yaw != 0.0:
            across, down = x / (self.width + 3), y / 40
            bulge = np.maximum(1 - across * across, 0) * np.maximum(np.minimum(1.15 - down * down, 1), 0)
            x = x + self.yaw * bulge
        c, s = math.cos(self.tilt) * self.scale, math.sin(self.tilt) * self.scale
        # the head turns about its chin, so that it stays on its neck
        y = y - 14
        out = np.empty_like(p)
        out[:, 0] = c * x - s * y + self.origin[0]
        out[:, 1] = s * x + c * y + 14 * self.scale + self.origin[1]
        return out


@dataclass(frozen=True)
class Shape:
    """Measures of one face in face units; see the module's head."""

    width: float  # half of the face's width at the cheeks
    chin: float  # y of the chin
    hairline: float  # y of the middle of the hairline
    outline: np.ndarray  # (n, 2) whole face, clockwise from the top
    jaw: np.ndarray  # (17, 2) from the image's left ear over the chin to the right ear
    eye_x: float
    eye_y: float
    eye_rx: float
    eye_ry: float
    eye_slant: float
    eye_lift: float  # how far a smile raises the lower lid, as a share of its height
    brow_y: float
    brow_thick: float
    brow_arch: float
    nose_width: float
    nose_tip: float  # y of the nose's lower end
    mouth_x: float  # half width
    mouth_y: float
    mouth_curve: float  # how far the corners lie above the middle
    mouth_open: float
    lip_upper: float
    lip_lower: float
    ear: float


def shape_of(person: Person, attributes: dict[str, int]) -> Shape:
    """The shapes of a person at an age and with an expression."""
    male = person.sex == "male"
    age, smile = attributes["Young"], attributes["Smiling"]
    child, teen, old = age == 0, age == 1, age == 5
    width = 18.6 + 1.3 * person["face_width"] + 0.5 * male + 0.6 * child - 0.5 * teen
    chin = 21.0 + 1.0 * person["face_height"] + 0.5 * male - 1.6 * child - 0.3 * teen
    jaw = 0.83 + 0.05 * person["jaw_squareness"] + 0.055 * male - 0.02 * child - 0.02 * old
    tip = 0.40 + 0.06 * person["chin_width"] + 0.08 * male + 0.03 * child
    sunk = 0.045 if old else 0.0
    outline = smooth(
        mirror(
            [
                (5.5, -24.2),
                (width * 0.62, -21.0),
                (width * 0.93, -13.0),
                (width * 1.0, -3.0),
                (width * (0.965 - sunk), 5.0),
                (width * jaw, chin * 0.58),
                (width * (jaw + tip) * 0.54, chin * 0.85),
                (width * tip * 0.5, chin * 0.985),
            ]
        ),
        closed=True,
    )
    right = outline[(outline[:, 0] >= 0) & (outline[:, 1] > -3.01)]
    right = right[np.argsort(right[:, 1], kind="stable")]
    right = np.concatenate([right[right[:, 0] > 0.3], [(0.0, float(outline[:, 1].max()))]])
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(right, axis=0).T))])
    at = np.linspace(0, along[-1], 9)
    right = np.stack([np.interp(at, along, right[:, 0]), np.interp(at, along, right[:, 1])], axis=1)
    jaw_line = np.concatenate([right * (-1, 1), right[-2::-1]])

    grow = 1.2 if child else 1.07 if teen else 0.92 if old else 1.0
    drop = 1.4 if child else 0.4 if teen else 0.0
    eye_y = -1.4 + drop
    nose_tip = 6.6 + 0.9 * person["nose_length"] + (0.2 if child else 0.5 if old else 0.0)
    lip = (1.0 + 0.26 * person["lip_thickness"]) * (0.78 if male else 1.05) * (0.78 if old else 1.0)
    curve = (-1.5, 0.5, 2.5, 2.7, 3.1, 3.5)[smile]
    return Shape(
        width=width,
        chin=float(outline[:, 1].max()),
        hairline=-16.4 if not child else -15.2,
        outline=outline,
        jaw=jaw_line,
        eye_x=8.7 + 0.6 * person["eye_spacing"] + 0.15 * (width - 18.6),
        eye_y=eye_y,
        eye_rx=(4.7 + 0.45 * person["eye_size"] - 0.2 * male) * (1 + (grow - 1) * 0.6),
        eye_ry=(2.75 + 0.35 * person["eye_size"] - 0.3 * male) * grow,
        eye_slant=0.09 * person["eye_slant"] + 0.03 * (not male),
        eye_lift=(0.0, 0.0, 0.1, 0.2, 0.35, 0.5)[smile],
        brow_y=eye_y - 6.2 - 0.5 * child - 0.25 * (smile >= 4),
        brow_thick=(1.15 + 0.25 * person["brow_thickness"]) * (1.25 if male else 0.88) * (0.8 if child else 1.0),
        brow_arch=1.0 + 0.6 * person["brow_arch"] + 0.3 * (not male),
        nose_width=(3.7 + 0.7 * person["nose_width"] + 0.35 * male) * (0.82 if child else 1.08 if old else 1.0),
        nose_tip=nose_tip,
        mouth_x=(6.3 + 0.7 * person["mouth_width"])
        * (1.0, 1.04, 1.16, 1.18, 1.24, 1.3)[smile]
        * (0.88 if child else 1.0),
        mouth_y=12.1 + 0.25 * person["nose_length"] - (0.5 if child else 0.0) - 0.25 * smile,
        mouth_curve=curve * (0.9 if child else 1.0),
        mouth_open=(0.0, 0.0, 0.0, 2.1, 3.6, 5.2)[smile] * (0.85 if child else 1.0),
        lip_upper=1.55 * lip,
        lip_lower=2.0 * lip,
        ear=1.0 + (0.12 if old else 0.0) + (0.08 if child else 0.0),
    )


def head_pose(scene: Scene, shape: Shape) -> Pose:
    """The pose of everything on the head."""
    origin = (32 + scene.dx, 30.6 + scene.dy)
    return Pose(origin, scene.scale, float(np.deg2rad(scene.tilt)), 2.6 * scene.yaw, shape.width)


def body_pose(scene: Scene, shape: Shape) -> Pose:
    """The pose of neck and clothes: they follow the head's place but neither its tilt nor its yaw."""
    return Pose((32 + scene.dx, 30.6 + scene.dy), scene.scale, 0.0, 0.0, shape.width)


def eye_ring(s: Shape, side: int) -> np.ndarray:
    """The lids of one eye (20, 2): from its left corner over the upper lid and back below. side: -1 left, 1 right."""
    t = np.linspace(-1, 1, 11)
    upper = -s.eye_ry * (1 - np.abs(t) ** 2.2) ** 0.9
    lower = s.eye_ry * 0.86 * (1 - s.eye_lift) * (1 - np.abs(t) ** 2.0)
    x = np.concatenate([t, t[-2:0:-1]]) * s.eye_rx
    y = np.concatenate([upper, lower[-2:0:-1]])
    y = y - side * s.eye_slant * x * 1.0 + (0.0 if s.eye_lift == 0 else -0.3 * s.eye_lift)
    return np.stack([x + side * s.eye_x, y + s.eye_y], axis=1)


def brow_curve(s: Shape, side: int) -> np.ndarray:
    """Five points along the middle of a brow, from the image's left to its right."""
    t = np.linspace(0, 1, 5)  # 0 at the nose, 1 at the temple
    x = s.eye_x - s.eye_rx * 0.95 + t * s.eye_rx * 2.05
    y = s.brow_y - s.brow_arch * np.sin(np.pi * t**1.25) + 0.5 * (1 - t) + 0.9 * t**3
    points = np.stack([side * x, y], axis=1)
    return points if side > 0 else points[::-1]


def brow_patch(s: Shape, side: int) -> np.ndarray:
    """The outline of a brow: thick by the nose, thin at the temple."""
    middle = brow_curve(s, 1)
    thick = np.array([0.85, 1.1, 1.1, 0.9, 0.35]) * s.brow_thick
    patch = smooth(
        np.concatenate([middle - np.stack([0 * thick, thick], 1), (middle + np.stack([0 * thick, thick], 1))[::-1]]),
        closed=True,
        steps=4,
    )
    return patch * (side, 1)


def mouth_edges(s: Shape) -> dict[str, np.ndarray]:
    """The four edges of the mouth, each (13, 2) from the image's left corner to its right one.

    top (of the upper lip), upper (its lower edge), lower (upper edge of the lower lip), bottom.
    """
    t = np.linspace(-1, 1, 13)
    x = t * s.mouth_x
    line = s.mouth_y - s.mouth_curve * (t**2 - 0.35)
    body = 1 - t**2
    bow = 0.35 * np.exp(-((t / 0.16) ** 2))
    upper = line
    top = upper - s.lip_upper * (body**0.65 - bow) - 0.12
    lower = line + s.mouth_open * body**0.8
    bottom = lower + s.lip_lower * body**0.62 + 0.12
    return {
        name: np.stack([x, y], 1) for name, y in (("top", top), ("upper", upper), ("lower", lower), ("bottom", bottom))
    }


def nose_patch(s: Shape) -> np.ndarray:
    """The outline of the nose, from its bridge between the eyes to the wings."""
    w, top, tip = s.nose_width, s.eye_y + 0.8, s.nose_tip
    return smooth(
        mirror(
            [
                (1.4, top),
                (1.7, top + 2.5),
                (w * 0.66, tip - 3.2),
                (w, tip - 1.4),
                (w * 0.72, tip + 0.2),
                (w * 0.25, tip + 0.9),
            ]
        ),
        closed=True,
        steps=4,
    )


def landmarks_of(s: Shape, pose: Pose) -> np.ndarray:
    """The 68 landmarks in iBUG order, float32 (68, 2), in pixels of the image (pixel centres at .5).

    0-16 jaw, 17-21 and 22-26 brows, 27-35 nose, 36-41 and 42-47 eyes, 48-59 outer lips, 60-67 inner lips; sides are
    the image's.
    """
    w, top, tip = s.nose_width, s.eye_y + 0.8, s.nose_tip
    bridge = np.stack([np.zeros(4), np.linspace(top, tip - 1.6, 4)], 1)
    wings = np.stack([np.array([-0.75, -0.38, 0.0, 0.38, 0.75]) * w, tip + np.array([0.0, 0.5, 0.7, 0.5, 0.0])], 1)
    eyes = [eye_ring(s, side)[[0, 3, 7, 10, 13, 17]] for side in (-1, 1)]
    m = mouth_edges(s)
    outer = [m["top"][[0, 2, 4, 6, 8, 10]], m["top"][[12]], m["bottom"][[10, 8, 6, 4, 2]]]
    outer[0][0], outer[1][0] = m["upper"][0], m["upper"][12]
    inner = [m["upper"][[1, 4, 6, 8, 11]], m["lower"][[8, 6, 4]]]
    points = np.concatenate([s.jaw, brow_curve(s, -1), brow_curve(s, 1), bridge, wings, *eyes, *outer, *inner])
    return pose(points).astype(np.float32)
