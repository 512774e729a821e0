"""Images on their way into the store."""

from __future__ import annotations

import numpy as np
import torch

from concord.benchmarks.run.image_source import to_uint8


def test_values_go_to_the_nearest_level() -> None:
    levels = torch.arange(256, dtype=torch.float64)
    for offset in (-0.49, -0.25, 0.0, 0.25, 0.49):
        images = ((levels + offset) / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
        stored = to_uint8(images)
        assert stored.dtype == np.uint8
        assert np.array_equal(stored[0, :, :, 0].ravel(), np.arange(256))


def test_what_leaves_the_range_is_clipped_and_channels_come_last() -> None:
    images = torch.zeros(2, 3, 4, 5)
    images[0, 1] = 1.7
    images[1, 2] = -0.3
    stored = to_uint8(images)
    assert stored.shape == (2, 4, 5, 3)
    assert (stored[0, :, :, 1] == 255).all()
    assert stored.sum() == 255 * 20
