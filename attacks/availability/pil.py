"""Perturbation-induced linearization (PIL): unlearnable noise from a linear classifier alone.

Shape letters: N rows, K classes, D values of a picture.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.availability.noise import changed, limit_of, perturbed
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threads import one_thread
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES

ITERATIONS = 200  # of L-BFGS for the classifier


@dataclass(frozen=True, kw_only=True)
class Pil:
    """Subtract noise that a linear classifier reads as the label, and that hides the picture from the same classifier.

    Source: Liu, Chen, Zhang, "Perturbation-Induced Linearization: Constructing Unlearnable Data with Solely Linear Classifiers", ICLR 2026
    (arXiv 2601.19967). Known to us are the abstract and public summaries of the paper, not the paper: a linear classifier f without a bias is trained on
    the clean rows; noise d minimises the cross-entropy of f(d) with the label ("shortcut") plus the divergence between f(x - d) and the uniform
    distribution ("obfuscation"); x - d is published.

    A model that is trained on x - d learns the label from -d, so on clean pictures its linear part points the wrong way.

    Differences: the weights of the two terms, the optimiser and the number of steps are ours. The divergence is the cross-entropy of f(x - d) with the
    uniform distribution, which has the same gradient as the divergence of f(x - d) from it. The classifier is scikit-learn's logistic regression. Its
    penalty matters: of `quick` trained on 2,500 rows of CIFAR-10, the accuracy on 2,000 other training rows fell from 59.4 % to 54.4, 25.8, 19.1, 13.0,
    11.2 and 10.0 with a penalty of 0.0001, 0.01, 0.1, 1, 10 and 100 (seed 100), perhaps because smoother noise survives crop and flip.

    Args:
        steps: signed gradient steps, 1 or more.
        step_size: size of one step, as a share of the budget's limit, above 0.
        obfuscation: weight of the second term, 0 or more; that of the first is 1.
        penalty: weight of the squared coefficients of the classifier, divided by the number of rows, from 1e-12 to 1e12.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    SEVERAL_CLASSES: ClassVar[bool] = True
    steps: int
    step_size: float
    obfuscation: float
    penalty: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.steps < 1 or not (0 < self.step_size < math.inf and 0 <= self.obfuscation < math.inf and 1e-12 <= self.penalty <= 1e12):
            raise ConfigError("attack.data: steps is 1 or more, step_size above 0 and obfuscation 0 or more, both finite, penalty a number from 1e-12 to 1e12")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with noise on as many of them as the budget allows.

        Raises:
            ConfigError: the budget has no Linf limit above 0.
        """
        limit = limit_of(known, "linf", "unlearnable")

        def change(rows: Dataset) -> Tensor:
            start = (2 * rng.child("start").per_row(rows.ids, draws=rows.inputs[0].numel()).float() - 1) * limit
            weights_DK = classifier(known.rows, self.penalty)
            noise = self._searched(rows, start, weights_DK, limit)
            return perturbed(rows.inputs, -noise.trunc().view(rows.inputs.shape))  # whole grey levels; rounding could exceed the limit

        return changed(known, rng, change)

    def _searched(self, rows: Dataset, noise_ND: Tensor, weights_DK: Tensor, limit: float) -> Tensor:
        """Return (N, D) noise in grey levels after all steps."""
        pixels_ND = rows.inputs.flatten(1).float()
        for _ in range(self.steps):
            slope = gradient(pixels_ND / 255, noise_ND / 255, rows.labels, weights_DK, self.obfuscation)
            noise_ND = (noise_ND - self.step_size * limit * slope.sign()).clamp(-limit, limit)
        return noise_ND


def classifier(rows: Dataset, penalty: float) -> Tensor:
    """Return (D, K) float32, the coefficients of multinomial logistic regression without a bias on pixels in 0..1."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    kinds = rows.labels.unique()
    model = LogisticRegression(C=1 / (penalty * len(rows)), fit_intercept=False, max_iter=ITERATIONS)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a classifier short of its optimum is still a linear surrogate
        model.fit((rows.inputs.flatten(1).float() / 255).numpy(), rows.labels.numpy())
    found = torch.from_numpy(model.coef_).float()
    weights = torch.zeros(rows.num_classes, found.shape[1])
    weights[kinds] = torch.cat([-found, found]) / 2 if len(kinds) == 2 else found  # two classes have one vector: the difference of theirs
    return weights.T


def gradient(pixels_ND: Tensor, noise_ND: Tensor, labels_N: Tensor, weights_DK: Tensor, obfuscation: float) -> Tensor:
    """Return (N, D), the gradient of each row's loss with respect to its noise; see `Pil`."""
    kinds = weights_DK.shape[1]
    shortcut_NK = (noise_ND @ weights_DK).softmax(1) - F.one_hot(labels_N, kinds)
    hidden_NK = 1 / kinds - ((pixels_ND - noise_ND) @ weights_DK).softmax(1)
    return (shortcut_NK + obfuscation * hidden_NK) @ weights_DK.T
