"""An image that is to be edited."""

from __future__ import annotations

import numpy as np

from concord.data.conditions.base import ImageCondition, register
from concord.data.datasets.item import Item


@register
class SourceImage(ImageCondition):
    """uint8 (H, W, 3) RGB image to be edited."""

    name, title, order = "source_image", "Source image", 80
    format = "`source_image/<id>.png`: the image that is to be edited, RGB."

    @classmethod
    def has(cls, item: Item) -> bool:
        return item.has_image

    def read(self, item: Item, size: int) -> np.ndarray:
        return item.image(size).copy()

    @classmethod
    def example(cls, index: int) -> np.ndarray:
        from concord.data.synthetic import face

        return face(index).image
