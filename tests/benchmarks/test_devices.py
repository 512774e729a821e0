"""`--devices all` on a machine without a GPU says so, and goes on with the CPU."""

from __future__ import annotations

import pytest
import torch

from concord.benchmarks.run.workers import resolve_devices
from concord.data import notes


def test_all_devices_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_said", set())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.warns(notes.Note, match="--devices all: no GPU is visible here"):
        assert resolve_devices("all") == ["cpu"]


def test_all_devices_with_two(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_devices("all") == ["cuda:0", "cuda:1"]
    assert not [one for one in recwarn if issubclass(one.category, notes.Note)]
