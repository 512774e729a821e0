"""Every method keeps the contract, and the contract's checks find methods that do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy_world

from concord.benchmarks.contract import Check, Contract
from concord.benchmarks.generators import method_generator
from concord.data.networks import Networks
from concord.methods import base, plugins
from concord.methods.networks.autoencoder import Autoencoder

FEW = {"steps": 2, "inversion_steps": 2, "repeat": 2}
"""Where a method has such a parameter: what is tested does not depend on how often, but on that it is done again."""


def few(name: str) -> dict[str, int]:
    """Of `FEW` what the method has; never more often than by default."""
    fields = base.get_method(name).Params.model_fields
    found = {key: value for key, value in FEW.items() if key in fields and not 0 <= fields[key].default < value}
    if "aggregation_steps" in fields and "steps" in found:
        found["aggregation_steps"] = min(fields["aggregation_steps"].default, found["steps"])
    return found


def checks(name: str, **params: object) -> dict[str, Check]:
    """Check name (its letter) -> result."""
    generator = method_generator("embedded", name, params)
    contract = Contract(base.make_method(name, params, lambda: Networks("embedded", generator)))
    names = [attribute for attribute in dir(contract) if attribute.startswith("check_")]
    return dict(zip(names, contract.run(), strict=True))


@pytest.mark.parametrize("name", base.all_methods())
def test_method_keeps_the_contract(name: str) -> None:
    failed = [f"{check.name}: {check.detail}" for check in checks(name, **few(name)).values() if not check.passed]
    assert not failed


def test_template_keeps_the_contract() -> None:
    before = base.all_methods()
    plugins.load_plugin(Path(base.__file__).parent / "template.py")
    try:
        failed = [check for check in checks("template", **few("template")).values() if not check.passed]
    finally:
        base._REGISTRY.methods.clear()
        base._REGISTRY.methods.update(before)
    assert not failed


def guide() -> str:
    """CONTRIBUTING.md's own method."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]


def template() -> str:
    return (Path(base.__file__).parent / "template.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("source", [guide, template])
def test_what_is_there_to_copy_holds_as_a_plugin_whatever_the_decoder_returns(
    source: Callable[[], str], broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin's images are not clamped for it: values outside [0, 1] are an error, which few steps may not show."""
    broken.write_text(source())
    (name,) = plugins.load_plugin(broken)
    method = base.make_method(
        name, {"steps": 2}, lambda: Networks("embedded", method_generator("embedded", name, {"steps": 2}))
    )
    decode = Autoencoder.decode
    monkeypatch.setattr(Autoencoder, "decode", lambda self, latents: 3 * decode(self, latents) - 1)
    images = method.generate(Contract(method).requests)
    assert (float(images.min()), float(images.max())) == (0, 1)


# ------------------------------------------------------------------------------------------- the checks find mistakes


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Path]:
    """Where to write a broken copy of the toy, 'broken'; it is forgotten afterwards."""
    before = base.all_methods()
    yield tmp_path / "broken.py"
    base._REGISTRY.methods.clear()
    base._REGISTRY.methods.update(before)


@pytest.mark.parametrize(
    ("found_by", "old", "new"),
    [
        ("check_a_shape", "return x", "return x * float('nan')"),
        ("check_a_shape", "return x", "return torch.zeros_like(x)"),
        ("check_a_shape", "return x", "return x[:, :1]"),
        ("check_b_repetition", "generator=g", ""),
        ("check_b_repetition", "x = noise / 4 + mask", "torch.rand(1); x = noise / 4 + mask"),
        ("check_c_batches", "return x", "return x - x.mean(0) + 0.5"),
        ("check_d_order", "return x", "return x * torch.arange(1, len(x) + 1).view(-1, 1, 1, 1) / 4"),
        ("check_e_seeds", "generator=g", "generator=torch.Generator().manual_seed(0)"),
        ("check_e_seeds", "return x", "return x - x.mean(0) + 0.5"),
        ("check_e_seeds", "    def denoisers", "    is_deterministic = True\n\n    def denoisers"),
        ("check_f_inputs", "time.sleep", "[c.mask.fill(0) for c in batch.conditions]; time.sleep"),
        ("check_g_traces", 'trace("influence"', 'trace("other"'),
        ("check_g_traces", "x = noise / 4 + mask", "x = noise / 4 + mask + 0.1 * len(trace.wanted)"),
        ("check_h_foreign", "def denoisers", "def check(self, request): pass\n\n    def denoisers"),
        ("check_i_too_few", "def denoisers", "def check(self, request): pass\n\n    def denoisers"),
        ("check_j_parameters", "class Params(Method.Params):", "class Params(Method.Params, extra='ignore'):"),
    ],
)
def test_mistake_is_found(broken: Path, found_by: str, old: str, new: str) -> None:
    source = toy_world.TOY.read_text().replace('"toy"', '"broken"')
    assert old in source
    broken.write_text(source.replace(old, new))
    plugins.load_plugin(broken)
    results = checks("broken")
    assert not results[found_by].passed
    assert "\n" not in results[found_by].detail


def test_toy_keeps_the_contract(toy: str) -> None:
    assert all(check.passed for check in checks(toy).values())
