"""Votes of passages and their certificate, against every insertion that there is."""

import dataclasses
import itertools
import random

import pytest
import torch

from defenses.aggregate.krum import Krum
from defenses.aggregate.median import Median
from defenses.aggregate.robust_rag import PassageVote
from defenses.aggregate.trimmed_mean import TrimmedMean
from defenses.certify import robust_rag
from defenses.certify.robust_rag import Ballots, PassageVoteCertificate, Size, deep_enough, radius, tiers
from poisonbench.config.compose import options, tree_of
from poisonbench.core.ask import Candidates
from poisonbench.core.combine import honest
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Defense
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import PlainStep
from poisonbench.core.plugins import OWN, find_class
from poisonbench.core.proof import check_proofs
from poisonbench.core.retrieve import NOWHERE, Hits, Sifted
from poisonbench.learn.retrieval import Retrieval
from poisonbench.retrieval.support import Support
from tests.unit.retrieval.shared_words import FORM, A, B, C, Shared, X, Y, Z, fitted

VOTE = PassageVote(rule="vote", alpha=0.3, beta=3, decay=1.0)
RULES = [
    dataclasses.replace(VOTE, rule=rule, alpha=alpha, beta=beta, decay=decay)
    for rule, alpha, beta in (("vote", 0.3, 3), ("keyword", 0.3, 3), ("keyword", 0.5, 2), ("keyword", 1.0, 9))
    for decay in (1.0, 0.9, 0.5)
]


def won(votes: list[int], kinds: int, rule: PassageVote) -> int:
    """The answer, written as the paper tells it."""
    answering = sum(vote > 0 for vote in votes)
    least = min(rule.alpha * answering, rule.beta) if rule.rule == "keyword" else 0
    counted = [vote for vote in range(1, kinds) if votes.count(vote) and votes.count(vote) >= least]
    weight = {vote: sum(rule.decay**rank for rank, other in enumerate(votes) if other == vote) for vote in counted}
    return max(counted, key=lambda vote: (round(weight[vote], 9), -vote), default=0)


def rows(votes: list[int], kinds: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(votes), kinds).float()


def insertions(clean: list[int], top: int, kinds: int, inserted: int):
    """Every list of votes that is read if so many of the passages that are read were inserted."""
    stay = clean[: top - inserted]
    for ranks in itertools.combinations(range(len(stay) + inserted), inserted):
        for votes in itertools.product(range(kinds), repeat=inserted):
            own, theirs = iter(stay), iter(votes)
            yield [next(theirs) if rank in ranks else next(own) for rank in range(len(stay) + inserted)]


def true_radius(groups: list[list[int]], top: int, kinds: int, rule: PassageVote, label: int) -> int:
    """The largest r such that at most r inserted passages bend nothing, in whatever order the passages of each group stand."""
    orders = [[*itertools.chain(*order)] for order in itertools.product(*(set(itertools.permutations(group)) for group in groups))]
    for inserted in range(top + 1):
        if any(won(votes, kinds, rule) != label for order in orders for votes in insertions(order[:top], top, kinds, inserted)):
            return max(0, inserted - 1)
    raise AssertionError("k inserted passages are all that is read")


def proved(groups: list[list[int]], top: int, kinds: int, rule: PassageVote, label: int) -> int:
    votes = torch.tensor([vote for group in groups for vote in group], dtype=torch.int64)[None]
    tiers = torch.tensor([place for place, group in enumerate(groups) for _ in group], dtype=torch.int64)[None]
    ballots = Ballots(votes_MD=votes, tiers_MD=tiers, held_M=torch.tensor([min(votes.shape[1], top)]))
    return int(radius(ballots, torch.tensor([label]), rule, Size(top, kinds)))


def opinions(dice: random.Random, count: int, kinds: int) -> list[int]:
    agreed = dice.choice((0.2, 0.6, 0.9))
    return [1 if dice.random() < agreed else dice.randrange(kinds) for _ in range(count)]


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_is_the_one_of_the_paper(rule):
    dice = random.Random(100)
    for _ in range(200):
        kinds = dice.randint(2, 4)
        votes = opinions(dice, dice.randint(1, 7), kinds)
        assert rule(rows(votes, kinds), None).argmax() == won(votes, kinds, rule)


def test_votes_are_counted_and_abstentions_are_not():
    assert VOTE(rows([2, 1, 0, 2, 0], 3), None).tolist() == [0, 1, 2]
    assert VOTE(rows([0, 0], 3), None).argmax() == 0
    assert VOTE(rows([2, 1], 3), None).argmax() == 1  # a tie
    halved = dataclasses.replace(VOTE, decay=0.5)
    assert halved(rows([2, 1, 1], 3), None).tolist() == [0, 0.75, 1]


def test_an_answer_with_few_votes_is_dropped():
    few = dataclasses.replace(VOTE, rule="keyword", alpha=0.5, beta=2)
    assert few(rows([1, 2, 3, 0], 4), None).tolist() == [0, 0, 0, 0]  # 3 answer, and 1 is below min(1.5, 2)
    assert few(rows([1, 2, 2, 2, 2], 4), None).tolist() == [0, 0, 4, 0]
    falling = dataclasses.replace(few, decay=0.25)
    assert falling(rows([1, 2, 2], 4), None).argmax() == 2  # 1 has the larger weight and too few votes


@pytest.mark.parametrize("rule", RULES)
def test_the_radius_is_that_of_trying_every_insertion(rule):
    dice, positive = random.Random(101), 0
    for _ in range(60):
        kinds, top = dice.randint(2, 4), dice.randint(1, 5 if rule.decay == 1.0 else 4)
        votes = opinions(dice, dice.choice((top, top, top - 1)), kinds)  # some questions have fewer hits than are read
        if label := won(votes, kinds, rule):
            groups = [[vote] for vote in votes]
            truth = true_radius(groups, top, kinds, rule, label)
            assert proved(groups, top, kinds, rule, label) == truth
            positive += truth > 0
    assert positive > 3


@pytest.mark.parametrize("rule", [RULES[0], RULES[2], RULES[3], RULES[6], RULES[7]])
def test_the_radius_holds_for_every_order_of_equal_scores(rule):
    dice, positive = random.Random(102), 0
    for _ in range(40):
        kinds, top = dice.randint(2, 4), dice.randint(2, 4)
        groups = [opinions(dice, dice.randint(1, 3), kinds) for _ in range(dice.randint(1, 3))]
        read = [vote for group in groups for vote in group][:top]
        if label := won(read, kinds, rule):
            truth = true_radius(groups, top, kinds, rule, label)
            assert proved(groups, top, kinds, rule, label) == truth
            positive += truth > 0
    assert positive > 3


def test_radii_by_hand():
    five = [[1]] * 5
    # two inserted votes leave three of five; three leave two
    assert proved(five, 5, 3, VOTE, 1) == 2
    # four clean votes of four: 2 of 4 is a tie, which the smaller place wins
    assert proved([[1]] * 4, 4, 3, VOTE, 1) == 2
    assert proved([[2]] * 4, 4, 3, VOTE, 2) == 1
    # two candidates, the right answer and none: as long as one passage of the index is read, its vote is the only one
    assert proved(five, 5, 2, VOTE, 1) == 4
    # weights 1, 1/2, 1/4: an inserted passage in front outweighs the other two
    assert proved([[1]] * 3, 3, 3, dataclasses.replace(VOTE, decay=0.5), 1) == 0


QUESTION = torch.tensor([[A, B, C, 0]])
ANSWERS = Candidates(table=torch.tensor([[0], [X], [Y], [Z]]), of=torch.tensor([[0, 1, 2, 3]]))
CORPUS = torch.tensor([[A, B, C, X], [C, B, A, X], [A, B, Y, 0], [A, X, 0, 0], [B, X, 0, 0], [C, X, 0, 0]])


def corpus(passages: torch.Tensor) -> Dataset:
    return Dataset.of(passages, torch.zeros(len(passages), dtype=torch.int64), num_classes=1, form=FORM)


def asked(label: int = 1) -> Dataset:
    return dataclasses.replace(Dataset.of(QUESTION, torch.tensor([label]), num_classes=4, form=FORM), ask=ANSWERS)


def victim(passages: torch.Tensor, rule: PassageVote = VOTE, **changes):
    data = corpus(passages)
    return fitted(data, dataclasses.replace(honest(data), aggregate=rule), **{"top": 5, "isolated": True, **changes})


@pytest.mark.parametrize("rule", [RULES[0], RULES[1], RULES[3], RULES[6]])
def test_no_insertion_within_the_radius_changes_a_certified_answer(rule):
    proof = int(PassageVoteCertificate().certify(victim(CORPUS, rule), asked()))
    answers = ANSWERS.table[ANSWERS.of]
    # every rank by the number of shared words, every vote, in front of and behind passages of equal scores
    heads = [[A, B, C], [A, B], [A]]
    texts = [torch.tensor([*head, *([answer] if answer else []), 0, 0, 0])[:4] for head in heads for answer in (0, X, Y, Z)]
    bent = {0: False}
    for count in (1, 2, 3):
        bent[count] = False
        for chosen in itertools.combinations_with_replacement(texts, count):
            for front in (True, False):
                parts = [torch.stack(chosen), CORPUS] if front else [CORPUS, torch.stack(chosen)]
                bent[count] |= int(victim(torch.cat(parts), rule).choose(QUESTION, answers).argmax()) != 1
    assert not any(bent[count] for count in range(1, proof + 1))
    assert bent[proof + 1]  # here the radius is the largest
    assert proof >= (0 if rule.decay < 1 else 1)


def test_a_wrong_answer_has_no_radius_and_many_questions_are_read_in_parts(monkeypatch):
    certificate, model = PassageVoteCertificate(), victim(CORPUS)
    assert certificate.certify(model, asked(2)).tolist() == [-1]
    both = dataclasses.replace(
        Dataset.of(QUESTION.expand(5, 4), torch.tensor([1, 2, 1, 3, 1]), num_classes=4, form=FORM), ask=dataclasses.replace(ANSWERS, of=ANSWERS.of.expand(5, 4))
    )
    whole = certificate.certify(model, both)
    monkeypatch.setattr(robust_rag, "CHUNK", 2)
    assert torch.equal(certificate.certify(model, both), whole)
    assert certificate.unit == "inserted rows"


def test_equal_scores_are_one_group_and_are_read_to_their_end():
    found = Hits(places=torch.tensor([[4, 2, 1, 0, NOWHERE, NOWHERE]]), scores=torch.tensor([[3.0, 3.0 - 1e-6, 2.0, 1.0, -torch.inf, -torch.inf]]))
    assert tiers(found).tolist() == [[0, 0, 1, 2, 3, 4]]
    same = victim(torch.tensor([[A, X, 0, 0]] * 9 + [[C, 0, 0, 0]]), top=2)
    assert (deep_enough(same, torch.tensor([[A, 0, 0, 0]]), 2).places != NOWHERE).sum() == 9
    assert deep_enough(victim(CORPUS), QUESTION, 2).places.tolist() == [[0, 1, 2, 3]]


def test_a_victim_without_votes_is_refused_in_one_sentence():
    certificate = PassageVoteCertificate()
    for other in (victim(CORPUS, isolated=False), victim(CORPUS, Median())):
        with pytest.raises(ConfigError, match=r"certificate of defense=robust_rag"):
            certificate.certify(other, asked())
    with pytest.raises(Incompatible, match="candidate answers, and the test rows have classes"):
        certificate.certify(victim(CORPUS), dataclasses.replace(asked(), ask=type(asked().ask).__mro__[1]()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Shared):
    """A retriever whose scores depend on all passages."""

    LOOKS_AT = "all rows"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Any:
    """A filter that keeps all passages."""

    LOOKS_AT = "each row alone"


def test_the_proof_needs_a_retriever_that_scores_each_passage_alone_and_no_filter_after_the_search():
    learner = Retrieval(retriever=Shared(), reader=Support(), top=5, isolated=True)
    defense = Defense(aggregate=VOTE, certify=PassageVoteCertificate())
    check_proofs(PlainStep(), defense, learner)
    with pytest.raises(Incompatible, match=r"not valid together with the retriever Whole, because that retriever uses all training rows\. Choose a retriever"):
        check_proofs(PlainStep(), defense, dataclasses.replace(learner, retriever=Whole()))
    with pytest.raises(Incompatible, match=r"the filter of passages Any, because that filter of passages decides which training rows are read\. Remove"):
        check_proofs(PlainStep(), defense, Sifted(sift=Any())(learner))


def test_a_part_that_does_not_say_what_it_looks_at_voids_the_proof():
    class Silent(Support):
        pass

    learner = Retrieval(retriever=Shared(), reader=Silent(), top=5, isolated=True)
    with pytest.raises(Incompatible, match="not valid together with the reader Silent"):
        check_proofs(PlainStep(), Defense(aggregate=VOTE, certify=PassageVoteCertificate()), learner)


@pytest.mark.parametrize("name", options("retriever"))
def test_the_proof_looks_at_every_retriever(name):
    kind = find_class(tree_of([f"retriever={name}"])["retriever"]["_target_"], OWN)
    assert vars(kind)["LOOKS_AT"] in ("each row alone", "all rows")


@pytest.mark.parametrize("fields", [{"alpha": 1.1}, {"alpha": -0.1}, {"beta": -1}, {"decay": 0.0}, {"decay": 1.1}])
def test_numbers_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=r"defense\.aggregate"):
        dataclasses.replace(VOTE, **fields)


@pytest.mark.parametrize("rule", [Krum(malicious=1, variant="paper"), Median(), TrimmedMean(malicious=1)])
def test_rules_of_federated_learning_combine_isolated_passages(rule):
    data = corpus(CORPUS)
    combine = dataclasses.replace(honest(data), aggregate=rule)
    model = fitted(data, combine, top=5, isolated=True)
    model.learner.check(data, combine)
    assert model.choose(QUESTION, ANSWERS.table[ANSWERS.of]).argmax() == 1
    with pytest.raises(ConfigError, match=r"set learner\.isolated=true"):
        dataclasses.replace(model.learner, isolated=False).check(data, combine)


def test_a_rule_that_needs_more_passages_is_refused():
    data = corpus(CORPUS)
    combine = dataclasses.replace(honest(data), aggregate=Krum(malicious=2, variant="paper"))
    with pytest.raises(ConfigError, match=r"needs n >= 2 f \+ 3 contributions; this round has n = 5 with f = 2; set defense\.aggregate\.malicious=1"):
        fitted(data, top=5, isolated=True).learner.check(data, combine)
