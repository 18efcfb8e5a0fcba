import pytest
import torch
from scipy import stats

from poisonbench.core.combine import honest
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Trained
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens
from poisonbench.learn.spambayes import SpamBayes, indicator, once

FORM = Tokens(vocabulary=("", "<unk>", "cash", "lunch", "hello", "rare"))
CASH, LUNCH, HELLO, RARE = 2, 3, 4, 5
# three ham rows, two spam rows; a word counts once per row, however often it stands there
ROWS = [([LUNCH, HELLO], 0), ([LUNCH, LUNCH, HELLO], 0), ([LUNCH], 0), ([CASH, CASH, HELLO], 1), ([CASH], 1)]


def learner(**changes) -> SpamBayes:
    return SpamBayes(**{"strength": 0.45, "prior": 0.5, "most": 150, "margin": 0.1, "ham": 0.15, "spam": 0.9, **changes})


def data(rows, length: int = 8, kinds: int = 3, form: Tokens = FORM) -> Dataset:
    inputs = torch.tensor([words + [0] * (length - len(words)) for words, _ in rows])
    return Dataset.of(inputs, torch.tensor([label for _, label in rows]), num_classes=kinds, form=form)


def fitted(rows=ROWS, recipe: SpamBayes | None = None):
    return (recipe or learner()).fit(data(rows), None, Key.root(100))


def test_counts_and_word_scores_are_those_worked_by_hand():
    victim = fitted()
    assert victim.counts[:, 2:].tolist() == [[0, 3, 2, 0], [2, 0, 1, 0]]
    assert victim.sizes.tolist() == [3, 2]
    # p_cash = 3*2 / (3*2 + 2*0) = 1;  p_lunch = 0;  p_hello = 3*1 / (3*1 + 2*2) = 3/7
    by_hand = [(0.225 + 2 * 1) / 2.45, 0.225 / 3.45, (0.225 + 3 * 3 / 7) / 3.45, 0.5]
    assert victim.word_scores[2:].tolist() == pytest.approx(by_hand, abs=1e-12)


def test_the_indicator_is_that_of_scipys_chi_square():
    victim = fitted()
    cash, lunch = (0.225 + 2) / 2.45, 0.225 / 3.45
    evidence = torch.log(torch.tensor([cash, lunch], dtype=torch.float64)).sum(), torch.log1p(-torch.tensor([cash, lunch], dtype=torch.float64)).sum()
    high, low = (stats.chi2.sf(-2 * float(side), 4) for side in evidence)
    # hello and rare are closer to 0.5 than the margin: two words remain
    scores = victim.learner.evidence(victim.word_scores[once(torch.tensor([[CASH, LUNCH, HELLO, RARE, CASH, 0]]))])
    assert float(scores[0, 2]) == 2
    assert float(indicator(scores)) == pytest.approx((1 + high - low) / 2, abs=1e-12)


def test_a_single_word_gives_its_own_score():
    """With m = 1, 1 - chi2_2(x) = exp(-x / 2), so I = (1 + f - (1 - f)) / 2 = f."""
    victim = fitted()
    score = indicator(victim.learner.evidence(victim.word_scores[torch.tensor([[CASH, 0]])]))
    assert float(score) == pytest.approx((0.225 + 2) / 2.45, abs=1e-12)


def test_unknown_words_and_no_words_are_unsure():
    victim = fitted()
    assert victim.scores(torch.tensor([[RARE, 1, 0], [0, 0, 0]])).argmax(1).tolist() == [2, 2]
    assert indicator(torch.zeros(1, 3, dtype=torch.float64)).tolist() == [0.5]


def test_the_largest_score_is_the_answer_at_and_beside_the_bounds():
    scores = torch.tensor([0.0, 0.15, 0.150001, 0.5, 0.9, 0.900001, 1.0], dtype=torch.float64)
    table = learner().table(scores)
    assert table.argmax(1).tolist() == [0, 0, 2, 2, 2, 1, 1]
    assert (table[:, 1] - table[:, 0]).argsort().tolist() == sorted(range(7), key=lambda place: float(table[place, 1] - table[place, 0]))
    assert table.sort(1).values[:, 2].sub(table.sort(1).values[:, 1]).min() >= 0.45


def test_only_the_strongest_words_are_combined():
    victim = fitted(recipe=learner(most=1))
    row = torch.tensor([[CASH, LUNCH]])  # |f - 0.5| is 0.408 and 0.435
    assert float(indicator(victim.learner.evidence(victim.word_scores[row]))) == pytest.approx(0.225 / 3.45)


def test_a_class_without_rows_counts_as_one_row_and_unsure_rows_are_not_used():
    victim = fitted([([LUNCH], 0), ([LUNCH], 0), ([CASH], 2)])
    assert victim.sizes.tolist() == [2, 0]
    assert victim.word_scores[LUNCH].item() == pytest.approx(0.225 / 2.45)
    assert victim.word_scores[CASH].item() == 0.5


def test_a_victim_is_rebuilt_from_its_state():
    victim = fitted()
    again = victim.learner.restore(Trained.of(victim), data(ROWS), honest(data(ROWS)))
    inputs = data(ROWS).inputs
    assert torch.equal(again.scores(inputs), victim.scores(inputs))
    assert again.facts == {"rows": 5, "words": 3}
    assert victim.features(inputs).shape == (5, 3)


def random_rows(count: int, seed: int, width: int = 40) -> list[tuple[list[int], int]]:
    draws = Key.root(seed).numpy()
    return [(draws.integers(1, width, draws.integers(1, 9)).tolist(), int(draws.integers(0, 3))) for _ in range(count)]


@pytest.mark.parametrize("most", [150, 3])
def test_scores_after_one_row_are_those_of_a_filter_trained_on_it_too(most, monkeypatch):
    monkeypatch.setattr("poisonbench.learn.spambayes.BLOCK", 500)  # several slices
    form = Tokens(vocabulary=("", "<unk>", *(f"w{number}" for number in range(40))))
    base, more, asked = (data(random_rows(count, seed), form=form) for count, seed in ((30, 100), (25, 101), (12, 102)))
    recipe = learner(most=most)
    found = torch.cat(list(recipe.fit(base, None, Key.root(0)).scores_after(more, asked.inputs)))
    by_fit = [recipe.fit(base.append(more.take(torch.tensor([row]))), None, Key.root(0)).scores(asked.inputs) for row in range(len(more))]
    torch.testing.assert_close(found, torch.stack(by_fit), rtol=0, atol=1e-6)
    assert found.argmax(2).unique().tolist() == [0, 1, 2]


def test_another_number_of_classes_and_fields_out_of_range_are_refused():
    with pytest.raises(Incompatible, match="this task has 2 classes"):
        learner().check(data([([CASH], 1), ([LUNCH], 0)], kinds=2), None)
    for field, value in (("strength", 0.0), ("prior", 1.0), ("most", 0), ("margin", 0.5), ("ham", 0.95), ("spam", 1.5)):
        with pytest.raises(ConfigError):
            learner(**{field: value})
