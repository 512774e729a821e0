"""Which name belongs to which image: partners of two sets, captions of a file. Never by order while names disagree."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from concord.data.errors import ConcordError
from concord.data.images import is_image
from concord.data.notes import note

if TYPE_CHECKING:
    from concord.data.datasets.images.image_sets import ImageSet


def whole(name: str) -> str:
    """The path as it is written, '/' between folders, in NFC (two ways to write an accent are one name)."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def without_suffix(name: str) -> str:
    """The name with its folders, without the suffix of an image file."""
    path = PurePosixPath(whole(name))
    return str(path.with_suffix("")) if is_image(path.name) else str(path)


def bare(name: str) -> str:
    """The name without folder and suffix."""
    return PurePosixPath(without_suffix(name)).name


def number(name: str) -> str:
    """The bare name; where it is a number, without leading zeros: '00012' is '12'."""
    stem = bare(name)
    return str(int(stem)) if stem.isascii() and stem.isdigit() and len(stem) < 100 else stem


FORMS: tuple[Callable[[str], str], ...] = (
    whole,
    without_suffix,
    lambda name: PurePosixPath(whole(name)).name,
    bare,
    number,
)
"""What of a name may count, from the most that it says to the least."""


class Names:
    """The names of a set, to be found by what other files call them: the path, or less of it where that is unique."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.places: list[dict[str, list[int]]] = []
        for form in FORMS:
            found: dict[str, list[int]] = {}
            for place, name in enumerate(names):
                found.setdefault(form(name), []).append(place)
            self.places.append(found)

    def find(self, key: str, place: str) -> int | None:
        """Which name a key means; None for none. ConcordError where it may mean several; `place`: what is read."""
        for form, places in zip(FORMS, self.places, strict=True):
            found = places.get(form(key))
            if found is not None and len(found) > 1:
                both = " and ".join(f"'{self.names[index]}'" for index in found[:2])
                raise ConcordError(f"{place}: '{key}' may mean {both}; give the path of the image")
            if found is not None:
                return found[0]
        return None


def pair(first: ImageSet, second: ImageSet) -> np.ndarray:
    """For each image of `first`, the place of its partner in `second`: int64 (n,).

    By as much of the names as both sets share: the path, the path without suffix, the bare name, its number. Where no
    name agrees at all, in order, and that is said. Unequal numbers of images, and names of which only some agree (a set
    that lost or gained images), are errors.
    """
    if len(first) != len(second):
        raise ConcordError(
            f"{first.label} holds {len(first)} images and {second.label} {len(second)}: "
            "metrics of pairs need one partner for each; give sets of one size"
        )
    if not (first.named and second.named) or len(first) == 1:
        return np.arange(len(first), dtype=np.int64)
    partial: tuple[list[str], int] | None = None
    for form in FORMS:
        own, other = ([form(name) for name in side.names] for side in (first, second))
        shared = set(own) & set(other)
        if shared and len(shared) == len(own) == len(set(other)):
            places = {name: index for index, name in enumerate(other)}
            return np.array([places[name] for name in own], dtype=np.int64)
        if shared and (partial is None or len(shared) > partial[1]):
            lonely = [name for name, key in zip(first.names, own, strict=True) if key not in shared]
            partial = lonely or _double(own, first.names) or _double(other, second.names), len(shared)
    if partial is not None:
        raise ConcordError(
            f"{first.label}: '{partial[0][0]}' has no partner of its name in {second.label}, while {partial[1]} others "
            "have; name both sets alike, or wholly unlike to pair them in order"
        )
    note(
        f"{first.label} and {second.label}: no name of one is a name of the other, so that images are paired in order: "
        f"'{first.names[0]}' with '{second.names[0]}', ..., '{first.names[-1]}' with '{second.names[-1]}'"
    )
    return np.arange(len(first), dtype=np.int64)


def _double(keys: Iterable[str], names: Sequence[str]) -> list[str]:
    """Names whose key is that of another, too."""
    listed = list(keys)
    count = Counter(listed)
    return [name for name, key in zip(names, listed, strict=True) if count[key] > 1]
