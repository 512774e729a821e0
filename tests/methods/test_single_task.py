"""The single-task baselines of MT-Diffusion and fine-tuning: DDPM without modalities, what is given, what is learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from multi_task_world import SMALL, FewFaces, SmallWorld, generator, random_network

from concord.benchmarks.suite import FOLDER, read_suite, suite_names
from concord.data.errors import ConcordError
from concord.data.labels import PALETTE
from concord.data.request import Conditions, Request
from concord.methods.base import Batch, Method, make_params
from concord.methods.mt_diffusion import Aggregation, FineTunedParse, predictor
from concord.methods.mt_single import ClassConditional, FineTunedGeneration, SegmentationDiffusion, Unconditional
from concord.methods.networks.experts import LATENT
from concord.methods.networks.multi_task import LABELS, Known, MultiTaskUNet, one_hot
from concord.methods.training import all_tasks
from concord.methods.training import multi_task as multi
from concord.methods.training import single_task as single
from concord.reports.site.cards import method_cards

SHARES = [0.0, 0.5, 0.0, 0.0, 0.25, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0]
TOYS = SmallWorld(
    mt_unconditional=random_network(modalities=[]),
    mt_class_conditional=random_network(modalities=["label"], heads=False, frequencies=SHARES),
    mt_segmentation=random_network(modalities=["mask"], planes=["image"]),
    mt_faces_generation=random_network(modalities=[]),
    mt_faces_segmentation=random_network(modalities=["mask"]),
)
METHODS: tuple[type[Method], ...] = (
    Unconditional,
    ClassConditional,
    SegmentationDiffusion,
    FineTunedGeneration,
    FineTunedParse,
)


def make(kind: type[Method], **params: Any) -> Any:
    return kind(make_params(kind, {"steps": 3, **params}), TOYS.networks)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def requests(count: int = 1, **given: Any) -> list[Request]:
    return [Request.make("toy", str(i), 0, Conditions(**given)) for i in range(count)]


def batch(asked: list[Request]) -> Batch:
    return Batch(asked, [generator(r.seed % 2**31) for r in asked], TOYS.device)


# ---------------------------------------------------------------------------------------------------------- the rows


def test_without_modalities_algorithm_1_is_ancestral_sampling() -> None:
    """Against DDPM's posterior written out here; the steps are latent diffusion's selection of 4."""
    method, asked = make(FineTunedGeneration, steps=4), requests(2)
    network, schedule = TOYS.others["mt-faces-generation"], TOYS.schedule
    found = method.denoised(batch(asked), predictor(network, schedule, Known()))
    noise = [generator(r.seed % 2**31) for r in asked]

    def draw() -> torch.Tensor:
        return torch.stack([torch.randn(LATENT, generator=each) for each in noise])

    abar = [float(a) for a in schedule.alphas_cumprod]
    z = draw()
    with torch.inference_mode():
        for t, s in ((751, 501), (501, 251), (251, 1), (1, -1)):
            a, before = abar[t], abar[s] if s >= 0 else 1.0
            v = network.velocity(network(z, t))
            x_0 = a**0.5 * z - (1 - a) ** 0.5 * v
            beta = 1 - a / before
            z = (before**0.5 * beta * x_0 + (a / before) ** 0.5 * (1 - before) * z) / (1 - a)
            if s >= 0:
                z = z + ((1 - before) / (1 - a) * beta) ** 0.5 * draw()
    torch.testing.assert_close(found, z, rtol=1e-3, atol=1e-3)


def test_a_class_is_given_or_drawn_as_often_as_the_data_have_it() -> None:
    method, asked = make(ClassConditional), requests(400)
    labels = method.labels(batch(asked))
    counts = torch.bincount(labels, minlength=LABELS) / 400
    assert set(labels.tolist()) == {1, 4, 7}
    assert counts.tolist() == pytest.approx(SHARES, abs=5 * (0.25 / 400) ** 0.5)
    alone = [int(method.labels(batch([one]))) for one in asked[:5]]
    assert alone == labels[:5].tolist()  # a request's class is its own, whatever the batch
    assert make(ClassConditional, label=3).labels(batch(asked[:2])).tolist() == [3, 3]
    first, second = (make(ClassConditional, label=label).generate(asked[:1]) for label in (0, 11))
    assert not torch.equal(first, second)
    for wrong in (-1, 12):
        with pytest.raises(ConcordError, match="parameter 'label'"):
            make(ClassConditional, label=wrong)


@pytest.mark.parametrize("kind", [SegmentationDiffusion, FineTunedParse])
def test_a_mask_is_drawn_in_the_palette_and_follows_its_image(kind: type[Method]) -> None:
    (one,), (same,) = (make(kind).generate(requests(source_image=picture(0))) for _ in range(2))
    (other,) = make(kind).generate(requests(source_image=picture(1)))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    colours = {tuple(c) for c in (one * 255).round().byte().movedim(0, -1).reshape(-1, 3).tolist()}
    assert colours <= {tuple(c) for c in PALETTE.tolist()}
    with pytest.raises(ConcordError, match="needs at least 1 of source_image"):
        make(kind).generate(requests())


def test_a_network_that_was_not_trained_is_named() -> None:
    toys = SmallWorld()
    method = FineTunedGeneration(FineTunedGeneration.Params(steps=2), toys.networks)
    with pytest.raises(ConcordError, match=r"has no role 'multi-task/mt-faces-generation'; it has multi-task"):
        method.generate(requests())


def test_every_method_has_its_row_and_a_task_that_makes_its_weights() -> None:
    rows = {row.method: row for name in ("joint-generation", "mask-from-image") for row in read_suite(name).rows}
    for kind in METHODS:
        row = rows[kind.name]
        assert set(row.conditions or []) == set(kind.conditions)
        make_params(kind, row.params)
        assert kind.file in all_tasks()  # type: ignore[attr-defined]
        card = method_cards()[kind.name]
        assert card.title == kind.title
        assert card.reference == f"{kind.citation.rstrip('.')}. {kind.paper}"


def test_budgets_of_captions_are_those_of_known_networks() -> None:
    from concord.reports.tables.trainings import STEPS

    named = {name for suite in suite_names() for name in STEPS.findall((FOLDER / f"{suite}.yaml").read_text("utf-8"))}
    made = {file for name, task in all_tasks().items() for file in (task.output_names or (name,))}
    assert {"mt-faces", "mt-segmentation", "mt-unconditional", "mt-class-conditional"} <= named <= made


# ------------------------------------------------------------------------------------------------------ first weights


@pytest.mark.parametrize("config", [{"modalities": []}, {"modalities": ["label"]}, {"modalities": ["mask"]}])
def test_part_of_a_network_is_that_network_where_the_rest_is_unknown(config: dict[str, Any]) -> None:
    whole, part = random_network(), random_network(**config, weights="bounded")
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.zero_()
    part.take_part(whole)
    z = torch.randn(2, *LATENT, generator=generator())
    e = torch.randn(2, *LATENT, generator=generator(1))
    known = Known({"mask": e}) if "mask" in config["modalities"] else Known()
    if "label" in config["modalities"]:
        known = Known(label=one_hot(torch.tensor([3, 8]), LABELS))
    ours, theirs = part(z, 300, known), whole(z, 300, known)
    torch.testing.assert_close(part.velocity(ours), whole.velocity(theirs), rtol=1e-4, atol=1e-5)
    for head in part.heads:
        torch.testing.assert_close(part.read(head, ours, z), whole.read(head, theirs, z), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- training


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(MultiTaskUNet):
        def __init__(self, **config: Any) -> None:
            super().__init__(**config, **SMALL)

    for module in (multi, single):
        monkeypatch.setattr(module, "Latents", FewFaces)
        monkeypatch.setattr(module, "load_autoencoder", lambda device: TOYS.autoencoder)
        monkeypatch.setattr(module, "MultiTaskUNet", Small)


CPU = torch.device("cpu")
TASKS = [
    single.TrainUnconditional,
    single.TrainClassConditional,
    single.TrainSegmentation,
    single.TrainClassifier,
    single.TrainMultiTaskGeneration,
    single.TrainMultiTaskSegmentation,
]


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.name)
@pytest.mark.usefixtures("small")
def test_every_task_learns_a_few_faces(kind: Any) -> None:
    task = kind(CPU)
    optimizer = torch.optim.AdamW(task.network.parameters(), 3e-3)
    before, parts = task.terms(generator(9), 16)
    assert torch.equal(before, task.terms(generator(9), 16)[0])
    assert parts
    for step in range(15):
        optimizer.zero_grad()
        loss = task.loss(generator(step), 8)
        loss.backward()
        optimizer.step()
    assert float(task.terms(generator(9), 16)[0].detach()) < 0.95 * float(before.detach())


@pytest.mark.usefixtures("small")
def test_the_class_is_given_and_nothing_reads_it() -> None:
    task = single.TrainClassConditional(CPU)
    assert not task.network.heads
    corpus = FewFaces().corpus
    counts = torch.bincount(corpus.attributes[:, 4] * 2 + corpus.male, minlength=LABELS) / 6
    assert task.network.frequencies == pytest.approx(counts.tolist(), abs=1e-4)
    index, t, noise = task.draw(generator(4), 3)
    z_0, label = task.data.values[index], (corpus.attributes[:, 4] * 2 + corpus.male)[index]
    want = 0.0
    for k in range(3):
        abar = float(task.schedule.alphas_cumprod[t[k]])
        z_t = abar**0.5 * z_0[k] + (1 - abar) ** 0.5 * noise[k]
        shared = task.network(z_t[None], t[k : k + 1], Known(label=one_hot(label[k : k + 1], LABELS)))
        v = abar**0.5 * noise[k] - (1 - abar) ** 0.5 * z_0[k]
        want += min(abar / (1 - abar), 5) * (1 - abar) * float((task.network.velocity(shared)[0] - v).square().mean())
    assert float(task.loss(generator(4), 3).detach()) == pytest.approx(want / 3, rel=1e-4)


@pytest.mark.usefixtures("small")
def test_the_single_segmentation_weighs_its_two_losses_as_equation_6() -> None:
    task = single.TrainSegmentation(CPU)
    loss, parts = task.terms(generator(), 4)
    assert float(loss.detach()) == pytest.approx(float((parts["v"] + 0.1 * parts["mask"]).detach()), rel=1e-6)


@pytest.mark.usefixtures("small")
def test_points_of_a_curve_count_what_is_right() -> None:
    """A head that always says the same is right as often as the truth is that."""
    corpus = FewFaces().corpus
    segmentation = single.TrainSegmentation(CPU)
    tuned = single.TrainMultiTaskSegmentation(CPU)
    task: Any
    for task in (segmentation, tuned):
        head = task.network.heads["mask"].convolution
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()
            head.bias[4 * 16 : 5 * 16] = 9.0  # class 4 of every pixel: 16 places of each channel's shuffle
        point = task.measure(task.model)
        assert point == {"pixel_accuracy": round(100 * float((corpus.masks == 4).float().mean()), 2), "n": 6}
    classifier: Any = single.TrainClassifier(CPU)
    truth = corpus.attributes[:, 4] * 2 + corpus.male
    with torch.no_grad():
        for name, layer in (("label-middle", -1), ("label-end", None)):
            head = classifier.network.heads[name]
            linear = head[layer] if layer is not None else head.layers[-1]
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[int(truth[0])] = 5.0
    share = round(100 * float((truth == truth[0]).float().mean()), 2)
    assert classifier.measure(classifier.model) == {"label_middle": share, "label_end": share, "n": 6}


def test_equal_recipes() -> None:
    """Single tasks have the recipe of the network that they are compared with, and start from the same trunk."""
    joint = multi.TrainMultiTask
    for kind in (single.TrainClassConditional, single.TrainSegmentation, single.TrainClassifier):
        assert (kind.recipe, kind.trunk, kind.depends_on) == (joint.recipe, joint.trunk, joint.depends_on)
    for tuned in (single.TrainMultiTaskGeneration, single.TrainMultiTaskClassifier, single.TrainMultiTaskSegmentation):
        assert (tuned.trunk, tuned.depends_on[-1]) == ("mt-faces", "mt-faces")
    sizes = [
        sum(p.numel() for p in MultiTaskUNet(**config).parameters())
        for config in ({}, {"modalities": ["label"], "heads": False}, {"modalities": ["mask"], "planes": ["image"]})
    ]
    assert max(sizes) < 1.12 * min(sizes)  # heads and planes apart, one size
    assert Aggregation.make(TOYS.schedule, 0).drift.shape == (0, 1000)
