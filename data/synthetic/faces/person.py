"""Who is drawn: the identity vector, the five attributes and the scene, each sampled from its own random stream.

The identity vector (float32, 24 numbers in [-1, 1]) decides everything that stays the same between two images of one
person; attributes (smile, age, ...) and scene (pose, light, clothes, accessories) change from image to image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ATTRIBUTES = ("Bangs", "Eyeglasses", "No_Beard", "Smiling", "Young")
LEVEL_COUNT = 6

#: Names of the 24 entries of an identity vector, in order.
IDENTITY_FACTORS = (
    "sex",
    "face_width",
    "face_height",
    "jaw_squareness",
    "chin_width",
    "eye_size",
    "eye_spacing",
    "eye_slant",
    "eye_colour",
    "nose_width",
    "nose_length",
    "mouth_width",
    "lip_thickness",
    "brow_thickness",
    "brow_arch",
    "skin_tone",
    "skin_undertone",
    "hair_colour",
    "hair_style_0",
    "hair_style_1",
    "hair_style_2",
    "hair_style_3",
    "hair_style_4",
    "hair_style_5",
)
IDENTITY_SIZE = len(IDENTITY_FACTORS)

HAIR_STYLES = {
    "female": ("long", "wavy", "bob", "pixie", "bun", "curly"),
    "male": ("short", "parted", "buzz", "bald", "curls", "shoulder"),
}
_STYLE_WEIGHTS = {"female": (0.24, 0.2, 0.18, 0.1, 0.14, 0.14), "male": (0.3, 0.24, 0.14, 0.1, 0.12, 0.1)}

_AGE_WEIGHTS = (0.14, 0.15, 0.21, 0.18, 0.16, 0.16)
_SMILE_WEIGHTS = (0.2, 0.16, 0.16, 0.16, 0.16, 0.16)
_BANGS_WEIGHTS = {"female": (0.35, 0.13, 0.13, 0.13, 0.13, 0.13), "male": (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)}
_GLASSES_WEIGHTS = (0.78, 0.045, 0.045, 0.045, 0.04, 0.045)
_BEARD_WEIGHTS = (0.3, 0.14, 0.14, 0.14, 0.14, 0.14)
_TEEN_BEARD_WEIGHTS = (0.5, 0.22, 0.18, 0.1, 0.0, 0.0)

HAT_STYLES = ("beanie", "cap", "brim")
NECKLINES = ("crew", "v", "scoop", "shirt")
BACKGROUNDS = ("plain", "gradient", "two-tone", "shapes")


@dataclass(frozen=True)
class Person:
    """An identity vector in readable form. Continuous factors lie in [-1, 1]."""

    sex: str
    hair_style: str
    factors: dict[str, float]

    def __getitem__(self, name: str) -> float:
        return self.factors[name]


@dataclass(frozen=True)
class Scene:
    """What changes between two images of one person, apart from the five attributes.

    Lengths are in pixels of the 64 x 64 image, ``tilt`` in degrees (clockwise), ``yaw`` in [-1, 1].
    """

    dx: float
    dy: float
    scale: float
    tilt: float
    yaw: float
    light: tuple[float, float]
    warmth: float
    background: str
    background_hsv: tuple[tuple[float, float, float], tuple[float, float, float]]
    cloth_hsv: tuple[float, float, float]
    neckline: str
    hat: str | None
    hat_hsv: tuple[float, float, float]
    earrings: str | None
    necklace: str | None
    glasses_shape: str
    glasses_colour: int
    texture_seed: int


def streams(world_seed: int, index: int, variant: int = 0) -> dict[str, np.random.Generator]:
    """Independent Philox generators for ``identity``, ``attributes``, ``scene`` and ``captions`` of one face.

    ``variant`` > 0 is another image of the same person: every stream but ``identity`` changes.
    """
    if not 0 <= index < 2**63:
        raise ValueError(f"index: expected an integer from 0 on, got {index}")
    if world_seed < 0 or variant < 0:
        raise ValueError(f"world_seed, variant: expected integers from 0 on, got {world_seed}, {variant}")
    person = np.random.SeedSequence([world_seed, index]).spawn(4)
    image = person if variant == 0 else np.random.SeedSequence([world_seed, index, variant]).spawn(4)
    seeds = {"identity": person[0], "attributes": image[1], "scene": image[2], "captions": image[3]}
    return {name: np.random.Generator(np.random.Philox(seed)) for name, seed in seeds.items()}


def sample_identity(rng: np.random.Generator) -> np.ndarray:
    """A random identity vector, float32 (24,): sex is -1 (female) or 1 (male), the hair style is one-hot."""
    vector = np.zeros(IDENTITY_SIZE, np.float32)
    vector[0] = 1.0 if rng.random() < 0.5 else -1.0
    vector[1:18] = rng.uniform(-1, 1, 17)
    sex = "male" if vector[0] > 0 else "female"
    vector[18 + _pick(rng, _STYLE_WEIGHTS[sex])] = 1.0
    return vector


def decode_identity(vector: np.ndarray) -> Person:
    """Read an identity vector (24,) back into a person."""
    if np.shape(vector) != (IDENTITY_SIZE,):
        raise ValueError(f"identity: expected shape ({IDENTITY_SIZE},), got {np.shape(vector)}")
    values = [float(v) for v in vector]
    sex = "male" if values[0] > 0 else "female"
    style = HAIR_STYLES[sex][int(np.argmax(values[18:]))]
    return Person(sex, style, dict(zip(IDENTITY_FACTORS, values)))


def sample_attributes(rng: np.random.Generator, person: Person, has_hat: bool) -> dict[str, int]:
    """The five CelebA-Dialog attributes, levels 0-5.

    Beards grow on men from level 1 of ``Young`` on; bald people have no bangs; under a hat only bangs that reach
    out below its rim (levels 3-5) exist.
    """
    age = _pick(rng, _AGE_WEIGHTS)
    smile = _pick(rng, _SMILE_WEIGHTS)
    bangs = _pick(rng, _BANGS_WEIGHTS[person.sex])
    glasses = _pick(rng, _GLASSES_WEIGHTS)
    beard = _pick(rng, _TEEN_BEARD_WEIGHTS if age == 1 else _BEARD_WEIGHTS)
    if person.hair_style in ("bald", "buzz"):
        bangs = 0
    if has_hat and bangs in (1, 2):
        bangs = 0
    if person.sex == "female" or age == 0:
        beard = 0
    return {"Bangs": bangs, "Eyeglasses": glasses, "No_Beard": beard, "Smiling": smile, "Young": age}


def sample_scene(rng: np.random.Generator, person: Person) -> Scene:
    """A random pose, light, background, clothing and accessories."""
    u = rng.random(40)
    female = person.sex == "female"
    hue = float(u[8])
    first = (hue, 0.08 + 0.34 * float(u[9]), 0.5 + 0.42 * float(u[10]))
    second = ((hue + 0.25 * (float(u[11]) - 0.5)) % 1.0, 0.08 + 0.34 * float(u[12]), 0.4 + 0.5 * float(u[13]))
    necklace = None
    if u[20] < (0.25 if female else 0.03):
        necklace = "beads" if u[21] < 0.5 else "chain"
    neckline = NECKLINES[int(u[17] * 4)]
    if necklace and neckline != "v":
        neckline = "scoop"
    earrings = None
    if u[22] < (0.3 if female else 0.02):
        earrings = ("stud", "drop", "hoop")[int(u[23] * 3)]
    return Scene(
        dx=float(2.6 * (u[0] - 0.5)),
        dy=float(2.0 * (u[1] - 0.5)),
        scale=float(0.95 + 0.1 * u[2]),
        tilt=float(np.clip(4.5 * rng.standard_normal(), -12, 12)),
        yaw=float(2 * u[4] - 1),
        light=(float(2 * u[5] - 1), float(-0.9 + 0.7 * u[6])),
        warmth=float(2 * u[7] - 1),
        background=BACKGROUNDS[int(u[14] * 4)],
        background_hsv=(first, second),
        cloth_hsv=(float(u[15]), 0.12 + 0.5 * float(u[16]), 0.25 + 0.65 * float(u[18])),
        neckline=neckline,
        hat=HAT_STYLES[int(u[24] * 3)] if u[25] < 0.12 else None,
        hat_hsv=(float(u[26]), 0.2 + 0.5 * float(u[27]), 0.3 + 0.55 * float(u[28])),
        earrings=earrings,
        necklace=necklace,
        glasses_shape="round" if u[29] < 0.5 else "square",
        glasses_colour=int(u[30] * 4),
        texture_seed=int(rng.integers(2**31)),
    )


def _pick(rng: np.random.Generator, weights: tuple[float, ...]) -> int:
    edges = np.cumsum(weights)
    return int(min(np.searchsorted(edges, rng.random() * edges[-1], side="right"), len(weights) - 1))
