"""`concord train`: what the command hands to the trainer."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from concord.cli import app
from concord.data.errors import ConcordWarning
from concord.methods.training import trainer


def test_rate_is_the_former_name_of_lr(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(trainer, "train", lambda *_, lr, **__: given.append(lr) or [])
    monkeypatch.setattr("concord.methods.training.get_task", lambda _: Nothing)
    assert CliRunner().invoke(app, ["train", "nothing", "--lr", "5e-4"]).exit_code == 0
    with pytest.warns(ConcordWarning, match="^--rate is now called --lr$"):
        assert CliRunner().invoke(app, ["train", "nothing", "--rate", "5e-4"]).exit_code == 0
    assert given == [5e-4, 5e-4]


class Nothing:
    """A task that needs nothing."""

    name, depends_on = "nothing", ()

    def __init__(self, *_: object) -> None: ...
