"""Inception as FID uses it: one pass gives pool3, the spatial features and the logits, in three protocols of input.

The network is TensorFlow's inception-2015-12-05 (Szegedy et al. 2016, before its final form): average pools that do
not count their padding, a max pool in the last block, and 1008 classes. It is not torchvision's `inception_v3`.

    kind                             input                                            for
    pool, spatial, logits            resize.clean on 0..255, (x - 128) / 128          clean-fid's FID; the default
    pool-tf, spatial-tf, logits-tf   resize.tensorflow on 0..255, (x - 128) / 128     torch-fidelity, ADM's evaluator
    pool-legacy                      resize.legacy on 0..1, 2 x - 1                   pytorch-fid

pool      (B, 2048)  pool3, the average of Mixed_7c over its 8 x 8 places.
spatial   (B, 2023)  ADM's `mixed_6/conv:0[..., :7]`: the first 7 channels of what PyTorch calls Mixed_6d, 17 x 17
                     places, flattened as (row, column, channel); in another order it misses ADM's stored statistics.
logits    (B, 1008)  without the bias of the last layer, as the Inception Score's reference code in TensorFlow.

Weights. 'inception-fidelity' (torch-fidelity's conversion, weights-inception-2015-12-05-6726825d.pth) serves `clean`
and `tensorflow`; 'inception-pytorch-fid' (pt_inception-2015-12-05-6726825d.pth) serves `legacy`. Both names carry the
same eight digits, the start of a SHA-256, and both files hold the same keys. clean-fid's own file,
'inception-clean-fid', is TorchScript of the same TensorFlow graph that gives pool3 alone (`load_clean_fid`): kept to
check the conversion against.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from concord.data.errors import ConcordError
from concord.data.files import sha256_file
from concord.metrics.image import resize
from concord.metrics.networks.pretrained.weights import frozen, load_strictly, read_state, unfilled, weight_path

SIDE = 299
CPU_BATCH = 8
"""Images in one pass on the CPU: the first layers hold 5 MiB an image, and 32 at once are a tenth slower."""
KINDS: dict[str, tuple[str, str]] = {
    "pool": ("pool", "clean"),
    "spatial": ("spatial", "clean"),
    "logits": ("logits", "clean"),
    "pool-tf": ("pool", "tensorflow"),
    "spatial-tf": ("spatial", "tensorflow"),
    "logits-tf": ("logits", "tensorflow"),
    "pool-legacy": ("pool", "legacy"),
}
"""Feature kind -> (output of the network, protocol of its input)."""
WEIGHTS = {"clean": "inception-fidelity", "tensorflow": "inception-fidelity", "legacy": "inception-pytorch-fid"}
"""Protocol -> the name of its weights in the manifest."""


class Step(NamedTuple):
    """One convolution of a branch; its padding keeps the size, except at stride 2, where there is none."""

    name: str
    channels: int
    height: int = 1
    width: int = 1
    stride: int = 1


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU; `fold` makes the first two one, for evaluation."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=0.001)

    def fold(self) -> None:
        """Put the normalisation, which is linear in evaluation, into the convolution; worked out in float64."""
        norm = self.bn
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
            return
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = self.conv.weight.detach().double() * scale[:, None, None, None]
        bias = norm.bias.detach().double() - norm.running_mean.double() * scale
        self.conv.weight = nn.Parameter(weight.to(self.conv.weight.dtype))
        self.conv.bias = nn.Parameter(bias.to(self.conv.weight.dtype))
        self.bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, their channels joined: (B, C, H, W) -> (B, C', H', W').

    branches: each a list of steps, first to last; a pair of steps splits the branch in two.
    pool: 'average' (padding not counted) or 'max' goes before the last branch, at stride 1; 'reduce' is a max pool at
    stride 2 that makes one more branch by itself.
    """

    def __init__(self, channels: int, pool: str, branches: Sequence[Sequence[Step | tuple[Step, Step]]]) -> None:
        super().__init__()
        self.pool, self.branches = pool, branches
        self.out_channels = channels if pool == "reduce" else 0
        for branch in branches:
            width = channels
            for step in branch:
                parts = [step] if isinstance(step, Step) else list(step)
                for part in parts:
                    padding = (0, 0) if part.stride > 1 else (part.height // 2, part.width // 2)
                    kernel = (part.height, part.width)
                    self.add_module(part.name, Convolution(width, part.channels, kernel, part.stride, padding))
                width = sum(part.channels for part in parts)
            self.out_channels += width

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.branches) - 1
        outputs = [self._branch(self._pooled(x) if number == last else x, b) for number, b in enumerate(self.branches)]
        if self.pool == "reduce":
            outputs.append(nn.functional.max_pool2d(x, 3, stride=2))
        return torch.cat(outputs, 1)

    def _branch(self, x: Tensor, steps: Sequence[Step | tuple[Step, Step]]) -> Tensor:
        for step in steps:
            if isinstance(step, Step):
                x = self.get_submodule(step.name)(x)
            else:
                x = torch.cat([self.get_submodule(part.name)(x) for part in step], 1)
        return x

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "average":
            return nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return nn.functional.max_pool2d(x, 3, stride=1, padding=1) if self.pool == "max" else x


def block_a(channels: int, pooled: int) -> Mixed:
    """35 x 35."""
    thrice = [Step("branch3x3dbl_1", 64), Step("branch3x3dbl_2", 96, 3, 3), Step("branch3x3dbl_3", 96, 3, 3)]
    five = [Step("branch5x5_1", 48), Step("branch5x5_2", 64, 5, 5)]
    return Mixed(channels, "average", [[Step("branch1x1", 64)], five, thrice, [Step("branch_pool", pooled)]])


def block_b(channels: int) -> Mixed:
    """35 x 35 -> 17 x 17."""
    twice = [Step("branch3x3dbl_1", 64), Step("branch3x3dbl_2", 96, 3, 3), Step("branch3x3dbl_3", 96, 3, 3, 2)]
    return Mixed(channels, "reduce", [[Step("branch3x3", 384, 3, 3, 2)], twice])


def block_c(channels: int, inner: int) -> Mixed:
    """17 x 17, 7 x 7 convolutions taken apart."""
    once = [Step("branch7x7_1", inner), Step("branch7x7_2", inner, 1, 7), Step("branch7x7_3", 192, 7, 1)]
    shapes = [(inner, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7)]
    twice = [Step(f"branch7x7dbl_{k}", *shape) for k, shape in enumerate(shapes, 1)]
    return Mixed(channels, "average", [[Step("branch1x1", 192)], once, twice, [Step("branch_pool", 192)]])


def block_d(channels: int) -> Mixed:
    """17 x 17 -> 8 x 8."""
    three = [Step("branch3x3_1", 192), Step("branch3x3_2", 320, 3, 3, 2)]
    shapes = [(192, 1, 1, 1), (192, 1, 7, 1), (192, 7, 1, 1), (192, 3, 3, 2)]
    return Mixed(channels, "reduce", [three, [Step(f"branch7x7x3_{k}", *shape) for k, shape in enumerate(shapes, 1)]])


def block_e(channels: int, pool: str) -> Mixed:
    """8 x 8, 3 x 3 convolutions taken apart side by side."""
    once: list[Step | tuple[Step, Step]] = [
        Step("branch3x3_1", 384),
        (Step("branch3x3_2a", 384, 1, 3), Step("branch3x3_2b", 384, 3, 1)),
    ]
    twice: list[Step | tuple[Step, Step]] = [
        Step("branch3x3dbl_1", 448),
        Step("branch3x3dbl_2", 384, 3, 3),
        (Step("branch3x3dbl_3a", 384, 1, 3), Step("branch3x3dbl_3b", 384, 3, 1)),
    ]
    return Mixed(channels, pool, [[Step("branch1x1", 320)], once, twice, [Step("branch_pool", 192)]])


class Inception(nn.Module):
    """Images (B, 3, 299, 299) in about [-1, 1] -> 'pool' (B, 2048), 'spatial' (B, 2023), 'logits' (B, 1008)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, (3, 3), 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = Convolution(32, 64, (3, 3), padding=(1, 1))
        self.Conv2d_3b_1x1 = Convolution(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = Convolution(80, 192, (3, 3))
        self.Mixed_5b = block_a(192, 32)
        self.Mixed_5c = block_a(256, 64)
        self.Mixed_5d = block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b = block_c(768, 128)
        self.Mixed_6c = block_c(768, 160)
        self.Mixed_6d = block_c(768, 160)
        self.Mixed_6e = block_c(768, 192)
        self.Mixed_7a = block_d(768)
        self.Mixed_7b = block_e(1280, "average")
        self.Mixed_7c = block_e(2048, "max")  # in that graph alone; the published architecture averages here too
        self.fc = nn.Linear(2048, 1008)

    def fold(self) -> Inception:
        """Normalisations put into their convolutions: the same function in evaluation, in fewer passes."""
        for module in self.modules():
            if isinstance(module, Convolution):
                module.fold()
        return self

    def forward(self, x: Tensor, outputs: Sequence[str] = ("pool", "spatial", "logits")) -> dict[str, Tensor]:
        features: dict[str, Tensor] = {}
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147)
        x = nn.functional.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # (B, 192, 71, 71)
        x = nn.functional.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # (B, 288, 35, 35)
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))  # (B, 768, 17, 17)
        if "spatial" in outputs:
            features["spatial"] = x[:, :7].permute(0, 2, 3, 1).flatten(1)
        if "pool" in outputs or "logits" in outputs:
            x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))  # (B, 2048, 8, 8)
            pool = x.mean((2, 3))
            features |= {"pool": pool, "logits": pool @ self.fc.weight.T}
        return {name: features[name] for name in outputs}


class InceptionFeatures(nn.Module):
    """Images -> features of the kinds asked for, one pass for all that share a protocol.

    sha256: of the weight file. Images are uint8, or floats in [0, 1] that are rounded to 8 bits;
    (B, 3, H, W) of any size.
    """

    def __init__(self, network: Inception, sha256: str = "") -> None:
        super().__init__()
        self.network, self.sha256 = network, sha256

    @torch.inference_mode()
    def forward(self, images: Tensor, kinds: Sequence[str] = ("pool",)) -> dict[str, Tensor]:
        """float32 (B, D) by kind; ConcordError for a kind that is none of Inception's."""
        for kind in kinds:
            if kind not in KINDS:
                raise ConcordError(f"features '{kind}': Inception gives {', '.join(KINDS)}")
        weight = self.network.fc.weight
        grey = resize.levels(images.to(weight.device))
        features: dict[str, Tensor] = {}
        for protocol in dict.fromkeys(KINDS[kind][1] for kind in kinds):
            layers = {kind: KINDS[kind][0] for kind in kinds if KINDS[kind][1] == protocol}
            outputs = self._outputs(grey, protocol, list(dict.fromkeys(layers.values())))
            features |= {kind: outputs[output].float() for kind, output in layers.items()}
        return {kind: features[kind] for kind in kinds}

    def features(self, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
        """float32 (B, D) by kind."""
        return self(images, kinds)

    def _outputs(self, grey: Tensor, protocol: str, names: list[str]) -> dict[str, Tensor]:
        parts = []
        for part in grey.split(CPU_BATCH if grey.device.type == "cpu" else max(len(grey), 1)):
            x = network_input(part, protocol).to(self.network.fc.weight.dtype)
            parts.append(self.network(x.contiguous(memory_format=torch.channels_last), names))
        return {name: torch.cat([part[name] for part in parts]) for name in names}


def network_input(grey: Tensor, protocol: str) -> Tensor:
    """Levels 0..255 (B, 3, H, W) -> what the network reads under that protocol, (B, 3, 299, 299)."""
    if protocol == "legacy":
        return 2 * resize.legacy(grey / 255, SIDE) - 1
    sized = resize.clean(grey, SIDE) if protocol == "clean" else resize.tensorflow(grey, SIDE)
    return (sized - 128) / 128


def load_inception(
    path: Path | None = None,
    device: torch.device | str = "cpu",
    weights: str = "inception-fidelity",
    dtype: torch.dtype = torch.float32,
) -> InceptionFeatures:
    """The extractor with the weights of a file, or of the manifest's file of that name (see `WEIGHTS`).

    dtype: float64 for an audit, in which batch size and device leave no trace in float32 features.
    """
    path = weight_path(weights, path)
    with unfilled():
        network = Inception()
    load_strictly(network, read_state(path), path)
    network = network.to(dtype).fold().to(memory_format=torch.channels_last)
    features = frozen(InceptionFeatures(network, sha256_file(path)), device)
    assert isinstance(features, InceptionFeatures)
    return features


class CleanFidInception(nn.Module):
    """clean-fid's own TorchScript network: 'pool' alone, under the clean protocol."""

    def __init__(self, layers: nn.Module, sha256: str) -> None:
        super().__init__()
        self.layers, self.sha256 = layers, sha256

    @torch.inference_mode()
    def forward(self, images: Tensor, kinds: Sequence[str] = ("pool",)) -> dict[str, Tensor]:
        """{'pool': float32 (B, 2048)}."""
        if tuple(kinds) != ("pool",):
            raise ConcordError(f"features {', '.join(kinds)}: clean-fid's own network gives 'pool' alone")
        x = network_input(resize.levels(images), "clean")
        return {"pool": self.layers(x).reshape(len(images), 2048).float()}


def load_clean_fid(path: Path | None = None, device: torch.device | str = "cpu") -> CleanFidInception:
    """clean-fid's network from inception-2015-12-05.pt; ConcordError where the file is not that."""
    path = weight_path("inception-clean-fid", path)
    try:
        base = torch.jit.load(str(path), map_location=device)
        layers = base.layers
    except (RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:90]
        raise ConcordError(f"{path}: not clean-fid's TorchScript network ({reason}); fetch the file again") from None
    network = frozen(CleanFidInception(layers, sha256_file(path)), device)
    assert isinstance(network, CleanFidInception)
    return network
