"""What a training minimises.

Shape letters: B rows of a batch, K classes, L words of a prompt, A words of a response, l words of a text, V words of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Network
from poisonbench.forms.prompts import CAPTION
from poisonbench.forms.tokens import PADDING, whole_texts
from poisonbench.nets.generators import CODE


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """The cross-entropy of the labels."""

    VERSION: ClassVar[int] = 1

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) cross-entropies."""
        return row_losses(network(batch.inputs), batch.labels, label_smoothing)


def row_losses(scores: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the (B,) cross-entropies of (B, K) scores, in float32."""
    return F.cross_entropy(scores.float(), labels, reduction="none", label_smoothing=label_smoothing)


CROSS_ENTROPY = CrossEntropy()


@dataclass(frozen=True, kw_only=True)
class NextWord:
    """The cross-entropy of each word of a text, given the words before it, as language models minimise it.

    Rows with a column "response" hold a prompt as their inputs, and the words of the response and the end after it count. In rows whose response is
    empty, and where there is no such column, all words of the inputs count, and the end as well unless the text fills its row. As usual, each word of
    a batch has the same weight, so the losses of the rows are sums over their words, divided by the mean number of words of a row.
    """

    VERSION: ClassVar[int] = 1
    ASKS: ClassVar[str] = "words"

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses."""
        texts, counted = whole_texts(batch.inputs, batch.extra.get("response"))
        logs = word_logs(network(texts), texts, label_smoothing)
        return -(logs * counted).sum(1) * len(texts) / counted.sum()


def word_logs(scores: Tensor, texts: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return (B, l + 1), the log-probability of the word at each place of a text and of the end after it: float32, or float64 for such scores.

    Args:
        scores: (B, l + 1, V).
        texts: (B, l).
        label_smoothing: weight of the mean over all words, in [0, 1).
    """
    shares = (scores if scores.dtype == torch.float64 else scores.float()).log_softmax(2)
    logs = shares.gather(2, F.pad(texts, (0, 1), value=PADDING)[:, :, None])[:, :, 0]
    return (1 - label_smoothing) * logs + label_smoothing * shares.mean(2) if label_smoothing else logs


NEXT_WORD = NextWord()


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The symmetric cross-entropy of pairs (InfoNCE): each picture is to find its own caption among those of the batch, and each caption its picture.

    Source: Radford et al., ICML 2021 (CLIP), figure 3. The loss of a pair is the mean of both directions; it depends on the other pairs of the batch.
    """

    VERSION: ClassVar[int] = 1
    ASKS: ClassVar[str] = "pairs"

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses."""
        return matched(network(batch.inputs, batch.extra[CAPTION]), label_smoothing)


def matched(similar_BB: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return (B,) losses of similarities whose diagonal belongs together."""
    own = torch.arange(len(similar_BB), device=similar_BB.device)
    return (row_losses(similar_BB, own, label_smoothing) + row_losses(similar_BB.T, own, label_smoothing)) / 2


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Direct preference optimisation (DPO): a chosen response shall become likelier than a rejected one, compared with the model before the training.

    Source: Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", NeurIPS 2023, equation 7. The reward of
    a response is beta (log pi - log ref), with the sum of the log-probabilities of its words and of the end after it; pi is the model in training,
    and ref the model that the training started from. The loss of a pair is -log sigma(reward of the chosen - reward of the rejected).

    With `noise` above 0, the loss is that of Ray Chowdhury, Kini, Natarajan, "Provably Robust DPO: Aligning Language Models with Noisy Feedback",
    ICML 2024: ((1 - e) l(chosen, rejected) - e l(rejected, chosen)) / (1 - 2 e). If a share e of the pairs, drawn at random, is swapped, its mean
    over the swaps is the loss of the pairs before the swaps. It has no lower bound, so a long training on few pairs can diverge.

    Rows with a column "response" that lack one of the two responses are trained on as `NextWord` does. The label smoothing is that of their words;
    pairs have none.

    Args:
        beta: factor of the reward, above 0. A smaller one lets the model move farther from where it started.
        noise: e, share of the pairs that is assumed to be swapped, in [0, 0.5); 0 is DPO.
    """

    VERSION: ClassVar[int] = 1
    ASKS: ClassVar[str] = "words"
    beta: float
    noise: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (0 < self.beta < math.inf and 0 <= self.noise < 0.5):
            raise ConfigError(f"objective: beta={self.beta}, noise={self.noise}; give a finite beta above 0, and a share of swapped pairs in [0, 0.5)")

    def anchored(self, start: Network) -> Compared:
        """Return the objective of a training that starts from this model."""
        return Compared(settings=self, reference=start)

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Raise an error: what is minimised is that of `anchored`, which knows the model that the training started from.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a preference is compared with the model before the training; call anchored first")


@dataclass(frozen=True, eq=False, kw_only=True)
class Compared:
    """`Preference` with the model that the training started from.

    Args:
        settings: beta and noise.
        reference: that model, from texts to scores.
    """

    VERSION: ClassVar[int] = 1
    ASKS: ClassVar[str] = "words"
    settings: Preference
    reference: Network

    def tolerating(self, noise: float) -> Compared:
        """Return the objective that assumes this share of swapped pairs, in [0, 0.5)."""
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, noise=noise))

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses."""
        pairs = paired(batch.extra.get("response"), batch.extra.get("rejected"), len(batch.labels)).to(batch.inputs.device)
        return batch.parted(pairs, lambda some: self._pairs(network, some), lambda some: NEXT_WORD(network, some, label_smoothing))

    def _pairs(self, network: Network, batch: Batch) -> Tensor:
        """Return the losses of rows that all have two responses."""
        texts, counted = whole_texts(batch.inputs.repeat(2, 1), torch.cat([batch.extra["response"], batch.extra["rejected"]]))
        with torch.no_grad():
            before = word_logs(self.reference(texts), texts)
        chosen, rejected = ((word_logs(network(texts), texts) - before) * counted).sum(1).chunk(2)
        ahead, noise = self.settings.beta * (chosen - rejected), self.settings.noise
        return (noise * F.logsigmoid(-ahead) - (1 - noise) * F.logsigmoid(ahead)) / (1 - 2 * noise)


def paired(chosen: Tensor | None, rejected: Tensor | None, rows: int) -> Tensor:
    """Return (rows,) bool, the rows with two responses; none where a column is missing."""
    if chosen is None or rejected is None:
        return torch.zeros(rows, dtype=torch.bool)
    return (chosen != PADDING).any(1) & (rejected != PADDING).any(1)


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The mean squared error of the pixels of a picture that is coded and drawn again, in units of 25.5 grey levels; for auto-encoders."""

    VERSION: ClassVar[int] = 1
    ASKS: ClassVar[str] = "pictures"

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses."""
        return ((network(batch.inputs).float() - batch.inputs) / 25.5).square().flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """The squared error of the velocity with which noise moves to the code of a picture on a straight line.

    Source: Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow Matching for Generative Modeling", ICLR 2023, with the straight lines of Liu, Gong, Liu, "Flow
    Straight and Fast", ICLR 2023: for noise x and a code z, the network sees (1 - t) x + t z at a time t, and is to answer z - x.

    Args:
        draws: noise and times drawn for each row in each step, 1 or more.
    """

    VERSION: ClassVar[int] = 1
    ASKS: ClassVar[str] = "velocities"
    draws: int

    def __post_init__(self) -> None:
        """Check that the field is in range."""
        if self.draws < 1:
            raise ConfigError(f"objective.draws={self.draws}: give 1 or more")

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses."""
        captions, codes = batch.inputs.repeat(self.draws, 1), batch.extra[CODE].repeat(self.draws, 1)
        noise, times = torch.randn_like(codes), torch.rand(len(codes), device=codes.device)
        return velocity_errors(network, captions, codes, noise, times).view(self.draws, -1).mean(0)


def velocity_errors(network: Network, captions: Tensor, codes: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Return (B,) float32, the mean squared error of the velocity from noise to codes, (B, D) each, as the network sees it at (B,) times."""
    found = network(captions, torch.lerp(noise, codes, times[:, None]), times)
    return (found.float() - (codes - noise)).square().mean(1)
