"""MT-Diffusion's instances and their training on small random networks: what is known, refused and kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from multi_task_world import SMALL, FewFaces, SmallWorld, generator, random_network

from concord.data.errors import ConcordError, ConcordWarning
from concord.data.labels import PALETTE, bisenet_to_celebamask, celebamask_to_bisenet
from concord.data.request import Conditions, Request
from concord.methods.base import Batch, get_method, make_params
from concord.methods.mt_diffusion import JointLabel, MultiTask, infer
from concord.methods.networks.experts import LATENT, Expert
from concord.methods.networks.multi_task import LABELS, MODALITIES, Encoders, Known, MultiTaskUNet, one_hot
from concord.methods.training import multi_task as training
from concord.metrics.networks.embedded.features import FeatureNetwork

TOYS = SmallWorld()


def make(name: str, **params: Any) -> Any:
    kind = get_method(name)
    return kind(make_params(kind, {"steps": 3, **params}), TOYS.networks)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def requests(*conditions: Conditions) -> list[Request]:
    return [Request.make("toy", str(i), 0, given) for i, given in enumerate(conditions)]


def batch(*conditions: Conditions) -> Batch:
    asked = requests(*conditions)
    return Batch(asked, [generator(r.seed % 2**31) for r in asked], TOYS.device)


# ------------------------------------------------------------------------------------------------------- the network


def test_it_starts_as_the_unconditional_expert() -> None:
    """Same weights, silent planes: v is the expert's, bit by bit, whatever is known, and so is what image heads say."""
    expert, network = Expert("unconditional", **SMALL).eval(), MultiTaskUNet(**SMALL).eval()
    network.take_trunk(expert.state_dict())
    z = torch.randn(2, *LATENT, generator=generator())
    e = torch.randn(2, *LATENT, generator=generator(1))
    with torch.inference_mode():
        want = expert(z, 300, expert.encode([Conditions()] * 2))
        shared = network(z, 300, Known({"masked-image": e}))
        assert torch.equal(network.velocity(shared), want)
        assert torch.equal(network.read("masked-image", shared, z), want)


def test_heads_have_the_shape_of_their_modality() -> None:
    z = torch.randn(2, *LATENT, generator=generator())
    shared = TOYS.network(z, torch.tensor([3, 700]))
    for kind in MODALITIES.values():
        for head in kind.heads:
            assert TOYS.network.read(head, shared, z).shape == (2, *kind.space)


def test_rows_of_a_batch_may_know_different_things() -> None:
    """A row's planes and token are its own: what the others know changes nothing."""
    network, z = TOYS.network, torch.randn(3, *LATENT, generator=generator())
    e = torch.randn(3, *LATENT, generator=generator(1))
    there = torch.tensor([1.0, 0.0, 0.0])[:, None, None, None]
    label = one_hot(torch.tensor([0, 5, 0]), LABELS) * torch.tensor([0.0, 1.0, 0.0])[:, None]
    together = network.velocity(network(z, 400, Known({"mask": e * there}, label)))
    alone = [
        network.velocity(network(z[:1], 400, Known({"mask": e[:1]}))),
        network.velocity(network(z[1:2], 400, Known(label=label[1:2]))),
        network.velocity(network(z[2:], 400)),
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    plain = network.velocity(network(z, 400))
    assert float((together - plain)[:2].flatten(1).abs().amax(1).min()) > 1e-5


def test_encoders_are_what_they_say() -> None:
    encode = Encoders(TOYS.autoencoder, TOYS.network)
    classes = torch.randint(19, (2, 64, 64), generator=generator())
    drawn = torch.from_numpy(PALETTE.copy())[classes].movedim(-1, 1).float() / 255
    torch.testing.assert_close(encode("mask", one_hot(classes, 19)), TOYS.autoencoder.encode(drawn))
    label = one_hot(torch.tensor([4, 11]), LABELS)
    want = TOYS.network.velocity(TOYS.network(torch.zeros(2, *LATENT), 0, Known(label=label)))
    assert torch.equal(encode("label", label), want)
    latents = torch.randn(2, *LATENT, generator=generator())
    assert encode("masked-image", latents) is latents
    images, known = torch.rand(1, 3, 64, 64, generator=generator()), torch.zeros(1, 64, 64, dtype=torch.bool)
    grey = TOYS.autoencoder.encode(torch.full((1, 3, 64, 64), 0.5))
    assert torch.equal(encode.masked_image(images, known), grey)


def test_labels_count_as_the_class_judge_does() -> None:
    judge = FeatureNetwork({"Young": 6, "Male": 2}, identity=3, width=8)
    with torch.no_grad():
        for head, wanted in (("Young", 4), ("Male", 1)):
            linear = judge.heads[head]
            assert isinstance(linear, torch.nn.Linear)
            linear.weight.zero_()
            linear.bias.copy_(one_hot(torch.tensor([wanted]), len(linear.bias))[0] * 9)
        found = int(judge.views(torch.rand(1, 3, 64, 64), ("logits",))["logits"].argmax(1))
    corpus = SimpleNamespace(attributes=torch.tensor([[0, 0, 0, 0, 4]]), male=torch.tensor([1]))
    assert found == int(training.labels_of(corpus)[0]) == 9  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ known or not


def hole() -> np.ndarray:
    known = np.ones((64, 64), dtype=bool)
    known[10:26, 40:56] = False
    return known


def test_pasting_changes_no_known_pixel() -> None:
    asked = requests(Conditions(masked_image=(picture(), hole())))
    kept = make("mt-diffusion-x").generate(asked)[0]
    free = make("mt-diffusion-x", keep="model").generate(asked)[0]
    original = torch.from_numpy(picture()).movedim(-1, 0).float() / 255
    known = torch.from_numpy(hole())
    assert torch.equal(kept[:, known], original[:, known])
    assert torch.equal(kept[:, ~known], free[:, ~known])
    assert not torch.equal(free[:, known], original[:, known])  # the network alone promises nothing


def test_nothing_masked_and_everything_masked() -> None:
    whole, none = np.ones((64, 64), dtype=bool), np.zeros((64, 64), dtype=bool)
    paste = make("mt-diffusion-x")
    (same,) = paste.generate(requests(Conditions(masked_image=(picture(), whole))))
    assert torch.equal(same, torch.from_numpy(picture()).movedim(-1, 0).float() / 255)
    masked = paste.generate(requests(Conditions(masked_image=(picture(), none))))
    asked_for_nothing = paste.generate(requests(Conditions()))
    assert torch.equal(masked, asked_for_nothing)  # a full mask is generation from scratch


def test_hidden_pixels_do_not_leak() -> None:
    other = picture()
    other[~hole()] = 255 - other[~hole()]
    images = [
        make("mt-diffusion-x", keep="model").generate(requests(Conditions(masked_image=(p, hole()))))
        for p in (picture(), other)
    ]
    assert torch.equal(*images)


def test_known_modalities_come_back_and_unknown_ones_are_found() -> None:
    method = make("mt-diffusion-seg")
    assert isinstance(method, MultiTask)
    mask = one_hot(torch.randint(19, (1, 64, 64), generator=generator()), 19)
    _, found = method.joint(batch(Conditions()), {"mask": mask})
    assert found["mask"] is mask
    _, found = method.joint(batch(Conditions()))
    torch.testing.assert_close(found["mask"].sum(1), torch.ones(1, 64, 64))
    z_0 = torch.randn(1, *LATENT, generator=generator())
    image, found = method.joint(batch(Conditions()), z_0=z_0)
    assert torch.equal(image, z_0)
    image, same = method.joint(batch(Conditions()), {"mask": mask}, z_0=z_0)
    assert torch.equal(image, z_0)
    assert same["mask"] is mask


def test_what_is_known_is_given_or_not() -> None:
    method = make("mt-diffusion-seg")
    mask = one_hot(torch.randint(19, (1, 64, 64), generator=generator()), 19)
    given, told = (method.joint(batch(Conditions()), {"mask": mask}, given=g)[0] for g in (True, False))
    assert not torch.equal(given, told)


def test_a_parsed_image_is_drawn_in_the_palette() -> None:
    (image,) = make("mt-diffusion-parse").generate(requests(Conditions(source_image=picture())))
    colours = {tuple(c) for c in (image * 255).round().byte().movedim(0, -1).reshape(-1, 3).tolist()}
    assert colours <= {tuple(c) for c in PALETTE.tolist()}


@pytest.mark.parametrize("name", ["mt-diffusion-m", "mt-diffusion-e"])
def test_labels(name: str) -> None:
    method = make(name)
    assert isinstance(method, JointLabel)
    probabilities = method.classify(batch(Conditions()), torch.rand(1, 3, 64, 64, generator=generator()))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1))
    images = [make(name, label=label).generate(requests(Conditions())) for label in (None, 0, 11)]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])
    for wrong in (-1, 12):
        with pytest.raises(ConcordError, match="parameter 'label'"):
            make(name, label=wrong)


# -------------------------------------------------------------------------------------------------------- bad input


def test_bad_data_is_refused() -> None:
    method, asked = make("mt-diffusion-seg"), batch(Conditions())
    good = one_hot(torch.zeros(1, 64, 64, dtype=torch.long), 19)
    with pytest.raises(ConcordError, match="unknown modality 'depth': expected one of mask"):
        method.joint(asked, {"depth": good})
    with pytest.raises(ConcordError, match="unknown modality 'label': expected one of mask"):
        method.joint(asked, {"label": one_hot(torch.tensor([1]), LABELS)})
    with pytest.raises(ConcordError, match=r"modality 'mask' has shape \(0, 19, 64, 64\).*without data is left out"):
        method.joint(asked, {"mask": good[:0]})
    with pytest.raises(ConcordError, match="modality 'mask' holds NaN"):
        method.joint(asked, {"mask": good * float("nan")})
    with pytest.raises(ConcordError, match="unknown modality 'depth'"):
        MultiTaskUNet(["depth"], **SMALL)
    with pytest.raises(ConcordError, match=r"modality 'label' has shape \(1, 3\)"):
        Encoders(TOYS.autoencoder, TOYS.network)("label", torch.zeros(1, 3))
    with pytest.raises(ConcordError, match="both known and to be found"):
        infer(lambda z, t: (z, {}), lambda n, x: x, None, {"a": good}, {"a": good}, [], (1,), "cpu", 2)  # type: ignore[arg-type]


def test_bad_conditions_are_refused() -> None:
    mask = Conditions(mask=np.zeros((64, 64), np.int64))
    with pytest.raises(ConcordError, match=r"image 1 of the batch has no condition 'mask'"):
        make("mt-diffusion-seg").generate(requests(mask, Conditions()))
    with pytest.raises(ConcordError, match=r"condition 'mask' has shape \(32, 32\)"):
        make("mt-diffusion-seg").generate(requests(Conditions(mask=np.zeros((32, 32), np.int64))))
    with pytest.raises(ConcordError, match="condition 'masked_image' has shape"):
        make("mt-diffusion-x").generate(requests(Conditions(masked_image=(picture()[:32], hole()))))
    with pytest.raises(ConcordError, match=r"what is known has shape \(32, 64\)"):
        make("mt-diffusion-x").generate(requests(Conditions(masked_image=(picture(), hole()[:32]))))
    with pytest.raises(ConcordError, match=r"what is known .* type uint8; expected bool"):
        make("mt-diffusion-x").generate(requests(Conditions(masked_image=(picture(), hole().astype(np.uint8)))))


def test_the_papers_weights_need_a_network_of_their_own() -> None:
    kind = get_method("mt-diffusion-u")
    params = make_params(kind, {"steps": 3, "weights": "paper"})
    needs = "weights 'paper' needs a network trained under them"
    role = "multi-task/mt-faces-paper-weights"
    with pytest.raises(
        ConcordError,
        match=f"{needs} .`concord train mt-faces-paper-weights`.: .*has no role '{role}'",
    ):
        kind(params, TOYS.networks).generate(requests(Conditions()))
    wrong = SmallWorld(mt_faces_paper_weights=random_network())
    with pytest.raises(ConcordError, match=f"{needs}, the card of mt-faces-paper-weights says 'bounded'"):
        kind(params, wrong.networks).generate(requests(Conditions()))
    right = SmallWorld(mt_faces_paper_weights=random_network(weights="paper", predicts="eps"))
    assert kind(params, right.networks).generate(requests(Conditions())).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("chosen", ["bounded", "paper"])
def test_the_preset_of_before_means_what_weights_says_now(chosen: str) -> None:
    """Stored parameters and suites of a user still say `preset: bounded`."""
    kind = get_method("mt-diffusion-u")
    with pytest.warns(ConcordWarning, match=f"`weights: {chosen}`"):
        old = make_params(kind, {"preset": chosen})
    assert old == make_params(kind, {"weights": chosen})
    assert old == make_params(kind, old.model_dump())  # what is stored from now on is read without a word
    assert make_params(kind).model_dump()["weights"] == "bounded"


def test_a_network_may_predict_the_noise_itself() -> None:
    network, z = random_network(predicts="eps"), torch.randn(1, *LATENT, generator=generator())
    shared = network(z, 400)
    assert torch.equal(network.eps(shared, z, 400, TOYS.schedule), network.velocity(shared))
    by_v = random_network().eps(shared, z, 400, TOYS.schedule)
    abar = TOYS.schedule.alphas_cumprod[400].float()
    torch.testing.assert_close(by_v, abar.sqrt() * network.velocity(shared) + (1 - abar).sqrt() * z)


def test_a_mask_in_the_wrong_order_is_another_condition() -> None:
    """The numbers of BiSeNet's order are valid classes and mean something else; converted by name they are the same."""
    mask = np.random.default_rng(0).integers(0, 19, (64, 64))
    method = make("mt-diffusion-seg")
    right, wrong, converted = (
        method.generate(requests(Conditions(mask=m)))
        for m in (mask, celebamask_to_bisenet(mask), bisenet_to_celebamask(celebamask_to_bisenet(mask)))
    )
    assert torch.equal(right, converted)
    assert not torch.equal(right, wrong)
    with pytest.raises(ConcordError, match=r"holds class 19: expected 0\.\.18"):
        Conditions(mask=np.full((64, 64), 19))


# --------------------------------------------------------------------------------------------------------- training


def test_patches_of_training() -> None:
    counts = torch.tensor([0, 1, 10])
    known = training.patch_masks(generator(3), counts.repeat(200))
    hidden = (~known).sum((1, 2)).reshape(200, 3)
    assert bool((hidden[:, 0] == 0).all())
    assert int(hidden[:, 1].max()) == 256
    assert 0 < int(hidden[:, 1].min()) < 256  # cut at the border
    assert bool((hidden[:, 2] >= hidden[:, 1].min()).all())
    assert int(hidden[:, 2].max()) <= 2560
    with pytest.raises(ConcordError, match="-1 masked patches: expected 0 or more"):
        training.patch_masks(generator(), torch.tensor([-1]))


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> training.TrainMultiTask:
    monkeypatch.setattr(training, "Latents", FewFaces)
    monkeypatch.setattr(training, "load_autoencoder", lambda device: TOYS.autoencoder)

    class Small(MultiTaskUNet):
        def __init__(self, **config: Any) -> None:
            super().__init__(**config, **SMALL)

    monkeypatch.setattr(training, "MultiTaskUNet", Small)
    return training.TrainMultiTask(torch.device("cpu"))


def test_the_loss_is_equation_6(task: training.TrainMultiTask) -> None:
    assert {n: (r.start, r.stop) for n, r in task.split(32).items()} == {
        "masked-image": (0, 16),
        "mask": (16, 26),
        "label": (26, 32),
    }
    loss, told = task.terms(generator(), 16)
    shares = {"masked-image": 8, "mask": 5, "label": 3}
    heads = {head: kind.name for kind in MODALITIES.values() for head in kind.heads}
    want = sum(shares[name] / 16 * float(told[f"v {name}"].detach()) for name in shares)
    want += 0.1 * sum(shares[heads[head]] / 16 * float(told[head].detach()) for head in heads)
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)
    again, _ = task.terms(generator(), 16)
    assert torch.equal(loss, again)
    loss.backward()
    silent = [name for name, p in task.network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not [name for name in silent if "attn2.to_q" not in name and "attn2.to_k" not in name], silent  # one token


def test_one_face_is_learnt(task: training.TrainMultiTask) -> None:
    optimizer = torch.optim.AdamW(task.network.parameters(), 3e-3)
    before = float(task.terms(generator(9), 32)[0].detach())
    for step in range(25):
        optimizer.zero_grad()
        task.loss(generator(step), 16).backward()
        optimizer.step()
    assert float(task.terms(generator(9), 32)[0].detach()) < 0.9 * before


def test_under_the_papers_weights_the_noise_is_learnt(task: training.TrainMultiTask) -> None:
    """Equal weights, as the paper; the task's network says in its card what it predicts and under which weights."""
    paper = training.TrainPaperWeights(torch.device("cpu"))
    assert (paper.network.weights, paper.network.predicts) == ("paper", "eps")
    out, z, noise = (torch.randn(3, *LATENT, generator=generator(k)) for k in range(3))
    t = torch.tensor([0, 500, 999])
    error, clean = paper.compared(out, z, noise, z, t)
    assert error.tolist() == pytest.approx([float((o - n).square().mean()) for o, n in zip(out, noise, strict=True)])
    abar = task.schedule.alphas_cumprod[500].float()
    torch.testing.assert_close(clean[1], (z[1] - (1 - abar).sqrt() * out[1]) / abar.sqrt())
    assert set(paper.terms(generator(), 16)[1]) >= {"eps mask", "eps label", "eps masked-image"}
    assert float(paper.terms(generator(), 16)[0].detach()) > 0
