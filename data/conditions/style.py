"""An image whose style is asked for."""

from __future__ import annotations

import numpy as np

from concord.data.conditions.base import ImageCondition, register
from concord.data.datasets.item import Item


@register
class Style(ImageCondition):
    """uint8 (H, W, 3) RGB reference image; an item without one of its own is given a drawn one."""

    name, title, order = "style", "Style", 50
    datasets = frozenset({"faces", "layouts"})
    reads = frozenset({"style"})
    format = "`style/<id>.png`: the image whose style is asked for, RGB."
    cached = True  # drawing one takes longer than looking at it

    @classmethod
    def has(cls, item: Item) -> bool:
        return True

    def read(self, item: Item, size: int) -> np.ndarray:
        from concord.data.synthetic.styles import style_image, style_of

        own = item.style(size)
        return style_image(style_of(item.id), size) if own is None else own

    @classmethod
    def example(cls, index: int) -> np.ndarray:
        from concord.data.synthetic import face

        return face(index).image
