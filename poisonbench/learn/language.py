"""Language models: networks that give the next word, and victims that answer prompts with texts.

Shape letters: M prompts, L places of a prompt, K answers, A words of an answer, V words of the vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonbench.core.abilities import HeadGradients
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.forms.answers import Answers
from poisonbench.forms.tokens import PADDING, trimmed, whole_texts
from poisonbench.learn import device
from poisonbench.learn.central import Central, NetVictim
from poisonbench.learn.objectives import word_logs
from poisonbench.nets.gpt import Cache, WordNet, begun, by_length

ROWS = 200  # prompts that are read at once
PLACES = 20_000  # words of answers that are read at once
SURE = 1 - 1e-7  # largest sum of the probabilities of all answers, so that the rest has a logarithm


@dataclass(frozen=True, kw_only=True)
class Language(Central):
    """A language model, trained on texts, or on the responses to prompts.

    Source: the training is that of Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019, at a small scale.

    Args:
        temperature: of the words that it draws, 0 or more; 0 always takes the most likely word.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"
    temperature: float

    def __post_init__(self) -> None:
        """Refuse recipes that cannot be trained."""
        super().__post_init__()
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"learner.temperature={self.temperature}: give a finite number of 0 or more")

    def victim(self) -> type[NetVictim]:
        """Return the class of the victims."""
        return LanguageVictim


@dataclass(frozen=True, eq=False, kw_only=True)
class LanguageVictim(NetVictim):
    """A trained language model."""

    @property
    def words(self) -> WordNet:
        """The network."""
        return cast("WordNet", self.net)

    def with_words(self, words: nn.Module) -> LanguageVictim:
        """Return a victim with another network of the same vocabulary."""
        return dataclasses.replace(self, built=cast("WordNet", words).eval(), weights=None, history=())

    @property
    def module(self) -> None:  # type: ignore[override]
        """None: it has no scores of classes that a gradient could be followed from."""
        return

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) float32, the log-probabilities that a prompt (M, L) is answered by exactly each answer of the task, or by none of them.

        Raises:
            Incompatible: the task has no list of answers.
        """
        form = self.like.schema["labels"].form
        if not isinstance(form, Answers):
            raise Incompatible("a language model scores the answers of a task, and this task has none, since its rows are texts; choose task=world for answers")
        table = form.texts
        found = [self.choose(some, table.expand(len(some), -1, -1)) for some in inputs.split(ROWS)]
        logs = torch.cat(found) if found else torch.zeros(0, len(table))
        rest = torch.log1p(-logs.double().exp().sum(1).clamp(max=SURE)).float()
        return torch.cat([logs, rest[:, None]], 1)

    def choose(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """Return (M, K) float32, the log-probability that a prompt (M, L) is answered by exactly each of its answers (M, K, A)."""
        found = torch.zeros(answers.shape[:2])
        for rows, prompts in self._groups(inputs):
            step = max(1, PLACES // max(1, answers.shape[1] * answers.shape[2]))
            for some, asked in zip(rows.split(step), prompts.split(step), strict=True):
                found[some] = self._logs(asked, answers[some]).cpu()
        return found

    def _logs(self, prompts: Tensor, answers: Tensor) -> Tensor:
        """Return (m, K) log-probabilities for prompts (m, L) of one length, on the learner's device."""
        texts = trimmed(answers.flatten(0, 1)).to(prompts.device)
        with torch.inference_mode(), self.learner.autocast():
            cache = Cache()
            first = self.words.head(self.words.states(begun(prompts), cache)[:, -1]).repeat_interleave(answers.shape[1], 0)
            rest = self.words.head(self.words.states(texts, cache.repeated(answers.shape[1])))
        logs = word_logs(torch.cat([first[:, None], rest], 1), texts)
        counted = torch.arange(texts.shape[1] + 1, device=texts.device) <= (texts != PADDING).sum(1)[:, None]
        return (logs * counted).sum(1).view(answers.shape[:2])

    def sample(self, inputs: Tensor, rng: Key) -> Tensor:
        """Return (M, A) int64, what the model writes after each prompt (M, L), padded at the end.

        A response has as many words as the responses of the training rows, at most; where these are texts without prompts, as many as the row has
        free places. A prompt's draws depend on its place among the prompts, and on no other prompt.
        """
        width = self.like.extra["response"].shape[1] if "response" in self.like.extra else inputs.shape[1]
        written = torch.full((len(inputs), width), PADDING)
        for rows, prompts in self._groups(inputs):
            room = width if "response" in self.like.extra else inputs.shape[1] - prompts.shape[1]
            for some, asked in zip(rows.split(ROWS), prompts.split(ROWS), strict=True):
                written[some, :room] = self._written(asked, some, room, rng)
        return written

    def _written(self, prompts: Tensor, places: Tensor, room: int, rng: Key) -> Tensor:
        """Return (m, room) words after prompts (m, L) of one length."""
        texts, cache, new = torch.full((len(prompts), room), PADDING), Cache(), begun(prompts)
        going = torch.ones(len(prompts), dtype=torch.bool)
        for number in range(room):
            with torch.inference_mode(), self.learner.autocast():
                scores = self.words.head(self.words.states(new, cache)[:, -1]).float().cpu()
            words = self._drawn(scores, rng.per_row(places, number)[:, 0])
            going &= words != PADDING
            if not going.any():
                break
            texts[going, number] = words[going]
            new = words[:, None].to(prompts.device)
        return texts

    def _drawn(self, scores: Tensor, draws: Tensor) -> Tensor:
        """Return (m,) words for (m, V) scores and (m,) uniform draws."""
        language = cast("Language", self.learner)
        if not language.temperature:
            return scores.argmax(1)
        shares = (scores.double() / language.temperature).softmax(1).cumsum(1)
        return (shares < draws[:, None] * shares[:, -1:]).sum(1)

    def logs(self, texts: Tensor) -> Tensor:
        """Return (M, L + 1) float32, the log-probability of the word at each place of (M, L) texts and of the end; 0 after the end."""
        found = torch.zeros(len(texts), texts.shape[1] + 1)
        place = device.resolve(self.learner.device)
        for rows in torch.arange(len(texts)).split(ROWS):
            some = trimmed(texts[rows]).to(place)
            with torch.inference_mode(), self.learner.autocast():
                logs = word_logs(self.words(some), some).cpu()
            lengths = (texts[rows] != PADDING).sum(1)
            logs = logs * (torch.arange(logs.shape[1]) <= lengths[:, None])
            found[rows] = F.pad(logs, (0, found.shape[1] - logs.shape[1]))
        return found

    def _each(self, batch: Batch) -> Tensor:
        """Return (B,), the mean over the words that are learned; in a training, where each word has the same weight, a longer text weighs more."""
        texts, counted = whole_texts(batch.inputs, batch.extra.get("response"))
        return -(word_logs(self.words(texts), texts) * counted).sum(1) / counted.sum(1)

    def head_gradients(self, data: Dataset) -> Iterator[HeadGradients]:
        """Yield the gradients of `losses` with respect to the output matrix.

        Its weights are those of the embeddings too; what they do as embeddings is left out.
        """
        place = device.resolve(self.learner.device)
        for rows in torch.arange(len(data)).split(ROWS):
            some = data.take(rows)
            response = some.extra.get("response")
            texts, counted = whole_texts(some.inputs.to(place), None if response is None else response.to(place))
            with torch.inference_mode(), self.learner.autocast():
                states = self.words.states(begun(texts))
                scores = self.words.head(states)
            errors = scores.double().softmax(2) - F.one_hot(F.pad(texts, (0, 1), value=PADDING), scores.shape[2])
            errors *= (counted / counted.sum(1, keepdim=True))[:, :, None]
            yield HeadGradients(errors=errors.cpu(), features=states.double().cpu())

    def _groups(self, inputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the positions of the prompts of each length, and these prompts without padding, on the learner's device."""
        place = device.resolve(self.learner.device)
        for rows in by_length(inputs):
            length = int((inputs[rows[0]] != PADDING).sum())
            yield rows, inputs[rows, :length].to(place)
