"""Networks by role: what a method may ask for, and what a pool keeps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.networks import Networks, Pool
from concord.data.profile import load_profile
from concord.data.request import Conditions, Request
from concord.methods import base
from concord.methods.base import Batch, Method, Trace, make_method, register
from concord.methods.core.schedule import Schedule


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> type[Method]:
    """A method of one network that asks for another one where its caption says so."""
    monkeypatch.setattr(base._REGISTRY, "methods", dict(base.all_methods()))

    @register
    class Asking(Method):
        name, title, paper, training_free = "asking", "Asking", "arXiv:0000.00000", True
        conditions = frozenset({"text"})

        @classmethod
        def roles(cls, params: Method.Params, conditions: Sequence[str]) -> tuple[str, ...]:
            return ("schedule", *(f"expert/{name}" for name in conditions))

        def sample(self, batch: Batch, trace: Trace) -> Tensor:
            for word in (batch.conditions[0].text or "").split():
                self.networks.get(word, nn.Module)
            return torch.zeros(len(batch), 3, 8, 8)

    return Asking


def asking(caption: str) -> Request:
    return Request.make("toy", "0", 0, Conditions(text=caption))


def three() -> Networks:
    return Networks.of(
        {"schedule": Schedule.scaled_linear(), "expert/text": nn.Identity(), "expert/mask": nn.Identity()}
    )


def test_a_method_gets_the_networks_that_it_names_and_no_others(method: type[Method]) -> None:
    """A network that no key names must not make an image."""
    made = make_method("asking", {}, three(), ["text"])
    assert made.generate([asking("expert/text")]).shape == (1, 3, 8, 8)
    with pytest.raises(ConcordError, match=r"role 'expert/mask': it was not named .*\(expert/text, schedule\)"):
        made.generate([asking("expert/mask")])
    assert three().get("expert/mask", nn.Module)  # it is there all the same


def test_a_method_that_states_no_roles_gets_those_of_its_key(
    method: type[Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method, "roles", classmethod(lambda cls, params, conditions: None))
    networks = Networks("embedded", "faces")
    narrowed = make_method("asking", {}, networks).networks
    assert narrowed.allowed == frozenset(load_profile("embedded").default_roles("faces"))
    assert {"expert/text", "stylegan", "schedule"} <= (narrowed.allowed or set())
    assert not any(role.startswith(("judge", "guide", "multi-task/mt-classifier")) for role in narrowed.allowed or ())


def test_the_old_name_says_where_networks_are_now(method: type[Method]) -> None:
    with pytest.raises(ConcordError, match=r"`self.bank` is now `self.networks.get\(role, kind\)`"):
        _ = make_method("asking", {}, three()).bank


def test_a_pool_keeps_what_the_next_row_uses_and_lets_go_of_the_rest() -> None:
    pool = Pool()
    first = Networks("embedded", pool=pool)
    parser, identity = (first.get(f"judge/{kind}", object) for kind in ("parser", "identity"))
    assert len(pool.loaded) == 2
    second = Networks("embedded", allowed=["judge/identity"], pool=pool)
    second.trim()
    assert len(pool.loaded) == 2  # it is built on the parser
    assert second.get("judge/identity", object) is identity
    third = Networks("embedded", allowed=["judge/parser"], pool=pool)
    third.trim()
    assert list(pool.loaded.values()) == [parser]
    assert third.get("judge/parser", object) is parser
    assert set(third.sha256) == {"faces-parser-judge"}  # not what other rows looked through
