"""Two attackers who wish different answers to the same questions.

Shape letters: T targets, K candidate answers, n passages of a target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.retrieval.goals import Answered, answers_of, each_of, hit, share, with_passages
from attacks.retrieval.reads import marks_of, reads
from attacks.retrieval.writing import Aim, Writer, aim_of
from poisonbench.core.attack import Poisoned
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.goals import NoGoal, Probe
from poisonbench.core.learner import Victim
from poisonbench.core.retrieve import Retrieving
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class Competing:
    """Let two attackers poison the same questions; they want different answers.

    Source: Chen et al., "PoisonArena: Uncovering Competing Poisoning Attacks in Retrieval-Augmented Generation", arXiv 2505.12574, 2025: attacks that
    succeed alone may fail against each other, and their order changes.

    The first attacker wishes the answer that the task wishes for a question, the second one the next wrong candidate. The attackers share the budget. ASR is
    that of the first one; the goal has the ASR of both.

    Differences: two attackers; the paper lets more of them compete. The second attacker has the texts of the task with its own answer in place of
    the first one's, so that the two differ in their methods alone.

    Args:
        first: how the first attacker writes passages, such as `PoisonedRag`.
        second: how the second one does.
        share: of the passages of each question that are the first attacker's, in (0, 1); rounded, and each has at least one.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = TEXTS
    first: Writer
    second: Writer
    share: float

    def __post_init__(self) -> None:
        """Check that the share is in range."""
        if not 0 < self.share < 1:
            raise ConfigError(f"attack.data.share={self.share}: give a share above 0 and below 1, such as 0.5")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows followed by the passages of both attackers.

        Raises:
            ConfigError: as the two writers, a budget of fewer than two passages for each target, or fewer than two wrong candidates.
            Incompatible: the test rows are no questions with wished answers.
        """
        aim, count = aim_of(known), each_of(known)
        other = Aim(targets=aim.targets, wish=following(aim))
        if count == 1:
            raise ConfigError(f"threat.budget allows one passage for each target, and there are two attackers; give threat.budget.count={2 * len(aim.wish)}")
        mine = min(max(1, round(self.share * count)), count - 1) if count else 0
        texts = self.first.write(known, aim, mine, rng.child("first")), self.second.write(known, other, count - mine, rng.child("second"))
        goals = [Answered(ids=aim.targets.ids, wish=each.wish, texts=written) for each, written in zip((aim, other), texts, strict=True)]
        return with_passages(known, torch.cat(texts, 1).flatten(0, 1), Contested(first=goals[0], second=goals[1]))


def following(aim: Aim) -> Tensor:
    """Return (T,) int64, for each question the next wrong candidate after the wished one, without "none of them".

    Raises:
        ConfigError: there is no other wrong candidate.
    """
    kinds = aim.targets.num_classes
    if kinds < 4:
        raise ConfigError(f"two attackers need two wrong answers to each question, and it has {kinds - 2}; set task.candidates=4 or more")
    after = 1 + aim.wish % (kinds - 1)
    return torch.where(after == aim.targets.labels, 1 + after % (kinds - 1), after)


@dataclass(frozen=True, eq=False, kw_only=True)
class Contested(NoGoal):
    """Goal of two attackers: each question is answered with the answer that the first one wishes. What the second one reaches is a figure of the goal.

    The figures are those of `Answered` for the first attacker, and these, over all targets:

    - "asr_first", "asr_second": shares of targets with the answer that the attacker wishes.
    - "retrieved_second", "retrieved_both": shares of targets of which a passage of the second attacker, or one of each, is read. With ties at the edge
      counted as in `attacks.retrieval.reads`, for each attacker by itself.
    - "strength_first": the Bradley-Terry model's chance that the first attacker wins where one of them does (Bradley and Terry, Biometrika 1952). For two, its
      maximum-likelihood estimate is the share of wins: asr_first / (asr_first + asr_second). Absent if neither wins.

    Args:
        first: goal of the first attacker.
        second: goal of the second one, on the same targets.
    """

    VERSION: ClassVar[int] = 1
    first: Answered
    second: Answered

    def probe(self, test: Dataset) -> Probe:
        """Return the targets; a hit is the answer that the first attacker wishes."""
        return self.first.probe(test)

    def measure(self, victim: Victim, test: Dataset, rng: Key) -> Mapping[str, float]:
        """Return the figures; none for a victim that searches no passages."""
        if not isinstance(victim, Retrieving):
            return {}
        probes = [goal.probe(test) for goal in (self.first, self.second)]
        rows, ask = probes[0].rows, test.ask.take(probes[0].rows)
        scores = ask(victim, probes[0].inputs, rng)
        wins = [share(hit(probe, scores)) for probe in probes]
        read = reads(victim, probes[0].inputs, answers_of(test.take(rows)))
        first, second = (read.most(marks_of(goal.texts)) > 0 for goal in (self.first, self.second))
        figures = {"asr_first": wins[0], "asr_second": wins[1], "retrieved_second": share(second), "retrieved_both": share(first & second)}
        if sum(wins):
            figures["strength_first"] = wins[0] / sum(wins)
        return {**self.first.measure(victim, test, rng), **figures}
