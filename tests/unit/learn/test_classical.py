"""Classical learners: scores from the stored arrays against scikit-learn's own."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import PlainStep, Trained
from poisonbench.core.rng import Key
from poisonbench.forms.reals import Reals
from poisonbench.forms.tokens import Tokens
from poisonbench.learn.classical import BELOW, Logistic, NaiveBayes, Svm
from poisonbench.learn.trees import Trees, joined, leaves
from poisonbench.runner.stages import Line

KEY = Key.root(100)
LOGISTIC = Logistic(C=1.0, iterations=1000)
LINEAR, RBF = (Svm(kernel=kernel, C=1.0, iterations=10000) for kernel in ("linear", "rbf"))
BOOSTING, FOREST = (Trees(model=model, trees=20, leaves=8, leaf_rows=3, lr=0.1) for model in ("boosting", "forest"))
BAYES = NaiveBayes(alpha=1.0)
EVERY = [LOGISTIC, LINEAR, RBF, BOOSTING, FOREST]
WORDS = ("", "<unk>", "free", "money", "lunch", "today", "never")


def numbers(kinds: int, rows: int = 90) -> Dataset:
    generator = torch.Generator().manual_seed(kinds)
    labels = torch.arange(rows) % kinds
    inputs = torch.randn(rows, 4, generator=generator) * torch.tensor([1.0, 100.0, 0.01, 1.0]) + labels[:, None] * torch.tensor([1.0, 50.0, 0.0, -1.0])
    inputs[:, 3] = 7.0  # constant
    return Dataset.of(inputs, labels, num_classes=kinds, form=Reals(names=("length", "weight", "error", "constant")))


def texts(kinds: int = 2) -> Dataset:
    inputs = torch.tensor([[2, 3, 3, 0], [2, 2, 3, 5], [4, 5, 0, 0], [4, 4, 5, 5], [4, 2, 5, 0]])
    return Dataset.of(inputs, torch.tensor([1, 1, 0, 0, 0]), num_classes=kinds, form=Tokens(vocabulary=WORDS))


@pytest.fixture
def honest(tiny, store):
    return Line(experiment=tiny(), store=store).honest


def standardised(data: Dataset, asked: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(data.inputs.double().numpy())
    return scaler.transform(data.inputs.double().numpy()), scaler.transform(asked.double().numpy())


def reference(learner, kinds: int):
    """Return scikit-learn's model of the same settings."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import SVC, LinearSVC

    seed = KEY.seed % 2**32
    if learner == LOGISTIC:
        return LogisticRegression(max_iter=1000)
    if learner == LINEAR:
        return LinearSVC(max_iter=10000, random_state=seed)
    if learner == RBF:
        return SVC() if kinds == 2 else OneVsRestClassifier(SVC())
    if learner == FOREST:
        return RandomForestClassifier(n_estimators=20, max_leaf_nodes=8, min_samples_leaf=3, random_state=seed)
    return HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=8, min_samples_leaf=3, early_stopping=False, random_state=seed)


@pytest.mark.parametrize("kinds", [2, 3])
@pytest.mark.parametrize("learner", EVERY)
def test_scores_from_the_arrays_are_those_of_scikit_learn(honest, learner, kinds):
    data, asked = numbers(kinds), numbers(kinds, rows=50).inputs + 0.3
    scores = learner.fit(data, honest, KEY).scores(asked).double().numpy()
    rows, others = standardised(data, asked)
    model = reference(learner, kinds).fit(rows, data.labels.numpy())
    if learner == FOREST:
        assert scores == pytest.approx(model.predict_proba(others), abs=1e-6)
    elif kinds == 3:
        assert scores == pytest.approx(model.decision_function(others), abs=1e-6)
    else:
        first = -1 if isinstance(learner, Svm) else 0
        margin = model.decision_function(others)
        assert scores == pytest.approx(np.stack([first * margin, margin], 1), abs=1e-6)


def test_the_softmax_of_log_odds_is_the_probability_of_scikit_learn(honest):
    data = numbers(2)
    rows, _ = standardised(data, data.inputs)
    for learner in (LOGISTIC, BOOSTING):
        scores = learner.fit(data, honest, KEY).scores(data.inputs)
        assert scores.softmax(1).numpy() == pytest.approx(reference(learner, 2).fit(rows, data.labels.numpy()).predict_proba(rows), abs=1e-6)


def test_naive_bayes_by_hand(honest):
    # ham has 9 words (free 1, money 0, lunch 4, today 4), spam 7 (free 3, money 3, lunch 0, today 1); each count gets 1 more, for 4 known words
    scores = BAYES.fit(texts(), honest, KEY).scores(torch.tensor([[2, 0, 0, 0], [4, 6, 1, 0]]))
    ham, spam = [2 / 13, 1 / 13, 5 / 13, 5 / 13], [4 / 11, 4 / 11, 1 / 11, 2 / 11]
    free = np.log([[3 / 5 * ham[0], 2 / 5 * spam[0]]])
    lunch = np.log([[3 / 5 * ham[2], 2 / 5 * spam[2]]])  # "never" and "<unk>" are in no training row and change nothing
    assert scores.double().numpy() == pytest.approx(log_softmax(np.vstack([free, lunch]), axis=1), abs=1e-6)


def test_naive_bayes_is_that_of_scikit_learn_on_the_words_of_the_training_rows(honest):
    from sklearn.naive_bayes import MultinomialNB

    data = texts()
    table = data.form.table(data.inputs).to_dense()[:, 2:6].numpy()
    expected = MultinomialNB().fit(table, data.labels.numpy()).predict_log_proba(table)
    assert BAYES.fit(data, honest, KEY).scores(data.inputs).double().numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("learner", [LOGISTIC, LINEAR, BAYES])
def test_words_that_no_training_row_contains_change_no_score(honest, learner):
    victim = learner.fit(texts(), honest, KEY)
    assert victim.scores(torch.tensor([[2, 5, 0, 0]])).equal(victim.scores(torch.tensor([[2, 5, 6, 1]])))


@pytest.mark.parametrize("learner", [*EVERY, BAYES])
def test_a_victim_comes_back_from_its_state(honest, learner):
    data = texts() if learner == BAYES else numbers(3)
    victim = learner.fit(data, honest, KEY)
    trained = Trained.of(victim)
    again = learner.restore(trained, data, honest)
    assert again.scores(data.inputs).equal(victim.scores(data.inputs))
    assert again.features(data.inputs).equal(victim.features(data.inputs))
    assert all(value.isfinite().all() for value in trained.state.values())


@pytest.mark.parametrize("learner", EVERY)
def test_a_class_without_training_rows_is_never_the_answer(honest, learner):
    data = numbers(3)
    lacking = data.take(data.labels != 1)
    scores = learner.fit(lacking, honest, KEY).scores(data.inputs)
    two = Dataset.of(lacking.inputs, lacking.labels // 2, num_classes=2, form=data.form)
    assert scores[:, [0, 2]].equal(learner.fit(two, honest, KEY).scores(data.inputs))
    assert scores[:, 1].allclose(scores[:, [0, 2]].min(1).values - BELOW)


@pytest.mark.parametrize("learner", EVERY)
def test_a_single_row_is_enough(honest, learner):
    scores = learner.fit(numbers(3).take(torch.tensor([1])), honest, KEY).scores(numbers(3).inputs)
    assert scores.argmax(1).unique().tolist() == [1]
    assert scores.isfinite().all()


def test_features_are_the_standardised_inputs(honest):
    data = numbers(2)
    features = LOGISTIC.fit(data, honest, KEY).features(data.inputs)
    assert features.numpy() == pytest.approx(standardised(data, data.inputs)[0], abs=1e-5)
    counts = LOGISTIC.fit(texts(), honest, KEY).features(torch.tensor([[2, 3, 3, 6]]))
    assert counts.tolist() == [pytest.approx([1 / 5**0.5, 2 / 5**0.5, 0, 0])]


def test_features_of_words_take_no_memory_beyond_their_own(honest):
    words = torch.arange(2, 4002).reshape(100, 40)
    data = Dataset.of(words, torch.arange(100) % 2, num_classes=2, form=Tokens(vocabulary=("", "<unk>", *map(str, range(4000)))))
    victim = NaiveBayes(alpha=1.0).fit(data, honest, KEY)
    victim.features(words[:1])
    tracemalloc.start()
    features = victim.features(words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert features.shape == (100, 4000)
    assert peak < 2 * 4 * features.numel()  # a table of 64 bits alone takes as much


def test_many_victims_answer_as_one_after_the_other(honest):
    parts = [numbers(3).take(torch.arange(place, 90, 3)) for place in range(3)]
    victims = LOGISTIC.fit_many(parts, honest, [KEY] * 3)
    asked = numbers(3).inputs
    assert torch.cat(list(LOGISTIC.scores_many(victims, asked))).equal(torch.stack([victim.scores(asked) for victim in victims], 1))


@pytest.mark.parametrize("learner", [LINEAR, FOREST, BOOSTING])
def test_the_seed_alone_decides_the_draws(honest, learner):
    data = numbers(3)
    first, second = (learner.fit(data, honest, KEY).state() for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)
    other = FOREST.fit(data, honest, Key.root(101)).state()
    assert learner != FOREST or not (other["threshold"].shape == first["threshold"].shape and other["threshold"].equal(first["threshold"]))


def test_a_tree_by_hand():
    from poisonbench.learn.trees import Tree

    # column 1 at most 0.5: the left leaf; else column 0 at most 2: the middle leaf, else the right one
    ints = {name: np.array(values) for name, values in (("left", [1, -1, 3, -1, -1]), ("right", [2, -1, 4, -1, -1]), ("column", [1, -2, 0, -2, -2]))}
    tree = Tree(**ints, threshold=np.array([0.5, 0, 2, 0, 0]), value=np.arange(5.0)[:, None])
    arrays = joined([tree, tree])
    assert leaves(arrays, np.array([[9.0, 0.5], [2.0, 0.6], [3.0, 0.6]])).tolist() == [[1, 6], [3, 8], [4, 9]]


def test_words_need_the_linear_kernel_and_steps_have_no_place(honest):
    with pytest.raises(Incompatible, match=r"learner.kernel=linear"):
        RBF.check(texts(), honest)
    LINEAR.check(texts(), honest)
    with pytest.raises(Incompatible, match="Logistic"):
        LOGISTIC.with_step(PlainStep())


@pytest.mark.parametrize("wrong", [{"C": 0.0}, {"iterations": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"learner.{next(iter(wrong))}="):
        Logistic(**{"C": 1.0, "iterations": 10} | wrong)
