"""Energies that steer a diffusion model at sampling time, one per condition, and how far each may push.

    E(c, x_0|t) = || r(c, D(x_0|t)) ||_2        p(c | x_t) ~ exp(-E)        (FreeDoM, Yu et al. 2023)

D decodes the predicted clean latent to an image; r is the residual between what a guide network sees there and what the
condition asks for. There is one number per image: a row's energy, and with it its gradient, never depends on the rest
of the batch. What the papers and their authors' code take for r:

    text        difference of the image's and the caption's embedding; 'cosine' is no norm but -100 times the cosine,
                which Universal Guidance's code takes for text and style
    mask        a parser's logits of a reference image less those of the image (FreeDoM); 'segmentation maps' compared
                by the mean squared error (Z-Magic, section 3.6). A request brings the map itself and no image of it:
                r is the map (one-hot) less the image's map in probabilities. 'logits' compares centred logits with a
                one-hot target of their size instead, 'cross-entropy' is the mean of -log p over the pixels
    identity    difference of unit embeddings of the faces (ArcFace); 'mean-absolute' is the mean of its absolute values
                over the embedding's numbers (Universal Guidance's code)
    landmarks   difference of the 2 x 68 coordinates, as shares of the image's side
    style       difference of the Gram matrices of an image encoder's features, as deep as FreeDoM takes them

Energies look through guide networks. A network that also scores the result is refused unless a row asks for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, log_softmax, normalize, one_hot

from concord.data.errors import ConcordError
from concord.data.labels import CLASSES
from concord.data.networks import Networks
from concord.data.request import Request
from concord.methods.guidance.parameters import EnergyParams, Rule
from concord.metrics.face.square import face_square
from concord.metrics.image.bilinear import pillow_bilinear
from concord.metrics.networks.gram import gram
from concord.metrics.networks.protocols import (
    IdentityGuide,
    LandmarkGuide,
    ParserGuide,
    StyleFeatures,
    TextImageGuide,
    TokenFeatures,
    WindowIdentityGuide,
)

T = TypeVar("T")

ENERGY_FLOOR = 1e-12
"""Added under the root of a norm: its derivatives stay finite where a residual vanishes."""


# ------------------------------------------------------------------------------------------------------------- energies


@dataclass(frozen=True)
class Guide:
    """The networks that energies look through: those of one side of a profile, 'guide' or 'judge'."""

    networks: Networks
    side: Literal["guide", "judge"] = "guide"

    @property
    def device(self) -> torch.device:
        return self.networks.device

    def get(self, kind: str, expected: type[T]) -> T:
        """'parser', 'text-image', 'identity', 'landmarks' or 'features', as `Networks.get` gives it."""
        return self.networks.get(f"{self.side}/{kind}", expected)

    def has(self, kind: str) -> bool:
        """Whether the profile has a network of this kind on the guide's side."""
        return self.networks.has(f"{self.side}/{kind}")


class Energy(ABC):
    """The energy of one condition for the requests of a batch.

    target: (B, ...), what the condition asks for. Called on images (R, 3, H, W) in [0, 1], where R is B or a multiple
    of it (blocks of B rows, each in the order of the requests): energies (R,), 0 or more but for 'cosine'.
    """

    condition: ClassVar[str]
    target: Tensor

    @abstractmethod
    def residual(self, images: Tensor, target: Tensor) -> Tensor:
        """r (R, ...) of images and as many targets."""

    def __call__(self, images: Tensor) -> Tensor:
        copies = len(images) // len(self.target)
        target = self.target.repeat(copies, *[1] * (self.target.ndim - 1))
        return self.measure(self.residual(images, target))

    def measure(self, residual: Tensor) -> Tensor:
        """The norm over one sample."""
        return _norm(residual)


class TextEnergy(Energy):
    """|| e(image) - e(caption) ||: for unit vectors sqrt(2 - 2 cos), so that it falls as the cosine rises."""

    condition = "text"

    def __init__(self, requests: Sequence[Request], guide: Guide, p: EnergyParams, size: int) -> None:
        self.pair, self.raw = guide.get(p.guide_kind("text"), TextImageGuide), p.text_residual == "raw"
        self.cosine = p.text_residual == "cosine"
        captions = [_given(request, "text") for request in requests]
        with torch.no_grad():
            self.target = self.pair.text_features(captions) if self.raw else self.pair.embed_texts(captions)

    def encode_image(self, images: Tensor) -> Tensor:
        """The guide's features of images, brought to length 1 unless they are to be raw."""
        features = self.pair.guide_features(images)
        return features if self.raw else normalize(features, dim=-1)

    def residual(self, images: Tensor, target: Tensor) -> Tensor:
        seen = self.encode_image(images)
        return seen * target if self.cosine else seen - target

    def measure(self, residual: Tensor) -> Tensor:
        return _minus_hundred_cosines(residual) if self.cosine else super().measure(residual)


def _minus_hundred_cosines(products: Tensor) -> Tensor:
    """-100 cos (R,) from the products (R, D) of two unit vectors' numbers."""
    return -100 * products.sum(dim=1)


class MaskEnergy(Energy):
    """The distance of the segmentation map that the guide's parser sees from the one asked for."""

    condition = "mask"
    SPREAD = 18.0  # of 'logits': the right class above the mean of all; the embedded guide's median on faces

    def __init__(self, requests: Sequence[Request], guide: Guide, p: EnergyParams, size: int) -> None:
        self.parser, self.kind = guide.get("parser", ParserGuide), p.mask_residual
        masks = np.stack([np.asarray(_given(request, "mask"), dtype=np.int64) for request in requests])
        labels = torch.from_numpy(masks).to(guide.device)
        self.target = one_hot(labels, CLASSES).movedim(-1, 1).float()  # (B, 19, H, W)

    def residual(self, images: Tensor, target: Tensor) -> Tensor:
        logits = self.parser(images)  # (R, 19, h, w)
        if target.shape[-2:] != logits.shape[-2:]:
            target = interpolate(target, logits.shape[-2:], mode="nearest-exact")
        if self.kind == "probabilities":
            return logits.softmax(dim=1) - target
        if self.kind == "logits":
            above = target * CLASSES / (CLASSES - 1)  # so that the right class lies 1 above the mean
            return _centred(logits) - self.SPREAD * _centred(above)
        return -(log_softmax(logits, dim=1) * target).sum(dim=1)  # (R, h, w)

    def measure(self, residual: Tensor) -> Tensor:
        if self.kind == "cross-entropy":
            return residual.flatten(1).mean(dim=1)
        return super().measure(residual)


def _centred(x: Tensor) -> Tensor:
    """Less the mean over the classes; logits mean the same without it."""
    return x - x.mean(dim=1, keepdim=True)


class IdentityEnergy(Energy):
    """|| e(image) - e(person) || of unit vectors, or the mean of the absolute differences of their numbers.

    IR-SE50 looks at a fixed window of the image: FreeDoM's is rows 35..222 and columns 32..219 at 256 x 256, that of
    Z-Magic's authors rows 25..232 and columns 22..229 (their Face-GD/functions/arcface/model.py, line 36).
    """

    condition = "identity"

    def __init__(self, requests: Sequence[Request], guide: Guide, p: EnergyParams, size: int) -> None:
        self.network = guide.get("identity", IdentityGuide)
        self.kind, self.window = p.identity_residual, p.identity_window
        found = reference_images(requests, "identity", size, guide.device)
        _require_faces(requests, found, self.network)
        with torch.no_grad():
            self.target = self.embed(found)

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors (R, D)."""
        if isinstance(self.network, WindowIdentityGuide):
            return self.network.embed_window(images, self.window)
        return self.network.embed(images)

    def residual(self, images: Tensor, target: Tensor) -> Tensor:
        return self.embed(images) - target

    def measure(self, residual: Tensor) -> Tensor:
        return residual.abs().mean(dim=1) if self.kind == "mean-absolute" else super().measure(residual)


class LandmarkEnergy(Energy):
    """|| l(image) - l || / side over the 136 coordinates; side is that of the image.

    A network that is shown a part of the image (`squares`), as FreeDoM's is, sees the wanted face's square in every
    image, and side is that of the square.
    """

    condition = "landmarks"

    def __init__(self, requests: Sequence[Request], guide: Guide, p: EnergyParams, size: int) -> None:
        self.network = guide.get("landmarks", LandmarkGuide)
        points = np.stack([_points(request, size) for request in requests])
        self.target = torch.from_numpy(points).to(guide.device)  # (B, 68, 2), pixels
        self.squares = [face_square(row) for row in points]

    def residual(self, images: Tensor, target: Tensor) -> Tensor:
        squares = self.squares * (len(images) // len(self.squares))
        return self.network.landmark_residual(images, target, squares)


class StyleEnergy(Energy):
    """How far the image's style is from the reference's.

    gram       || G(image) - G(reference) ||_F, G = F F^T / (h w) of features F (C, h w) of an image encoder's block
    relative   the same over the sum of both norms, mean over the layers of the guide's feature network (metric
               style-distance has it too, over the judge's)
    embedding  || e(image) - e(reference) || of the images' unit embeddings (Universal Guidance, in the norm of the
               other energies)
    cosine     -100 cos(e(image), e(reference)), as Universal Guidance's code has it

    The reference comes to the size of the samples first, like every image here, and from there to the encoder's;
    style_reference 'encoder' brings it from its own size to CLIP's by Pillow's bilinear filter, as FreeDoM's code does,
    and 'own' from its own size by the encoder's own preparation, as Universal Guidance's code does.
    """

    condition = "style"

    def __init__(self, requests: Sequence[Request], guide: Guide, p: EnergyParams, size: int) -> None:
        self.guide, self.blocks, self.kind = guide, p.style_blocks, p.style_residual
        self.seen_by = p.guide_kind("style")
        found = [reference_images(requests, "style", size, guide.device)]
        by_encoder = p.style_reference == "encoder" and self.kind != "relative"
        pair = guide.get(self.seen_by, TextImageGuide) if by_encoder else None
        given = [np.asarray(_given(request, "style")) for request in requests]
        if isinstance(pair, TokenFeatures):
            found = [torch.stack([pillow_bilinear(row, pair.size, pair.size) for row in given]).to(guide.device)]
        elif p.style_reference == "own" and any(row.shape[:2] != (size, size) for row in given):
            found = [reference_images([request], "style", None, guide.device) for request in requests]
        with torch.no_grad():
            self.target = torch.cat([self.describe(rows) for rows in found])

    def describe(self, images: Tensor) -> Tensor:
        """(R, D): the Gram matrices one after another, or the embedding of the image."""
        if self.kind == "relative":
            return torch.cat([gram(f).flatten(1) for f in self.features(images)], dim=1)
        pair = self.guide.get(self.seen_by, TextImageGuide)
        if self.kind in ("embedding", "cosine"):
            return normalize(pair.guide_features(images), dim=-1)
        features = pair.block_features(images, self.blocks)
        return torch.cat([gram(f).flatten(1) * f.shape[1] for f in features], dim=1)

    def features(self, images: Tensor) -> list[Tensor]:
        """Of the guide's feature network; the sizes of their Gram matrices are remembered for `residual`."""
        if not self.guide.has("features"):
            raise ConcordError(
                f"style_residual 'relative' looks through a feature network, which profile "
                f"'{self.guide.networks.profile.name}' does not have; choose style_residual: gram or embedding"
            )
        found = self.guide.get("features", StyleFeatures).style_features(images)
        self.sizes = [f.shape[1] ** 2 for f in found]
        return found

    def residual(self, images: Tensor, target: Tensor) -> Tensor:
        seen = self.describe(images)
        if self.kind == "cosine":
            return seen * target
        if self.kind != "relative":
            return seen - target
        parts = zip(seen.split(self.sizes, dim=1), target.split(self.sizes, dim=1), strict=True)
        return torch.stack([_norm(a - b) / (_norm(a) + _norm(b)) for a, b in parts], dim=1)

    def measure(self, residual: Tensor) -> Tensor:
        if self.kind == "cosine":
            return _minus_hundred_cosines(residual)
        return residual.mean(dim=1) if self.kind == "relative" else super().measure(residual)


def _norm(x: Tensor) -> Tensor:
    """Per row, (R,), with derivatives at 0."""
    return (x.flatten(1).square().sum(dim=1) + ENERGY_FLOOR).sqrt()


ENERGIES: dict[str, Any] = {
    kind.condition: kind for kind in (TextEnergy, IdentityEnergy, MaskEnergy, LandmarkEnergy, StyleEnergy)
}


def make_energies(
    names: Sequence[str], requests: Sequence[Request], guide: Guide, p: EnergyParams, size: int
) -> dict[str, Energy]:
    """The energies of the named conditions, in that order; size: the side of the images that will be looked at.

    Raises ConcordError where a condition is missing or unusable, and where the guide is a judge without leave.
    """
    refuse_judge(guide, p.judge_may_guide)
    return {name: ENERGIES[name](requests, guide, p, size) for name in names}


def refuse_judge(guide: Guide, allowed: bool) -> None:
    """Raise ConcordError if the networks that guide are those that score, unless the row allows it."""
    if guide.side == "judge" and not allowed:
        raise ConcordError(
            "guide 'judge': the networks that score would guide the method too; use guide 'guide', or say "
            "judge_may_guide: true in the row's params"
        )


# --------------------------------------------------------------------------------------------------- reading conditions


def _given(request: Request, name: str) -> Any:
    value = getattr(request.conditions, name)
    if value is None:
        raise ConcordError(f"request {request.id}: condition '{name}' guides but is missing; give every request one")
    return value


def reference_images(requests: Sequence[Request], name: str, size: int | None, device: torch.device) -> Tensor:
    """The reference images of a condition, float32 (B, 3, size, size) in [0, 1]; of one own size for None."""
    found = []
    for request in requests:
        given = np.asarray(_given(request, name))
        if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8:
            raise ConcordError(
                f"request {request.id}: condition '{name}' has shape {given.shape} and type {given.dtype}; "
                "expected an image, uint8 of shape (H, W, 3)"
            )
        image = torch.from_numpy(np.ascontiguousarray(given)).to(device).movedim(-1, 0)[None].float() / 255
        if size is not None and image.shape[-2:] != (size, size):
            image = interpolate(image, (size, size), mode="bilinear", antialias=True)
        found.append(image)
    return torch.cat(found)


def _require_faces(requests: Sequence[Request], images: Tensor, network: IdentityGuide) -> None:
    """Raise ConcordError where an identity image shows no face, as far as the network can tell."""
    with torch.no_grad():
        _, statuses = network.embed_faces(images)
    for request, status in zip(requests, statuses, strict=True):
        if status != "ok":
            raise ConcordError(
                f"request {request.id}: the image of condition 'identity' shows no face; expected one face, upright, "
                "filling most of the image"
            )


def _points(request: Request, size: int) -> np.ndarray:
    points = np.asarray(_given(request, "landmarks"), dtype=np.float32)
    if points.shape != (68, 2):
        raise ConcordError(f"request {request.id}: condition 'landmarks' has shape {points.shape}; expected (68, 2)")
    outside = ~((points >= 0) & (points <= size)).all(axis=1)
    if outside.any():
        worst = int(np.flatnonzero(outside)[0])
        x, y = points[worst]
        raise ConcordError(
            f"request {request.id}: landmark {worst} of condition 'landmarks' lies at ({x:.1f}, {y:.1f}), outside the "
            f"image; expected 0..{size} in both directions"
        )
    return points


# ----------------------------------------------------------------------------------------------------------- step sizes


def objective(energies: Tensor, norm: str) -> Tensor:
    """The scalar whose gradient guides, of energies (R,).

    'sample': their sum, so that every row has its own gradient. 'batch': the norm over the whole tensor that FreeDoM's
    code takes, sqrt(sum E^2): row i's gradient is E_i / sqrt(sum E^2) times its own, about 1 / sqrt(R), and depends on
    its neighbours. For one image, as its scripts run it, the two are the same.
    """
    return energies.sum() if norm == "sample" else energies.square().sum().sqrt()


def rms(x: Tensor, norm: str) -> Tensor:
    """Root mean square of (R, ...) per row, (R, 1, ...); over all rows for norm 'batch'."""
    dims = tuple(range(1, x.ndim)) if norm == "sample" else tuple(range(x.ndim))
    return x.square().mean(dim=dims, keepdim=True).sqrt().clamp(min=1e-20)


def step_size(
    rule: Rule,
    strength: float,
    gradient: Tensor,
    eps: Tensor,
    correction: Tensor | None,
    abar: Tensor,
    weight: Tensor,
    p: EnergyParams,
) -> Tensor:
    """rho_t: x_{t'} moves by -rho_t times the gradient (R, C, h, w); a number, or (R, 1, 1, 1).

    sqrt-abar            strength sqrt(abar_t)
    relative             strength rms(eps) sqrt(1 - abar_t) / sqrt(abar_t) c_1 / rms(gradient), where c_1 (`weight`) is
                         the weight of x_0|t in DDPM's posterior mean: a share of what the noise moves x_0|t by
    relative-correction  strength rms(eps_c - eps_u) scale / rms(gradient), of the text-driven model's guidance
                         (`correction` = eps_c - eps_u); 'relative' where no text drives the model
    score                strength c_1 (1 - abar_t) / sqrt(abar_t): by how much DDPM's posterior mean moves for a score
                         of 1: strength 1 is Bayes' rule for p(c | x_t) ~ exp(-E)
    """
    if rule == "sqrt-abar":
        return strength * abar.sqrt()
    if rule == "score":
        return strength * weight * (1 - abar) / abar.sqrt()
    if rule == "relative-correction" and correction is not None:
        return strength * rms(correction, p.norm) * p.text_scale / rms(gradient, p.norm)
    return strength * rms(eps, p.norm) * (1 - abar).sqrt() / abar.sqrt() * weight / rms(gradient, p.norm)
