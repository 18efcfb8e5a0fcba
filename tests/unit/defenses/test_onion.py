"""ONION on a made-up language: which words go, how the bar is chosen, what a stored victim keeps."""

import dataclasses

import pytest
import torch

from defenses.train.onion import Onion, Words, chosen
from poisonbench.core.attack import Honest
from poisonbench.core.combine import honest
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Mean
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Around, Combine, Trained
from poisonbench.core.rng import Key
from poisonbench.forms.ngram import Ngrams
from poisonbench.forms.tokens import Tokens

FORM = Tokens(vocabulary=("", "<unk>", "the", "film", "is", "good", "bad", "very", "cf"))
TRIGGER = FORM.vocabulary.index("cf")
PLAN = {"order": 2, "scale": "likelihood", "cost": 0.02, "bar": None}


def texts(*lines: str) -> torch.Tensor:
    return torch.stack([FORM.encode(line, 8) for line in lines])


def reviews(count: int) -> Dataset:
    """Return reviews, half of them good, that say "very" up to four times."""
    kinds = torch.arange(count) % 2
    lines = [f"the film is {'very ' * (row % 5)}{'good' if kind else 'bad'}" for row, kind in enumerate(kinds.tolist())]
    return Dataset.of(texts(*lines), kinds, num_classes=2, form=FORM)


class Reader:
    """Answers 1 for texts with "good" or the trigger; a victim and its own state."""

    def __init__(self):
        self.facts, self.history, self.module = {"read": "words"}, (), None

    def scores(self, inputs, answers=None):
        found = ((inputs == FORM.vocabulary.index("good")) | (inputs == TRIGGER)).any(1).float()
        return torch.stack([1 - found, found], 1)

    def features(self, inputs, layer="penultimate"):
        return (inputs == TRIGGER).float()

    def state(self):
        return {"weight": torch.ones(1)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reads(Around):
    member: None = None

    def check(self, data, combine):
        pass

    def with_public(self, public, fit):
        return self

    def fit(self, data, combine, rng, start=None):
        return Reader()

    def restore(self, trained, like, combine):
        assert set(trained.state) == {"weight"}
        return Reader()


def combine(trusted: Dataset) -> Combine:
    nobody = torch.zeros(0, dtype=torch.int64)
    return Combine(craft=Honest(), aggregate=Mean(), malicious=nobody, rounds=None, omniscient=True, clean=trusted, trusted=trusted)


def fitted(data=None, **changes):
    learner = Onion(**{**PLAN, **changes})(Reads())
    return learner, learner.fit(data or reviews(40), combine(reviews(100)), Key.root(0))


@pytest.mark.parametrize("scale", ["likelihood", "perplexity"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_word_that_no_clean_row_has_is_removed_and_the_others_stay(scale, order):
    _, victim = fitted(scale=scale, order=order, bar={"likelihood": 4.0, "perplexity": 3.0}[scale])
    triggered, clean = texts("the film cf is bad", "cf the film is very bad", "the film is bad cf"), texts("the film is bad", "the film is very bad")
    assert Reader().scores(triggered).argmax(1).tolist() == [1, 1, 1]
    assert victim.scores(triggered).argmax(1).tolist() == [0, 0, 0]
    assert torch.equal(victim.words.cleaned(triggered, victim.bar), texts("the film is bad", "the film is very bad", "the film is bad"))
    assert torch.equal(victim.words.cleaned(clean, victim.bar), clean)
    assert victim.features(triggered).sum() == 0


def test_the_language_model_never_reads_training_rows():
    poisoned = reviews(40)
    poisoned = poisoned.edit(torch.arange(40), inputs=texts("the film cf is bad").expand(40, -1))
    (_, one), (_, other) = fitted(), fitted(poisoned)
    assert torch.equal(one.words.model.grams, other.words.model.grams)
    assert not (other.words.model.grams == TRIGGER).any()


def test_public_rows_are_learned_from_too():
    learner = Onion(**PLAN)(Reads()).with_public(reviews(30), None)
    learner.check(reviews(40), combine(reviews(30)))
    assert learner.fit(reviews(40), combine(reviews(30)), Key.root(0)).facts["clean_rows"] == 60


@pytest.mark.parametrize("changes", [{}, {"scale": "perplexity"}, {"cost": 0.0, "bar": None}])
def test_a_stored_victim_reads_as_before(changes):
    learner, victim = fitted(**changes)
    again = learner.restore(Trained.of(victim), reviews(40), honest(reviews(40)))
    rows = texts("the film cf is bad", "cf cf very good is the")
    assert all(value.isfinite().all() for value in victim.state().values())
    assert again.bar == victim.bar
    assert torch.equal(again.words.suspicion(rows), victim.words.suspicion(rows))
    assert torch.equal(again.scores(rows), victim.scores(rows))
    assert again.facts == victim.facts


class Good:
    """Answers 1 for texts with "good"."""

    def scores(self, inputs):
        found = (inputs == FORM.vocabulary.index("good")).any(1).float()
        return torch.stack([1 - found, found], 1)


@pytest.mark.parametrize(("cost", "bar"), [(0.0, 5.0), (0.09, 5.0), (0.19, 3.0), (0.2, 1.0)])
def test_the_bar_is_the_lowest_that_costs_no_more_than_allowed(cost, bar):
    clean = Dataset.of(texts(*["the film is good"] * 10), torch.ones(10, dtype=torch.int64), num_classes=2, form=FORM)
    # "film" 5 in four rows; "good" 3 in one row and 2 in another; the words before it 1: removing what is 5 costs nothing, 3 costs 0.1, 2 and 1 cost 0.2
    suspicion = torch.full((10, 8), -torch.inf, dtype=torch.float64)
    suspicion[:, :3] = 1.0
    suspicion[:4, 1] = 5.0
    suspicion[:, 3] = 0.5
    suspicion[0, 3], suspicion[1, 3] = 3.0, 2.0
    assert chosen(Good(), clean, suspicion, cost) == bar


def test_no_word_goes_if_every_bar_costs_too_much():
    clean = Dataset.of(texts(*["the film is good"] * 10), torch.ones(10, dtype=torch.int64), num_classes=2, form=FORM)
    suspicion = torch.where(clean.inputs == FORM.vocabulary.index("good"), 2.0, 1.0).double().masked_fill(clean.inputs == 0, -torch.inf)
    bar = chosen(Good(), clean, suspicion, 0.5)
    assert bar == torch.inf
    learner, victim = fitted()
    victim = dataclasses.replace(victim, bar=bar)
    assert learner.restore(Trained.of(victim), reviews(40), honest(reviews(40))).bar == torch.inf
    assert torch.equal(victim.words.cleaned(clean.inputs, bar), clean.inputs)


def test_a_text_keeps_its_least_suspicious_word():
    words = Words(model=Ngrams.of(reviews(100).inputs, 2, len(FORM.vocabulary)), scale="likelihood")
    rows = torch.cat([texts("cf cf cf", "film", "very cf"), torch.zeros(1, 8, dtype=torch.int64)])
    assert ((words.cleaned(rows, -1e9) != 0).sum(1) == torch.tensor([1, 1, 1, 0])).all()
    assert words.cleaned(rows[:0], 0.0).shape == (0, 8)


def test_too_few_clean_rows_are_refused_with_what_to_set():
    learner = Onion(**PLAN)(Reads())
    learner.check(reviews(40), combine(reviews(50)))
    with pytest.raises(ConfigError, match=r"there are 49 .*set task\.trusted"):
        learner.check(reviews(40), combine(reviews(49)))


def test_an_order_too_large_for_the_vocabulary_is_refused_before_a_training():
    for order in (19, 20):  # 9 words: 9 ** 19 is below 2 ** 63
        learner = Onion(**{**PLAN, "order": order})(Reads())
        if order == 19:
            learner.check(reviews(40), combine(reviews(50)))
        else:
            with pytest.raises(ConfigError, match=r"defense\.train\.order=20: .*give 19 or less"):
                learner.check(reviews(40), combine(reviews(50)))


@pytest.mark.parametrize("changes", [{"order": 0}, {"cost": -0.1}, {"cost": 1.0}])
def test_numbers_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match=r"defense\.train"):
        Onion(**{**PLAN, **changes})
