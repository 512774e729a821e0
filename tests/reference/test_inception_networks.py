"""Inception's features against torch-fidelity, clean-fid and pytorch-fid, all reading one file of random weights.

pytorch-fid's network is read from clean-fid, which ships it unchanged.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from concord.data.errors import ConcordError
from concord.data.files import sha256_file
from concord.metrics.distribution.fid import FID
from concord.metrics.networks.pretrained.inception import (
    KINDS,
    WEIGHTS,
    Inception,
    InceptionFeatures,
    load_clean_fid,
    load_inception,
)

COUNT = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a size at which activations neither vanish nor explode, as the published files store theirs."""
    generator = torch.Generator().manual_seed(0)
    state = Inception().state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight"):
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "bn.weight")):
            value.uniform_(0.75, 1.25, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.1, generator=generator)
    path = tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    return path


@pytest.fixture(scope="module")
def inception(weights: Path) -> InceptionFeatures:
    return load_inception(weights)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """uint8 (COUNT, 3, 80, 100), unlike each other: smooth colours of several sizes with noise on top."""
    rng = np.random.default_rng(0)
    made = []
    for size in (2, 5, 12, 30):
        colours = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize((100, 80), Image.Resampling.BICUBIC)).astype(int)
        made.append((smooth + rng.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def found(inception: InceptionFeatures, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return inception(images, tuple(KINDS))


def assert_features(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within 2e-5 of the largest value, on images whose own differences are a hundred times that at least."""
    scale = float(theirs.abs().max())
    assert ours.shape == theirs.shape
    assert float(theirs.std(dim=0).mean()) > 2e-3 * scale
    assert float((ours - theirs).abs().max()) < 2e-5 * scale


@pytest.fixture(scope="module")
def fidelity(weights: Path) -> nn.Module:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    wanted = ["2048", "logits_unbiased"]
    return module.FeatureExtractorInceptionV3("inception", wanted, feature_extractor_weights_path=str(weights))


@pytest.fixture(scope="module")
def pytorch_fid(weights: Path) -> nn.Module:
    """pytorch-fid's network (images in [0, 1], resized outside)."""
    module = pytest.importorskip("cleanfid.inception_pytorch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: torch.load(weights, weights_only=True))
        return module.InceptionV3([3], resize_input=False).eval()


def test_tensorflow_kinds_are_torch_fidelitys(
    fidelity: nn.Module, images: torch.Tensor, found: dict[str, torch.Tensor]
) -> None:
    with torch.inference_mode():
        seen = {}
        fidelity.Mixed_6d.register_forward_hook(lambda module, args, output: seen.update(mixed_6d=output))
        pool, logits = fidelity(images)
    assert_features(found["pool-tf"], pool)
    assert_features(found["logits-tf"], logits)
    spatial = seen["mixed_6d"].permute(0, 2, 3, 1)[..., :7].reshape(COUNT, -1)  # as ADM: NHWC, first 7 channels
    assert spatial.shape == (COUNT, 17 * 17 * 7)
    assert_features(found["spatial-tf"], spatial)


def test_legacy_pool_is_pytorch_fids(
    pytorch_fid: nn.Module, images: torch.Tensor, found: dict[str, torch.Tensor]
) -> None:
    """Its recipe: ToTensor, bilinear resize of [0, 1] without antialiasing, then the network, which takes 2 x - 1."""
    batch = nn.functional.interpolate(images.float() / 255, size=(299, 299), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        theirs = pytorch_fid(batch)[0].reshape(COUNT, 2048)
    assert_features(found["pool-legacy"], theirs)


def test_clean_pool_is_clean_fids_from_files(
    pytorch_fid: nn.Module, images: torch.Tensor, found: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """clean-fid end to end: PNG files, its resize, its class around a TorchScript file with pytorch-fid's layers."""
    clean = pytest.importorskip("cleanfid.fid")
    torchscript = pytest.importorskip("cleanfid.inception_torchscript")

    class Original(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*pytorch_fid.blocks)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    with torch.inference_mode():
        traced = torch.jit.trace(Original().eval(), torch.zeros(1, 3, 299, 299))
    traced.save(tmp_path / "inception-2015-12-05.pt")
    folder = tmp_path / "images"
    folder.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k}.png")
    model = torchscript.InceptionV3W(str(tmp_path), download=False)
    theirs = torch.from_numpy(
        clean.get_folder_features(
            str(folder), model=model, num_workers=0, device=torch.device("cpu"), mode="clean", verbose=False
        )
    )
    assert_features(found["pool"], theirs)
    own = load_clean_fid(tmp_path / "inception-2015-12-05.pt")
    assert_features(own(images)["pool"], theirs)
    assert own.sha256 == sha256_file(tmp_path / "inception-2015-12-05.pt")
    with pytest.raises(ConcordError, match="gives 'pool' alone"):
        own(images, ("pool", "logits"))


def test_clean_fid_of_two_sets_is_clean_fids(found: dict[str, torch.Tensor], inception: InceptionFeatures) -> None:
    """The distance on the same features, by clean-fid's function: within 1e-6 relative, with fewer images than 2048."""
    clean = pytest.importorskip("cleanfid.fid")
    first = torch.cat([found["pool"], found["pool-tf"]])[:, :64].numpy()
    second = torch.cat([found["pool-legacy"], found["pool"].flip(0) * 1.1])[:, :64].numpy()
    rng = np.random.default_rng(0)
    first, second = (np.repeat(x, 20, axis=0) + 0.01 * rng.normal(size=(160, 64)) for x in (first, second))
    sides = [(x.mean(0), np.cov(x, rowvar=False)) for x in (first, second)]
    assert FID().compute(first, second) == pytest.approx(clean.frechet_distance(*sides[0], *sides[1]), rel=1e-6)


def test_spatial_and_logits_of_the_clean_pass_belong_to_its_pool(
    inception: InceptionFeatures, found: dict[str, torch.Tensor]
) -> None:
    assert_features(found["logits"], found["pool"] @ inception.network.fc.weight.T)
    assert found["logits"].shape == (COUNT, 1008)
    for kind in ("pool", "spatial", "logits"):
        moved = float((found[kind] - found[f"{kind}-tf"]).abs().max() / found[kind].abs().max())
        assert moved > 1e-3, kind  # another resize is another feature: protocols do not mix


def test_one_pass_serves_all_kinds_of_a_protocol(inception: InceptionFeatures, images: torch.Tensor) -> None:
    calls: list[int] = []
    hook = inception.network.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    together = inception(images[:1], ("logits", "pool", "spatial"))
    hook.remove()
    assert calls == [1]
    assert list(together) == ["logits", "pool", "spatial"]


def test_floats_batches_and_order_change_nothing(
    inception: InceptionFeatures, images: torch.Tensor, found: dict[str, torch.Tensor]
) -> None:
    alone = torch.cat([inception(image[None].float() / 255)["pool"] for image in images.flip(0)]).flip(0)
    scale = float(found["pool"].abs().max())
    assert float((alone - found["pool"]).abs().max()) < 2e-6 * scale


def test_float64_audit_agrees_with_float32(weights: Path, images: torch.Tensor, found: dict[str, torch.Tensor]) -> None:
    audit = load_inception(weights, dtype=torch.float64)(images[:1])["pool"]
    assert audit.dtype == torch.float32
    assert float((audit - found["pool"][:1]).abs().max()) < 2e-5 * float(audit.abs().max())


def test_weights_are_read_strictly(weights: Path, tmp_path: Path, inception: InceptionFeatures) -> None:
    assert inception.sha256 == sha256_file(weights)
    assert not any(parameter.requires_grad for parameter in inception.parameters())
    assert set(WEIGHTS) == {protocol for _, protocol in KINDS.values()}
    with pytest.raises(ConcordError, match="concord weights fetch inception-pytorch-fid"):
        load_inception(tmp_path / "absent.pth", weights="inception-pytorch-fid")
    state = torch.load(weights, weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "Mixed_6d.branch1x1.conv.weight"}, tmp_path / "less.pth")
    with pytest.raises(ConcordError, match=r"less\.pth: no weights of Inception: it lacks 'Mixed_6d\.branch1x1"):
        load_inception(tmp_path / "less.pth")
    (tmp_path / "bad.pt").write_bytes(b"not TorchScript")
    with pytest.raises(ConcordError, match=r"bad\.pt: not clean-fid's TorchScript network") as caught:
        load_clean_fid(tmp_path / "bad.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConcordError, match="features 'pool-clean': Inception gives pool, spatial"):
        inception(torch.zeros(1, 3, 8, 8), ("pool-clean",))
