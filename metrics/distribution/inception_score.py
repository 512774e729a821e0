"""IS, the Inception Score: are images sure of their class, and all classes there? (Salimans et al. 2016)

    IS = exp( mean_x KL( p(y|x) || p(y) ) ) = exp( H(mean_x p(y|x)) - mean_x H(p(y|x)) )       1 .. C, higher is better

p(y|x) is the softmax of a classifier's C logits, p(y) its mean over the generated images; no real image is looked at.
In profile 'paper' the classifier is Inception with its 1008 logits without bias, as the reference code has them; in
profile 'embedded' the class judge: the age and sex heads of the feature network, 12 classes
(metrics/networks/embedded/features.py).

Splits. torch-fidelity and torchmetrics average IS over 10 parts of the images, ADM's evaluator over parts of 5,000 in
their order, the last as large as what is left (6.644 where the whole set of 12,000 has 6.679). A part sees fewer
images, which lowers its score, so IS depends on n and on the number of splits. This file takes the whole set as one
split and gets its interval from a jackknife; `split_scores` reproduces the first, 'inception-score-adm' the second. The
"+-" that they print is the spread between parts, no standard error of the whole.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from concord.metrics.base import SetMetric, group_sizes, register
from concord.metrics.distribution.influence import influence_replicates
from concord.metrics.distribution.moments import Floats

PART = 5000
"""Images of one part of ADM's evaluator (guided-diffusion, evaluations/evaluator.py, `compute_inception_score`)."""
BLOCK = 4096  # rows whose probabilities are held at a time


@register
class InceptionScore(SetMetric):
    """exp of the mutual information between image and predicted class; of generated images alone."""

    name = "inception-score"
    label = "IS"
    unit = ""
    higher_is_better = True
    bounds = (1.0, math.inf)
    minimum_n = 50
    features = "logits"
    needs_reference = False
    networks = ("features",)

    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        self.check_features(generated, generated)  # there is no other side
        return _score(len(generated), *class_sums(generated))

    def replicates(self, generated: np.ndarray, reference: np.ndarray, items: np.ndarray) -> Floats:
        """By the influence function: IF_i = IS (KL(p(y|x_i) || p(y)) - mean_j KL_j), the derivative of the exponent."""
        self.check_features(generated, generated)
        divergence = divergences(generated)
        value = max(1.0, math.exp(float(divergence.mean())))
        return influence_replicates(value, value * (divergence - divergence.mean()), items)

    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        self.check_features(generated, generated)
        sizes = group_sizes(groups, len(generated))
        parts = [class_sums(generated[groups == g]) for g in range(len(sizes))]
        masses, entropies = np.stack([p[0] for p in parts]), np.array([p[1] for p in parts])
        # The other groups are added up, not this one taken off the total: no class is left below 0 by rounding.
        others = [np.arange(len(sizes)) != g for g in range(len(sizes))]
        remaining = len(generated) - sizes
        return np.array(
            [_score(n, masses[o].sum(axis=0), entropies[o].sum()) for n, o in zip(remaining, others, strict=True)]
        )


@register
class InceptionScoreTensorFlow(InceptionScore):
    """IS by the protocol of TensorFlow 1, torch-fidelity and ADM's evaluator (see metrics/distribution/fid.py), in
    one split."""

    name = "inception-score-tf"
    label = "IS (TF)"
    features = "logits-tf"


@register
class InceptionScoreADM(InceptionScoreTensorFlow):
    """IS as ADM's evaluator prints it: the mean over consecutive parts of 5,000 images.

    The jackknife leaves images out within their parts, so that every other image stays in its own.
    """

    def replicates(self, generated: np.ndarray, reference: np.ndarray, items: np.ndarray) -> Floats:
        """Of more than one part by groups, as the parts' means are no one functional of the images."""
        if len(generated) <= PART:
            return super().replicates(generated, reference, items)
        return SetMetric.replicates(self, generated, reference, items)

    name = "inception-score-adm"
    label = "IS (ADM, parts of 5,000)"

    def compute(self, generated: np.ndarray, reference: np.ndarray) -> float:
        self.check_features(generated, generated)
        return float(np.mean([_score(len(part), *class_sums(part)) for part in _parts(generated)]))

    def leave_group_out(self, generated: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> np.ndarray:
        self.check_features(generated, generated)
        replicates = []
        for group in range(len(group_sizes(groups, len(generated)))):
            parts = [part[labels != group] for part, labels in zip(_parts(generated), _parts(groups), strict=True)]
            replicates.append(np.mean([_score(len(part), *class_sums(part)) for part in parts if len(part)]))
        return np.array(replicates)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + PART] for i in range(0, len(rows), PART)]


def split_scores(logits: np.ndarray, splits: int = 10) -> Floats:
    """IS of `splits` consecutive parts of the rows (N, C), float64 (splits,); the mean is what torch-fidelity prints.

    torch-fidelity permutes the rows first (by the legacy generator with seed 2020); here the caller does, if at all.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{splits} splits of {len(logits)} rows: expected 1..{len(logits)}")
    bounds = [k * len(logits) // splits for k in range(splits + 1)]
    return np.array([_score(j - i, *class_sums(logits[i:j])) for i, j in pairwise(bounds)])


def divergences(logits: np.ndarray) -> Floats:
    """KL(p(y|x) || p(y)) of each image in nats (N,), p(y) being the mean over these images."""
    mass, _ = class_sums(logits)
    log_mean = np.log(np.maximum(mass / len(logits), np.finfo(np.float64).tiny))
    found = np.empty(len(logits))
    for start in range(0, len(logits), BLOCK):
        logs = logits[start : start + BLOCK].astype(np.float64)
        logs -= logs.max(axis=1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        found[start : start + len(logs)] = (np.exp(logs) * (logs - log_mean)).sum(axis=1)
    return found


def class_sums(logits: np.ndarray) -> tuple[Floats, float]:
    """(sum over rows of p(y|x) (C,), sum over rows of the entropy of p(y|x) in nats), in float64 by blocks of rows."""
    mass, entropy = np.zeros(logits.shape[1]), 0.0
    for start in range(0, len(logits), BLOCK):
        logs = logits[start : start + BLOCK].astype(np.float64)
        logs -= logs.max(axis=1, keepdims=True)
        p = np.exp(logs)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        logs -= np.log(total)
        mass += p.sum(axis=0)
        entropy -= float((p * logs).sum())  # p = 0 where the log is far below 0, and finite: 0
    return mass, entropy


def _score(n: int, mass: Floats, entropy: float) -> float:
    q = mass[mass > 0] / n
    return max(1.0, math.exp(-float((q * np.log(q)).sum()) - entropy / n))  # below 1 by rounding alone
