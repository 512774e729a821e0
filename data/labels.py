"""The two 19-class orders of face masks, by name, and the explicit way between them.

CelebAMask-HQ's order is the one of the dataset's authors (MaskGAN's `g_mask.py`), of Collaborative Diffusion and of
TediGAN; every mask inside Concord is in it. BiSeNet's order is the one of face-parsing.PyTorch. Background, skin and
eyes have the same number in both, the other 15 not: a mask in the wrong order looks plausible and scores badly, so
convert by name.

Left and right are the person's: `l_eye` lies right of the nose in the image.
"""

from __future__ import annotations

import numpy as np

from concord.data.errors import ConcordError

# ------------------------------------------------------------------------------------------------------ the two orders

CELEBAMASK_HQ: tuple[str, ...] = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip  # a table
BISENET: tuple[str, ...] = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip  # a table
ORDERS: dict[str, tuple[str, ...]] = {"celebamask-hq": CELEBAMASK_HQ, "bisenet": BISENET}

CLASSES = len(CELEBAMASK_HQ)  # 19, background included
INDEX: dict[str, int] = {name: number for number, name in enumerate(CELEBAMASK_HQ)}

# Part files are named `{i:05d}_{suffix}.png`; the background has none. Drawn in this order, later parts cover earlier
# ones: MaskGAN's g_mask.py runs through the very class order, so that a higher class always wins.
PART_SUFFIXES: tuple[str, ...] = CELEBAMASK_HQ[1:]

HUMAN_NAMES: dict[str, str] = {
    "background": "background", "skin": "skin", "nose": "nose", "eye_g": "glasses",
    "l_eye": "left eye", "r_eye": "right eye", "l_brow": "left eyebrow", "r_brow": "right eyebrow",
    "l_ear": "left ear", "r_ear": "right ear", "mouth": "mouth (inside)", "u_lip": "upper lip", "l_lip": "lower lip",
    "hair": "hair", "hat": "hat", "ear_r": "earring", "neck_l": "necklace", "neck": "neck", "cloth": "clothes",
}  # fmt: skip  # a table


# --------------------------------------------------------------------------------------------------------- conversions


def lookup(source: str, target: str) -> np.ndarray:
    """Table (19,) int64: entry k is the number in order `target` of what order `source` calls k.

    `source`, `target`: a key of `ORDERS`. Usable on tensors too: `torch.from_numpy(lookup(...))[mask]`.
    """
    for name in (source, target):
        if name not in ORDERS:
            raise ConcordError(f"unknown class order '{name}': expected one of {', '.join(ORDERS)}")
    position = {part: number for number, part in enumerate(ORDERS[target])}
    return np.array([position[part] for part in ORDERS[source]], dtype=np.int64)


def convert(mask: np.ndarray, source: str, target: str) -> np.ndarray:
    """The mask, any shape, integer classes of order `source`, with the numbers of order `target`, int64."""
    return lookup(source, target)[check_classes(mask, f"mask in order '{source}'")]


def celebamask_to_bisenet(mask: np.ndarray) -> np.ndarray:
    """From CelebAMask-HQ numbers to BiSeNet numbers; int64, same shape."""
    return convert(mask, "celebamask-hq", "bisenet")


def bisenet_to_celebamask(mask: np.ndarray) -> np.ndarray:
    """From BiSeNet numbers to CelebAMask-HQ numbers; int64, same shape."""
    return convert(mask, "bisenet", "celebamask-hq")


def check_classes(mask: np.ndarray, what: str = "mask") -> np.ndarray:
    """The mask as it came, once it is known to hold integers 0..18 alone; ConcordError naming `what` otherwise."""
    mask = np.asarray(mask)
    if not np.issubdtype(mask.dtype, np.integer):
        raise ConcordError(f"{what} has type {mask.dtype}: expected integer classes 0..{CLASSES - 1}")
    if mask.size and (mask.min() < 0 or mask.max() >= CLASSES):
        wrong = mask.min() if mask.min() < 0 else mask.max()
        raise ConcordError(f"{what} holds class {wrong}: expected 0..{CLASSES - 1} (data/labels.py names them)")
    return mask


# ------------------------------------------------------------------------------------------------------------- colours

# Our own palette, CelebAMask-HQ order, uint8 RGB (19, 3). Close to what a part looks like, the sides of a pair in one
# hue at two depths, and every two colours far enough apart to tell on a thumbnail (tests/data/test_labels.py).
PALETTE: np.ndarray = np.array(
    [
        (44, 48, 58),  # background
        (244, 200, 168),  # skin
        (226, 132, 62),  # nose
        (92, 224, 240),  # glasses
        (64, 140, 255),  # left eye
        (22, 58, 176),  # right eye
        (160, 110, 40),  # left eyebrow
        (86, 62, 12),  # right eyebrow
        (255, 140, 200),  # left ear
        (206, 58, 150),  # right ear
        (116, 0, 56),  # mouth, inside
        (216, 28, 44),  # upper lip
        (255, 104, 104),  # lower lip
        (122, 78, 178),  # hair
        (255, 216, 32),  # hat
        (0, 214, 132),  # earring
        (190, 250, 90),  # necklace
        (190, 152, 134),  # neck
        (42, 126, 98),  # clothes
    ],
    dtype=np.uint8,
)


def colourise(mask: np.ndarray) -> np.ndarray:
    """Classes (..., H, W) in the CelebAMask-HQ order as uint8 RGB (..., H, W, 3), by `PALETTE`."""
    return PALETTE[check_classes(mask)]
