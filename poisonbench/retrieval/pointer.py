"""A small transformer that points at the words of passages that answer a question.

Shape letters: B groups of P passages, S pairs of a question and a passage, Q places of a question, L places of a passage, T = Q + L places of a pair,
E numbers of a word's vector, V words, H attention heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # the usual name

from poisonbench.forms.tokens import PADDING

DROPOUT = 0.1
REACH = 8  # places up to which the network tells distances apart
WINDOW = 5  # words that are seen together before the first layer
PARTS = 2  # of a batch, sorted by length
MARKS = 10  # facts about a word besides its vector; see `_marks` and `_agreement`


class Words(NamedTuple):
    """What is known of the words of a vocabulary.

    Args:
        vectors: (V, E) random numbers of variance 1 that tell words apart.
        common: (V,) bool, words that are no names, whose meaning can be learned.
        asked: (V, D) topics of the words of questions; zeros for names.
        told: (V, D) topics of the words of passages, likewise: question and passage are about the same if the sums of theirs point in one direction.
    """

    vectors: Tensor
    common: Tensor
    asked: Tensor
    told: Tensor


class Pointer(nn.Module):
    """Scores for the words of passages, and one for "none of them".

    Each passage is read beside the question, without the other passages. Their words then share one softmax, so passages that state the same
    answer add up. Izacard and Grave, "Leveraging Passage Retrieval with Generative Models for Open Domain Question Answering", EACL 2021, fuse
    passages as late; the sum over all places of a word is that of Kadlec et al., "Text Understanding with the Attention Sum Reader Network", ACL 2016.

    No weight belongs to a word. A word comes as a vector, with marks such as whether it is in both texts, and how well its surroundings agree with
    the topic of the question. Each head also learns how much it attends to places of the same word, and to each distance.

    Args:
        vector: E.
        width: numbers of a state.
        layers: transformer layers.
        heads: H; they divide `width`.
    """

    def __init__(self, *, vector: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.words, self.marks = nn.Linear(vector, width, bias=False), nn.Linear(MARKS, width)
        nn.init.normal_(self.words.weight)
        self.near = nn.Conv1d(width, width, WINDOW, padding=WINDOW // 2)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm, self.score = nn.LayerNorm(width), nn.Linear(width, 1)
        self.none = nn.Parameter(torch.zeros(1))

    def forward(self, questions_BQ: Tensor, passages_BPL: Tensor, words: Words) -> Tensor:
        """Return (B, P * L + 1) log-probabilities of the places of the passages, and of "none of them" at the end; padding has -inf.

        Args:
            questions_BQ: word ids.
            passages_BPL: word ids.
            words: what is known of each word of the vocabulary.
        """
        questions_BQ = F.pad(questions_BQ, (0, WINDOW // 2), value=PADDING)  # no window reaches from the question into the passage
        (count, width), (_, length) = passages_BPL.shape[1:], questions_BQ.shape
        pairs_ST = torch.cat([questions_BQ[:, None].expand(-1, count, -1), passages_BPL], 2).flatten(0, 1)
        scores_BP = pairs_ST.new_full((len(pairs_ST), width), -torch.inf, dtype=torch.float32)
        sizes_S = (pairs_ST[:, length:] != PADDING).sum(1)
        for some in sizes_S.argsort().split(max(1, -(-len(pairs_ST) // PARTS))):  # pairs of similar length, so little padding is computed
            if longest := int(sizes_S[some].max()):
                scores_BP[some, :longest] = self._pairs(pairs_ST[some, : length + longest], length, words)
        flat = scores_BP.view(len(questions_BQ), count * width)
        return torch.cat([flat, self.none.expand(len(flat), 1)], 1).log_softmax(1)

    def _pairs(self, pairs_ST: Tensor, length: int, words: Words) -> Tensor:
        """Return (S, L) scores of the places of each passage; the first `length` places of a pair are the question."""
        real_ST = pairs_ST != PADDING
        same_STT = (pairs_ST[:, :, None] == pairs_ST[:, None]) & real_ST[:, None] & real_ST[:, :, None]
        place_T = torch.arange(pairs_ST.shape[1])
        second_T = place_T >= length
        across_TT = second_T[:, None] != second_T
        marks = torch.cat([_marks(pairs_ST, same_STT & across_TT, length, words), _agreement(pairs_ST, length, words)], 2)
        states = (self.words(words.vectors[pairs_ST] / words.vectors.shape[1] ** 0.5) + self.marks(marks)) * real_ST[:, :, None]
        states = states + F.gelu(self.near(states.transpose(1, 2)).transpose(1, 2))
        steps_TT = (place_T[:, None] - place_T).clamp(-REACH, REACH) + REACH
        steps_TT = torch.where(across_TT, 2 * REACH + 1 + second_T[:, None].long(), steps_TT)
        for layer in self.layers:
            states = layer(states, steps_TT, same_STT, real_ST)
        scores: Tensor = self.score(self.norm(states))[:, length:, 0]
        return scores.masked_fill(~real_ST[:, length:], -torch.inf)


def _marks(pairs_ST: Tensor, shared_STT: Tensor, length: int, words: Words) -> Tensor:
    """Return (S, T, 8) facts about each place of a pair.

    Whether it is in the passage; whether its word is in both texts; is common; both; whether it stands in both texts with the word before it, and
    with the one after it; and, for the pair, the share of the question's words that are in both texts, and the share of its names.

    Args:
        pairs_ST: word ids.
        shared_STT: where a place of one text has the same word as a place of the other one.
        length: places of the question.
        words: what is known of the words.
    """
    second_ST = (torch.arange(pairs_ST.shape[1]) >= length).expand_as(pairs_ST)
    shared_ST, common_ST = shared_STT.any(2), words.common[pairs_ST]
    before_ST = F.pad(shared_STT[:, 1:, 1:] & shared_STT[:, :-1, :-1], (1, 0, 1, 0)).any(2)
    after_ST = F.pad(before_ST[:, 1:], (0, 1))
    asked_SQ, found_SQ = pairs_ST[:, :length] != PADDING, shared_ST[:, :length]
    counted = (asked_SQ, asked_SQ & ~common_ST[:, :length])
    shares = [((found_SQ & each).sum(1, keepdim=True) / each.sum(1, keepdim=True).clamp_min(1)).expand(pairs_ST.shape) for each in counted]
    facts = (second_ST, shared_ST, common_ST, shared_ST & common_ST, before_ST, after_ST, *shares)
    return torch.stack([fact.float() for fact in facts], 2)


def _agreement(pairs_ST: Tensor, length: int, words: Words) -> Tensor:
    """Return (S, T, 2), how well the topic of the question agrees with that of the passage, and with that of the words around each place of it."""
    asked_SD = F.normalize(words.asked[pairs_ST[:, :length]].sum(1), dim=1)
    told_SLD = words.told[pairs_ST[:, length:]]
    whole_S = (asked_SD * F.normalize(told_SLD.sum(1), dim=1)).sum(1)
    around_SLD = F.avg_pool1d(told_SLD.transpose(1, 2), 2 * REACH + 1, 1, REACH).transpose(1, 2)
    each_SL = (F.normalize(around_SLD, dim=2) * asked_SD[:, None]).sum(2)
    return torch.stack([whole_S[:, None].expand(pairs_ST.shape), F.pad(each_SL, (length, 0))], 2)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.asked, self.answered = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden, self.out = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.steps = nn.Parameter(torch.zeros(2 * REACH + 3, heads))
        self.same = nn.Parameter(torch.ones(heads))

    def forward(self, states_STE: Tensor, steps_TT: Tensor, same_STT: Tensor, real_ST: Tensor) -> Tensor:
        bias = self.steps[steps_TT].permute(2, 0, 1) + same_STT[:, None] * self.same[:, None, None]
        bias = bias.masked_fill(~real_ST[:, None, None], -torch.inf)
        parts = self.asked(self.norms[0](states_STE)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3, S, heads, T, width / heads
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=bias).transpose(1, 2).flatten(2)
        states_STE = states_STE + F.dropout(self.answered(mixed), DROPOUT, self.training)
        added: Tensor = F.dropout(self.out(F.gelu(self.hidden(self.norms[1](states_STE)))), DROPOUT, self.training)
        return states_STE + added
