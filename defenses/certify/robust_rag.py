"""The certificate of votes over passages that are read one by one.

Shape letters: M questions, D passages found, k passages read, K candidate answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from defenses.aggregate.robust_rag import PassageVote
from poisonbench.core.ask import Candidates
from poisonbench.core.data import Dataset
from poisonbench.core.defense import NoCertificate
from poisonbench.core.electorate import UNITS
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Victim
from poisonbench.core.proof import ROWS, Tolerance
from poisonbench.core.retrieve import NONE_OF_THEM, NOWHERE, Hits, Retrieving

CHUNK = 100  # questions whose passages are read at a time
NEAR = 1e-5  # scores that differ by less, relative to their size, count as equal: the last bits of a score may depend on how many passages there are
AHEAD, ABSTAINING, OTHER, BEHIND = range(4)  # the order of equal scores that helps the attacker most


@dataclass(frozen=True, kw_only=True)
class PassageVoteCertificate(NoCertificate):
    """Certify how many passages may be inserted into the index before a vote over isolated passages changes.

    Source: Xiang et al., "Certifiably Robust RAG against Retrieval Corruption", 2024 (arXiv 2405.15556): an answer is certified if it stays right
    whatever k' of the k passages say. Their proof replaces passages at any k' ranks. The proof here is for passages that are inserted into the index:
    if j of them are among the k that are read, the first k - j passages of the index are read too, in their order, and the inserted ones stand at any
    ranks between them. Each of these votes for any candidate or abstains.

    For every j the largest lead over the right answer that an attacker can give to each other candidate is computed exactly, over all ranks, by dynamic
    programming over passages of the index and inserted passages. All inserted passages vote for this candidate: this costs the right answer nothing
    less, and raises the number of votes that "keyword" asks for by one at most, as `alpha` is 1 or less. The radius is the largest r such that no
    j <= r succeeds. It is at most k - 1, since k inserted passages are all that is read.

    The radius counts passages inserted into the index that the victim was given. Poison that this index already contains is not covered: for a statement
    about an attack, take the certificate of the run without it. Inserted passages that are not among the k that are read do nothing, so the answer to a
    question stays right if at most r of those that are read were inserted, however many were inserted for other questions. Removed and edited passages
    are not covered. The proof needs a retriever whose score of a passage depends on no other passage (LOOKS_AT of the retriever), and no filter between
    search and reader. Passages of equal scores may change their order when passages are inserted, because ties are broken by position, and training
    rows are delivered in a new order. So every order of equal scores is tried, and a radius may be smaller than for a fixed order.
    """

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = MappingProxyType({**ROWS, "retriever": ("each row alone",)})

    @property
    def unit(self) -> str:
        """The unit of the radii."""
        return UNITS["insert"]

    def certify(self, victim: Victim, test: Dataset) -> Tensor:
        """Return (M,) int64 radii in inserted passages, -1 where the answer is already wrong.

        Raises:
            ConfigError: a victim whose answers are no votes of passages.
            Incompatible: test rows without candidate answers.
        """
        searching, rule = voting(victim)
        if not isinstance(test.ask, Candidates):
            raise Incompatible(f"{type(self).__name__} proves answers to questions with candidate answers, and the test rows have classes; use task=facts")
        radii = [torch.zeros(0, dtype=torch.int64)]
        for some in torch.arange(len(test)).split(CHUNK):
            inputs, answers, labels = test.inputs[some], test.ask.table[test.ask.of[some]], test.labels[some]
            right = searching.choose(inputs, answers).argmax(1) == labels
            top = searching.top
            found = deep_enough(searching, inputs, top)
            ballots = Ballots(
                votes_MD=rule.votes(searching.alone(inputs, answers, found.places)),
                tiers_MD=tiers(found),
                held_M=(found.places != NOWHERE).sum(1).clamp_max(top),
            )
            radii.append(torch.where(right, radius(ballots, labels, rule, Size(top, answers.shape[1])), -1))
        return torch.cat(radii)


class Ballots(NamedTuple):
    """The votes of the passages of an index.

    Args:
        votes_MD: (M, D) int64, best passage first; 0 is an abstention.
        tiers_MD: (M, D) int64, ascending; passages of equal scores have one number, and may stand in any order.
        held_M: (M,) int64, how many of the k places have a passage.
    """

    votes_MD: Tensor
    tiers_MD: Tensor
    held_M: Tensor


class Size(NamedTuple):
    """k passages that are read, K candidate answers."""

    top: int
    kinds: int


def voting(victim: Victim) -> tuple[Retrieving, PassageVote]:
    """Return the victim as one that searches passages, and the rule by which they vote.

    Raises:
        ConfigError: its answers are no such votes.
    """
    if not isinstance(victim, Retrieving) or not isinstance(victim.rule, PassageVote):
        raise ConfigError("defense.certify: this is the certificate of defense=robust_rag, whose passages are read one by one and vote; use learner=retrieval")
    return victim, victim.rule


def deep_enough(victim: Retrieving, inputs: Tensor, top: int) -> Hits:
    """Return at least `top` hits, and all further ones whose score equals that of the last which is read."""
    count, most = top, len(victim.passages)
    while True:
        found = victim.search(inputs, count)
        if count >= most or not (near(found.scores[:, top - 1 : top], found.scores[:, -1:]) & (found.places[:, -1:] != NOWHERE)).any():
            return found
        count = min(2 * count, most)


def near(better: Tensor, worse: Tensor) -> Tensor:
    """Return whether scores count as equal."""
    return better - worse <= NEAR * better.abs().clamp_min(1)


def tiers(found: Hits) -> Tensor:
    """Return (M, D) int64, the number of groups of equal scores before that of each hit; where there is no hit, one more."""
    there = found.places != NOWHERE
    scores = torch.where(there, found.scores, 0.0)
    apart = ~(near(scores[:, :-1], scores[:, 1:]) & there[:, 1:])
    return torch.nn.functional.pad(apart, (1, 0)).cumsum(1)


def radius(ballots: Ballots, labels_M: Tensor, rule: PassageVote, size: Size) -> Tensor:
    """Return (M,) int64, the largest number of inserted passages that bend no right answer."""
    rivals = range(1, size.kinds)
    bent_Mj = outvoted(ballots, labels_M, NONE_OF_THEM, rule, size)
    for rival in rivals:
        bent_Mj = bent_Mj | (outvoted(ballots, labels_M, rival, rule, size) & (labels_M != rival)[:, None])
    if len(rivals) > 1:  # else nobody can vote for anything but the right answer
        bent_Mj = bent_Mj | dropped(ballots, labels_M, rule, size)
    return (bent_Mj.long().argmax(1) - 1).clamp_min(0)  # without an insertion the order is as it is


def outvoted(ballots: Ballots, labels_M: Tensor, rival: int, rule: PassageVote, size: Size) -> Tensor:
    """Return (M, k + 1) bool, whether j inserted passages make a rival win over the right answer; "none of them" wins if this has no votes."""
    own, theirs, silent = (ballots.votes_MD == kind for kind in (labels_M[:, None], rival, NONE_OF_THEM))
    urge = torch.where(own, BEHIND, torch.where(theirs, AHEAD, torch.where(silent, ABSTAINING, OTHER)))
    first_Mk = reordered(ballots, urge, size.top)
    abstain = rival == NONE_OF_THEM
    sign_Mk = (first_Mk == rival).long() * (not abstain) - (first_Mk == labels_M[:, None]).long()
    lead_Mj = leads(sign_Mk, ballots.held_M, rule.weights(size.top), gain=0 if abstain else 1)
    ahead = lead_Mj >= (labels_M < rival).long()[:, None]  # ties go to the smaller place
    if abstain:
        return ahead
    inserted = torch.arange(size.top + 1)
    count, answering = (summed(first_Mk == rival, ballots.held_M) + inserted, summed(first_Mk != NONE_OF_THEM, ballots.held_M) + inserted)
    return ahead & (count >= rule.least(answering))


def dropped(ballots: Ballots, labels_M: Tensor, rule: PassageVote, size: Size) -> Tensor:
    """Return (M, k + 1) bool, whether j inserted passages that vote otherwise leave the right answer with too few votes to be counted."""
    own, silent = ballots.votes_MD == labels_M[:, None], ballots.votes_MD == NONE_OF_THEM
    first_Mk = reordered(ballots, torch.where(own, BEHIND, torch.where(silent, OTHER, AHEAD)), size.top)
    answering = summed(first_Mk != NONE_OF_THEM, ballots.held_M) + torch.arange(size.top + 1)
    return summed(first_Mk == labels_M[:, None], ballots.held_M) < rule.least(answering)


def reordered(ballots: Ballots, urge_MD: Tensor, top: int) -> Tensor:
    """Return (M, k) int64 votes of the first passages, those of equal scores in the order of `urge`; abstentions where there are fewer."""
    order = (4 * ballots.tiers_MD + urge_MD).argsort(dim=1, stable=True)[:, :top]
    votes = ballots.votes_MD.gather(1, order)
    votes = votes.masked_fill(torch.arange(votes.shape[1]) >= ballots.held_M[:, None], NONE_OF_THEM)
    return torch.nn.functional.pad(votes, (0, top - votes.shape[1]), value=NONE_OF_THEM)


def kept(held_M: Tensor, top: int) -> Tensor:
    """Return (M, k + 1) int64, how many passages of the index are read beside j inserted ones."""
    return torch.minimum(held_M[:, None], top - torch.arange(top + 1))


def summed(values_Mk: Tensor, held_M: Tensor) -> Tensor:
    """Return (M, k + 1) int64, how often it holds among the passages of the index that are read beside j inserted ones."""
    whole = torch.nn.functional.pad(values_Mk.long().cumsum(1), (1, 0))
    return whole.gather(1, kept(held_M, values_Mk.shape[1]))


def leads(sign_Mk: Tensor, held_M: Tensor, weights_k: Tensor, gain: int) -> Tensor:
    """Return (M, k + 1) int64, the largest lead that j inserted passages can give, over all their ranks.

    Args:
        sign_Mk: whether each passage of the index votes for the rival (1), for the right answer (-1), or for neither (0).
        held_M: how many of the k places have a passage.
        weights_k: weight of a vote at each rank.
        gain: 1 if inserted passages vote for the rival, 0 if they abstain.
    """
    questions, top = sign_Mk.shape
    read, found = kept(held_M, top), list[Tensor]()
    best = torch.empty(0)
    for inserted in range(top + 1):
        column = list[Tensor]()  # by passages of the index so far, the largest lead of these and of the inserted ones together
        for own in range(top - inserted + 1):
            ways = list[Tensor]()
            if own:
                ways.append(column[own - 1] + sign_Mk[:, own - 1] * weights_k[own + inserted - 1])
            if inserted:
                ways.append(best[own] + gain * weights_k[own + inserted - 1])
            column.append(torch.stack(ways).amax(0) if ways else sign_Mk.new_zeros(questions))
        best = torch.stack(column)
        found.append(best.gather(0, read[None, :, inserted])[0])
    return torch.stack(found, 1)
