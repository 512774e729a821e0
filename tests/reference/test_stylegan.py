"""The StyleGAN2-type networks against direct loops and gradients by hand, float64, toy widths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from concord.methods.networks.stylegan import (
    CLASSES,
    MaskToCode,
    StyleDiscriminator,
    StyleGenerator,
    TextToCode,
    minibatch_deviation,
    modulated_convolution,
    to_plus,
)
from concord.methods.training.stylegan import EVERY, TrainStyleGAN, adversarial_loss, r1_penalty, step_of
from concord.methods.training.trainer import _generator


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def toy(seed: int = 0, **settings: object) -> StyleGenerator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StyleGenerator(**{"channels": (8, 8, 6), "width": 5, "depth": 2, **settings}).double()  # type: ignore[arg-type]
        for layer in network.layers:
            layer.strength.data.fill_(0.3)  # type: ignore[operator]
    return network


def noise_of(network: StyleGenerator, count: int, seed: int = 0) -> list[Tensor]:
    return [normal(count, 1, s, s, seed=seed + k) for k, s in enumerate(network.noise_sizes)]


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_modulated_convolution_is_a_convolution_of_each_sample(demodulate: bool, kernel: int) -> None:
    x, weight, style = normal(3, 4, 5, 6), normal(2, 4, kernel, kernel, seed=1), normal(3, 4, seed=2)
    found = modulated_convolution(x, weight, style, demodulate)
    edge = kernel // 2
    padded = torch.zeros(3, 4, 5 + 2 * edge, 6 + 2 * edge, dtype=torch.float64)
    padded[:, :, edge : edge + 5, edge : edge + 6] = x
    for b in range(3):
        own = weight.clone()
        for i in range(4):  # equation 1
            own[:, i] *= style[b, i]
        if demodulate:  # equation 3
            for o in range(2):
                own[o] /= math.sqrt(float(own[o].square().sum()) + 1e-8)
        for o in range(2):
            for r in range(5):
                for c in range(6):
                    direct = (padded[b, :, r : r + kernel, c : c + kernel] * own[o]).sum()
                    assert float(found[b, o, r, c]) == pytest.approx(float(direct), rel=1e-10, abs=1e-12)


def test_demodulated_weights_keep_unit_variance() -> None:
    x, weight, style = normal(1, 64, 64, 64), normal(16, 64, 3, 3, seed=1), 5 * normal(1, 64, seed=2)
    inside = modulated_convolution(x, weight, style)[..., 1:-1, 1:-1]  # zeros around the border weaken it
    assert float(inside.std()) == pytest.approx(1, abs=0.02)


def test_equal_vectors_in_w_plus_are_w() -> None:
    network, w = toy(), normal(2, 5)
    noise = noise_of(network, 2)
    code = network.plus(w)
    assert code.shape == (2, network.codes, 5) == (2, 6, 5)
    by_hand = torch.stack([w] * 6, dim=1)
    assert torch.equal(network(code, noise), network(by_hand, noise))
    # every vector of the code counts, so that the equality above says something
    for layer in range(network.codes):
        other = by_hand.clone()
        other[:, layer] += 1
        assert not torch.allclose(network(other, noise), network(code, noise), rtol=0, atol=1e-6)


def test_shapes_and_noise() -> None:
    network = toy(channels=(8, 8, 6, 4, 4))
    assert network.size == 64
    assert network.codes == 10
    assert network.noise_sizes == [4, 8, 8, 16, 16, 32, 32, 64, 64]
    code = network.plus(normal(2, 5))
    images = network(code, noise_of(network, 2))
    assert images.shape == (2, 3, 64, 64)
    assert not torch.allclose(images, network(code, noise_of(network, 2, seed=9)))
    alone = network(code[1:], [n[1:] for n in noise_of(network, 2)])
    assert torch.allclose(alone, images[1:], rtol=0, atol=1e-12)


def test_mapping_sees_only_the_direction() -> None:
    network, z = toy(), normal(3, 5)
    assert torch.allclose(network.map(z), network.map(7 * z), rtol=1e-6)


def test_measured_mean_and_deviation() -> None:
    network = toy()
    network.measure(4000)
    with torch.no_grad():
        w = network.map(normal(20_000, 5, seed=5))
    assert torch.allclose(network.w_mean, w.mean(0), atol=0.05)
    assert torch.allclose(network.w_std, w.std(0), rtol=0.1)
    assert torch.allclose(to_plus(network, torch.zeros(1, 6, 5, dtype=torch.float64))[0, 0], network.w_mean)


def test_minibatch_deviation_by_hand() -> None:
    x = normal(8, 3, 2, 2)
    found = minibatch_deviation(x)
    assert torch.equal(found[:, :3], x)
    for rows in (slice(0, 4), slice(4, 8)):
        by_hand = x[rows].std(0, correction=0).mean()
        assert torch.allclose(found[rows, 3], by_hand.expand(4, 2, 2), rtol=1e-6)
    same = minibatch_deviation(x[:1].expand(4, -1, -1, -1))
    assert float(same[:, 3].max()) < 1e-3


class Linear(nn.Module):
    """D(x) = <a, x> + b: its gradient at every x is a."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(normal(3, 4, 4, seed=3))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.a).sum((1, 2, 3)) + 0.5


def test_r1_of_a_linear_discriminator() -> None:
    critic = Linear()
    penalty = r1_penalty(critic, normal(5, 3, 4, 4))
    assert float(penalty.detach()) == pytest.approx(float(critic.a.detach().square().sum()), rel=1e-12)
    (slope,) = torch.autograd.grad(penalty, critic.a)
    assert torch.allclose(slope, 2 * critic.a, rtol=1e-12)


def test_r1_against_finite_differences() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        critic = StyleDiscriminator((4,)).double()  # 4 pixels: images of 8
    images = normal(2, 3, 8, 8) * 0.2 + 0.5
    penalty = float(r1_penalty(critic, images).detach())
    step = 1e-5 * torch.eye(images.numel(), dtype=torch.float64)
    with torch.no_grad():
        high, low = (
            torch.stack([critic((images.flatten() + sign * row).view_as(images)).sum() for row in step])
            for sign in (1, -1)
        )
    assert penalty == pytest.approx(float(((high - low) / 2e-5).square().sum()) / 2, rel=1e-3)


def test_both_players_get_their_own_gradient() -> None:
    """One shared pass gives what two separate losses give: L_D to the discriminator, L_G to the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        critic = StyleDiscriminator((6, 4)).double()
    made, reals = normal(4, 3, 16, 16).requires_grad_(), normal(4, 3, 16, 16, seed=1)
    adversarial_loss(critic, 2 * made, reals).backward()

    apart = softplus(critic((2 * made).detach())).mean() + softplus(-critic(reals)).mean()
    for parameter, expected in zip(
        critic.parameters(), torch.autograd.grad(apart, list(critic.parameters())), strict=True
    ):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected, rtol=1e-9, atol=1e-12)
    (expected,) = torch.autograd.grad(softplus(-critic(2 * made)).mean(), made)
    assert made.grad is not None
    assert torch.allclose(made.grad, expected, rtol=1e-9, atol=1e-14)


def test_the_step_is_read_from_the_trainers_generator() -> None:
    assert [step_of(_generator(TrainStyleGAN.seed, step)) for step in (0, EVERY, 12_345)] == [0, EVERY, 12_345]


def test_encoders_give_one_vector_per_layer_and_start_at_the_mean() -> None:
    masks = torch.randint(CLASSES, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        by_mask, by_text = MaskToCode(10, 7, channels=8), TextToCode(10, 7, embedding=16, hidden=32)
    code = by_mask(masks)
    assert code.shape == (3, 10, 7)
    assert float(code.detach().abs().max()) < 0.5
    assert torch.allclose(by_mask(masks[1:2]), code[1:2], atol=1e-6)
    assert by_text(torch.randn(3, 16, generator=torch.Generator().manual_seed(0))).shape == (3, 10, 7)
