"""The training loop: the same weights with and without a kill, checks, cards."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from concord.data.checkpoints import load_weights, packed, save_weights, unpacked, weight_path
from concord.data.errors import ConcordError
from concord.data.lock import hold
from concord.methods.training import all_tasks, get_task
from concord.methods.training.trainer import Recipe, Task, train


class Line(Task):
    """Learns y = 2x - 1 from noisy points."""

    name = "line"
    recipe = Recipe(steps=160, batch=16, lr=0.2, warmup=5, ema=0.9)
    stop_at: int | None = None

    def build(self) -> nn.Module:
        self.calls = 0
        return nn.Linear(1, 1)

    def loss(self, generator: torch.Generator, batch: int) -> Tensor:
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        x = torch.randn((batch, 1), generator=generator)
        return (self.model(x) - (2 * x - 1 + 0.01 * torch.randn((batch, 1), generator=generator))).square().mean()

    def outputs(self, model: nn.Module) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        return {self.name: (model.state_dict(), {"inputs": 1})}

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        return {"slope": round(float(model.weight), 3)}


def task(folder: Path, stop_at: int | None = None) -> Line:
    line = Line(torch.device("cpu"), folder)
    line.stop_at = stop_at
    return line


def test_a_killed_training_ends_in_the_same_weights(tmp_path: Path) -> None:
    train(task(tmp_path / "a"), checkpoints=tmp_path / "ca", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(task(tmp_path / "b", stop_at=37), checkpoints=tmp_path / "cb", every_seconds=0, progress=False)
    assert (tmp_path / "cb" / "line.pt").is_file()
    assert not weight_path("line", tmp_path / "b").exists()
    resumed = task(tmp_path / "b")
    train(resumed, checkpoints=tmp_path / "cb", every_seconds=0, progress=False)
    assert resumed.calls == 160 - 37
    (one, card), (two, _) = load_weights("line", tmp_path / "a"), load_weights("line", tmp_path / "b")
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert card["held_out"]["slope"] == pytest.approx(2, abs=0.05)
    assert {"seed", "recipe", "loss", "seconds", "device", "git_commit", "sha256", "data_seed"} <= set(card)
    assert not (tmp_path / "cb" / "line.pt").exists()
    steps = [json.loads(line)["step"] for line in (tmp_path / "cb" / "line.log.jsonl").read_text().splitlines()]
    assert steps == [1, 51, 101, 151, 160]


def test_a_checkpoint_with_an_earlier_versions_names_is_resumed_with_a_warning(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        with pytest.raises(KeyboardInterrupt):
            train(task(tmp_path / folder, stop_at=37), checkpoints=tmp_path / folder, every_seconds=0, progress=False)
    file = tmp_path / "b/line.pt"
    saved = torch.load(file, weights_only=True)
    saved["averaged"], saved["recent"] = saved.pop("ema_params"), saved.pop("loss_ema")
    saved["recipe"]["rate"] = saved["recipe"].pop("lr")
    torch.save(saved, file)
    with warnings.catch_warnings(record=True) as shown:
        train(task(tmp_path / "a"), checkpoints=tmp_path / "a", progress=False)
        assert not shown
        (card,) = train(task(tmp_path / "b"), checkpoints=tmp_path / "b", progress=False)
    assert [str(one.message) for one in shown] == [
        f"{file}: has an earlier version's names; the next checkpoint has those of today"
    ]
    assert card["recipe"]["lr"] == 0.2
    one, two = (load_weights("line", tmp_path / folder)[0] for folder in ("a", "b"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_another_recipe_is_not_resumed_silently(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(task(tmp_path, stop_at=10), checkpoints=tmp_path, every_seconds=0, progress=False)
    with pytest.raises(ConcordError, match="another recipe; pass --restart"):
        train(task(tmp_path), steps=30, checkpoints=tmp_path, progress=False)
    train(task(tmp_path), steps=30, resume=False, checkpoints=tmp_path, progress=False)
    assert load_weights("line", tmp_path)[1]["recipe"]["steps"] == 30


def test_nan_stops_the_training(tmp_path: Path) -> None:
    class Broken(Line):
        def loss(self, generator: torch.Generator, batch: int) -> Tensor:
            return super().loss(generator, batch) * float("nan")

    with pytest.raises(ConcordError, match="training line: the loss became NaN at step 0"):
        train(Broken(torch.device("cpu"), tmp_path), checkpoints=tmp_path, progress=False)
    assert not weight_path("line", tmp_path).exists()


def test_weights_in_eight_bits_are_half_as_large_and_off_by_half_a_step_at_most(tmp_path: Path) -> None:
    kernel = (
        torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-6, 3, 64)[:, None, None, None]
    )
    kernel[5] = 0  # a row that says nothing
    state = {"kernel": kernel, "bias": torch.randn(64), "count": torch.arange(3), "table": torch.randn(4, 8)}
    save_weights("w", state, {}, tmp_path)
    large = weight_path("w", tmp_path).stat().st_size
    save_weights("w", state, {}, tmp_path, bits=8)
    assert weight_path("w", tmp_path).stat().st_size < 0.6 * large
    found, card = load_weights("w", tmp_path)
    assert (card["bits"], card["parameters"]) == (8, sum(value.numel() for value in state.values()))
    assert found.keys() == state.keys()
    assert torch.equal(found["count"], state["count"])
    assert torch.equal(found["bias"], state["bias"].half().float())
    step = kernel.abs().amax((1, 2, 3), keepdim=True) / 127
    assert bool(((found["kernel"] - kernel).abs() <= 0.5001 * step).all())
    assert float((found["kernel"] - kernel).norm()) > 0
    again = unpacked(packed(found, 8))  # rounding twice changes nothing more
    assert all(torch.allclose(again[key], value, rtol=1e-6, atol=0) for key, value in found.items())


def test_what_is_measured_is_what_is_stored(tmp_path: Path) -> None:
    """A task that keeps 8 bits is measured with them."""
    seen: list[torch.Tensor] = []

    class Coarse(Line):
        bits = 8

        def evaluate(self, model: torch.nn.Module) -> dict[str, Any]:
            seen.append(next(p.detach().clone() for p in model.parameters() if p.ndim > 1))
            return {}

    (card,) = train(Coarse(torch.device("cpu"), tmp_path), steps=3, checkpoints=tmp_path, progress=False)
    assert card["bits"] == 8
    kept = next(value for value in load_weights("line", tmp_path)[0].values() if value.ndim > 1)
    torch.testing.assert_close(seen[0], kept, rtol=1e-6, atol=0)


def test_weights_that_are_not_the_card_s_are_refused(tmp_path: Path) -> None:
    save_weights("w", {"a": torch.ones(3), "n": torch.arange(2)}, {}, tmp_path)
    state, card = load_weights("w", tmp_path)
    assert state["a"].dtype == torch.float32
    assert state["n"].dtype == torch.int64
    assert card["parameters"] == 5
    path = weight_path("w", tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(ConcordError, match=r"SHA-256 is .* its card says"):
        load_weights("w", tmp_path)
    path.unlink()
    with pytest.raises(ConcordError, match="no such weights; restore the file from git, or run `concord train w`"):
        load_weights("w", tmp_path)


def test_tasks_are_listed_after_what_they_need() -> None:
    made: set[str] = set()
    for name, kind in all_tasks().items():
        assert set(kind.depends_on) <= made, name
        made |= set(kind.output_names or (name,))
    tasks = all_tasks()
    for judge in (name for name in tasks if name.endswith("-judge") and not name.startswith("scenes-")):
        guide = tasks[judge.replace("-judge", "-guide")]
        assert guide.seed != tasks[judge].seed
        assert guide.config != tasks[judge].config  # type: ignore[attr-defined]
    with pytest.raises(ConcordError, match="unknown network 'nope': expected one of faces-autoencoder"):
        get_task("nope")


def test_further_training_goes_on_from_the_weights_and_says_so(tmp_path: Path) -> None:
    train(task(tmp_path), steps=40, checkpoints=tmp_path / "c", progress=False)
    (before, first) = load_weights("line", tmp_path)
    longer = task(tmp_path)
    seen: list[float] = []
    loss = longer.loss
    longer.loss = lambda generator, batch: seen.append(float(longer.model.weight)) or loss(generator, batch)  # type: ignore[func-returns-value, method-assign]
    train(longer, steps=30, lr=0.05, further=True, checkpoints=tmp_path / "c", progress=False)
    (after, card) = load_weights("line", tmp_path)
    assert seen[0] == float(before["weight"])  # begins where the other ended
    assert (card["recipe"]["steps"], card["recipe"]["lr"]) == (30, 0.05)
    (earlier,) = card["earlier"]
    assert (earlier["recipe"]["steps"], earlier["sha256"]) == (40, first["sha256"])
    assert not torch.equal(before["weight"], after["weight"])
    train(task(tmp_path), steps=10, further=True, checkpoints=tmp_path / "c", progress=False)
    assert [part["recipe"]["steps"] for part in load_weights("line", tmp_path)[1]["earlier"]] == [40, 30]


def test_further_training_sees_fresh_data_and_survives_a_kill(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(task(tmp_path / name), steps=20, checkpoints=tmp_path / "c", progress=False)
    train(task(tmp_path / "a"), steps=50, further=True, checkpoints=tmp_path / "ca", progress=False)
    killed = task(tmp_path / "b", stop_at=17)
    with pytest.raises(KeyboardInterrupt):
        train(killed, steps=50, further=True, checkpoints=tmp_path / "cb", every_seconds=0, progress=False)
    train(task(tmp_path / "b"), steps=50, further=True, checkpoints=tmp_path / "cb", progress=False)
    one, two = load_weights("line", tmp_path / "a")[0], load_weights("line", tmp_path / "b")[0]
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_nothing_to_train_further_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConcordError, match="no such weights to train further"):
        train(task(tmp_path), further=True, checkpoints=tmp_path / "c", progress=False)


class Measured(Line):
    """A line whose slope is measured every 40 steps; the measurement draws random numbers of its own."""

    measured_every = 40

    def measure(self, model: nn.Module) -> dict[str, Any]:
        torch.randn(3)
        assert not model.training
        return {"slope": float(model.weight)}


def test_a_curve_is_of_the_averaged_weights_and_changes_nothing(tmp_path: Path) -> None:
    train(task(tmp_path / "plain"), checkpoints=tmp_path / "c", progress=False)
    measured = Measured(torch.device("cpu"), tmp_path / "measured")
    first = float(measured.model.weight)
    (card,) = train(measured, checkpoints=tmp_path / "c", progress=False)
    one, two = (load_weights("line", tmp_path / name)[0] for name in ("plain", "measured"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    curve = card["held_out"]["curve"]
    assert [point["step"] for point in curve] == [0, 40, 80, 120, 160]
    assert curve[0]["slope"] == first
    assert curve[-1]["slope"] == pytest.approx(float(two["weight"]), abs=1e-3)  # kept in half precision
    assert card["held_out"]["slope"] == pytest.approx(curve[-1]["slope"], abs=1e-3)
    killed = Measured(torch.device("cpu"), tmp_path / "killed")
    killed.stop_at = 97
    with pytest.raises(KeyboardInterrupt):
        train(killed, checkpoints=tmp_path / "ck", every_seconds=0, progress=False)
    again = Measured(torch.device("cpu"), tmp_path / "killed")
    (resumed,) = train(again, checkpoints=tmp_path / "ck", every_seconds=0, progress=False)
    assert resumed["held_out"]["curve"] == curve
    (longer,) = train(
        Measured(torch.device("cpu"), tmp_path / "killed"),
        steps=40,
        further=True,
        checkpoints=tmp_path / "c2",
        progress=False,
    )
    assert [point["step"] for point in longer["held_out"]["curve"]] == [160, 200]


def test_two_trainings_of_one_network_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with (
        hold(tmp_path / "c" / ".line.lock"),
        pytest.raises(ConcordError, match=r"line: process \d+ on .* is training it; wait for it"),
    ):
        train(task(tmp_path / "a"), checkpoints=tmp_path / "c", progress=False)
    assert not weight_path("line", tmp_path / "a").exists()
    train(task(tmp_path / "a"), checkpoints=tmp_path / "c", progress=False)


@pytest.mark.parametrize("content", [b"", b"half", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "line.pt").write_bytes(content)
    with pytest.raises(ConcordError, match=r"line\.pt: not a .*checkpoint.*pass --restart"):
        train(task(tmp_path / "a"), checkpoints=tmp_path / "c", progress=False)
    torch.save([1], tmp_path / "c" / "line.pt")
    with pytest.raises(ConcordError, match="not a checkpoint of a training"):
        train(task(tmp_path / "a"), checkpoints=tmp_path / "c", progress=False)
