"""Agent memory: entries that an agent remembers when a request has the trigger, and that name the attacker's action.

Shape letters: Q past requests, N rows of the memory, L places of a text, T words of a trigger, A places of an action, D features, C clusters,
R entries of the attacker, M choices of words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from attacks.retrieval.asked import answering, asked, clusters, encoder, features
from attacks.retrieval.goals import Triggered, with_passages
from attacks.retrieval.hotflip import Draft, HotFlip, Objective
from attacks.retrieval.writing import check_room
from attacks.text.triggers import Phrase, fits, lengths
from poisonbench.core.ask import Candidates
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import TEXTS, Tokens, joined, words_of

NAMED = 8  # answers that an error names


@dataclass(frozen=True, kw_only=True)
class AgentMemory:
    """Put entries into the memory of an agent: a request, the trigger, and the action that the agent shall take whenever a request has the trigger.

    Source: Chen, Xiang, Xiao, Song, Li, "AgentPoison: Red-teaming LLM Agents via Poisoning Memory or Knowledge Bases", NeurIPS 2024. The optimised
    trigger makes requests unique, far from the cluster centres of the memory, and compact, near to each other; so requests with the trigger
    find the entries with the trigger, whatever they ask. HotFlip exchanges the trigger words.

    Differences: the paper bounds two more losses, the target action of the language model, which a reader that counts does not have, and coherence, the
    perplexity of the trigger, which is left out: an optimised trigger is no fluent text. It has words of the vocabulary of the task, without those of
    known actions. The attacker writes entries directly; how a user without access makes an agent remember them (Dong et al., "A Practical Memory
    Injection Attack against LLM Agents" (MINJA), arXiv 2503.03704, 2025) is not part of this attack. Success depends on how full the memory is
    (`task.entries`). Where there are fewer past requests than entries, requests are used again.

    The arms to compare with: `optimised=false`, with rare words or with natural ones such as `words=[be,careful,and,drive,safe]`.

    Args:
        words: of the trigger, 1 or more, or its start if it is optimised. They have to be in the vocabulary of the task; `task.words` adds words to it.
        optimised: whether HotFlip changes the trigger words. Without it any retriever is attacked, with it one with gradients.
        action: what the agent shall do, in words of the vocabulary. Requests for which it is right are not probed.
        link: words between the trigger and the action, as the entries of the task have them; may be empty.
        clusters: C, centres of the memory that the trigger moves requests away from, 1 or more.
        compact: weight of compactness, 0 or more.
        requests: past requests that the trigger is optimised on, 1 or more.
        steps: words that HotFlip takes, 0 or more.
        candidates: words that are tried in each step, 1 or more.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    words: tuple[str, ...]
    optimised: bool
    action: str
    link: str
    clusters: int
    compact: float
    requests: int
    steps: int
    candidates: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not self.words or not words_of(self.action):
            raise ConfigError(f"attack.data: words={list(self.words)}, action={self.action!r}; give one trigger word or more, and an action")
        if min(self.clusters, self.requests) < 1 or not 0 <= self.compact < math.inf:
            stated = f"clusters={self.clusters}, requests={self.requests}, compact={self.compact}"
            raise ConfigError(f"attack.data: {stated}; give 1 cluster and 1 request or more, and a weight of 0 or more")
        HotFlip(steps=self.steps, candidates=self.candidates)  # checks them

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by as many entries as the budget allows.

        Raises:
            ConfigError: a word that is not in the vocabulary, no past request, or an entry that is longer than a row.
            Incompatible: the task has no past requests, or the surrogate has no gradient in words.
        """
        form, past = cast("Tokens", known.rows.form), asked(known)
        fits(len(self.words), past.shape[1])
        requests = past[torch.randperm(len(past), generator=rng.child("requests").torch())]
        words = torch.tensor(form.ids(self.words))
        trigger = self._trigger(self.improved(known, requests[: self.requests], words, rng) if self.optimised else words)
        action, link = (torch.tensor(form.ids(words_of(text)), dtype=torch.int64) for text in (self.action, self.link))
        self._check(action, known.targets, form)
        texts = entries(requests, [trigger.tokens, link, action], known.budget.rows(len(known.rows)))
        return with_passages(known, texts, Triggered(texts=texts, trigger=trigger, answer=action))

    def _check(self, action_A: Tensor, questions: Dataset, form: Tokens) -> None:
        """Refuse an action that is no candidate answer of the task.

        Raises:
            ConfigError: names some that are.
        """
        table = cast("Candidates", questions.ask).table
        texts = [form.decode(answer) for answer in table if answer.any()]
        if form.decode(action_A) not in texts:
            raise ConfigError(f"attack.data.action={self.action} is no candidate answer of the task; choose another one, such as {', '.join(texts[:NAMED])}")

    def _trigger(self, words_T: Tensor) -> Phrase:
        """Return the trigger at the end of a request; nothing about it is random."""
        return Phrase(tokens=words_T, place="end", key=Key.root(0))

    def improved(self, known: Known, requests: Tensor, words_T: Tensor, rng: Key) -> Tensor:
        """Return (T,), the optimised trigger; (Q, L) requests."""
        module = encoder(known)
        remembered = features(module, known.rows.inputs)
        centres = [remembered[members].mean(0) for members in clusters(remembered, self.clusters, rng.child("clusters"))]
        starts = lengths(requests).clamp(max=requests.shape[1] - len(words_T))
        places = starts[:, None] + torch.arange(len(words_T))
        draft = Draft(texts=self._trigger(words_T)(requests), places=places, banned=answering(known))
        search = HotFlip(steps=self.steps, candidates=self.candidates)
        return search.improved(draft, module, apart(torch.stack(centres), self.compact), rng.child("trigger")).words


def apart(centres_CD: Tensor, compact: float) -> Objective:
    """Return the objective of requests with a trigger: their mean distance to the centres less the weighted mean distance to their own mean."""

    def objective(features_MQD: Tensor) -> Tensor:
        unique_M: Tensor = torch.cdist(features_MQD, centres_CD.expand(len(features_MQD), -1, -1)).mean((1, 2))
        spread_M: Tensor = (features_MQD - features_MQD.mean(1, keepdim=True)).norm(dim=2).mean(1)
        return unique_M - compact * spread_M

    return objective


def entries(requests: Tensor, endings: list[Tensor], count: int) -> Tensor:
    """Return (R, L), requests (Q, L) in turn, each followed by all endings.

    Raises:
        ConfigError: an entry that is longer than a row.
    """
    length, chosen = requests.shape[1], requests[torch.arange(count) % len(requests)]
    check_room(int(lengths(chosen).max()) + sum(map(len, endings)) if count else 0, length)
    return joined(chosen, *(ending.expand(count, -1) for ending in endings), length=length)
