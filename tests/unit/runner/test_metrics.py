import pytest
import torch
from sklearn.metrics import roc_auc_score

from poisonbench.core.audit import Kinds
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Verdict
from poisonbench.core.goals import Probe
from poisonbench.core.rng import Key
from poisonbench.runner import metrics

ANSWERS = torch.eye(3)[[0, 0, 1, 2]]  # four rows answered 0, 0, 1, 2


def probe() -> Probe:
    return Probe(rows=torch.arange(4), inputs=torch.zeros(4, 1), truth=torch.tensor([1, 2, 1, 2]), hit=torch.eye(3)[[0, 0, 0, 0]].bool())


def kinds(poison, cover=None) -> Kinds:
    none = torch.zeros(len(poison), dtype=torch.bool)
    return Kinds(poison=poison, cover=none if cover is None else cover, untouched=none, injected=none)


def test_asr_counts_answers_that_serve_and_r_acc_answers_that_are_right():
    assert metrics.success(ANSWERS, probe()) == {"asr": 0.5, "r_acc": 0.5}
    assert metrics.served(ANSWERS, probe()).tolist() == [True, True, False, False]


def test_an_empty_probe_gives_no_figures():
    nothing = Probe(rows=torch.arange(0), inputs=torch.zeros(0, 1), truth=torch.zeros(0, dtype=torch.int64), hit=torch.zeros(0, 3, dtype=torch.bool))
    assert metrics.success(torch.zeros(0, 3), nothing) == {}


def test_accuracy_is_the_share_of_right_answers():
    assert metrics.accuracy(ANSWERS, torch.tensor([0, 1, 1, 1])) == 0.5


def test_a_filter_is_judged_within_the_classes_that_hold_poison():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    mask = torch.tensor([True, True, False, False, False, False])
    suspicion = torch.tensor([0.9, 0.3, 0.5, 0.1, 1.0, 1.0])
    verdict = Verdict(keep=torch.tensor([False, True, True, True, False, True]), suspicion=suspicion)
    figures = metrics.filtering(verdict, kinds(mask), labels)
    assert figures["removed"] == 2
    assert figures["tpr"] == 0.5
    assert figures["fpr"] == 0.25
    assert figures["auroc_in_class"] == pytest.approx(3 / 4)  # 0.9 beats both, 0.3 one of two
    assert figures["auroc_all"] == pytest.approx(3 / 8)  # of 2 x 4 pairs, 0.9 wins two and 0.3 one


def test_a_filter_without_poison_has_a_false_positive_rate_alone():
    verdict = Verdict(keep=torch.tensor([True, False]), suspicion=torch.zeros(2))
    assert metrics.filtering(verdict, kinds(torch.zeros(2, dtype=torch.bool)), torch.tensor([0, 1])) == {"removed": 1, "fpr": 0.5}
    assert metrics.filtering(None, kinds(torch.zeros(2, dtype=torch.bool)), torch.tensor([0, 1])) == {}


def test_cover_rows_are_neither_poison_to_find_nor_clean_rows_to_lose():
    """WaNet: one triggered row, two cover rows, three clean ones; a filter that removes the triggered row alone is perfect."""
    poison = torch.tensor([True, False, False, False, False, False])
    cover = torch.tensor([False, True, True, False, False, False])
    suspicion = torch.tensor([0.9, 1.0, 1.0, 0.1, 0.2, 0.3])
    labels = torch.zeros(6, dtype=torch.int64)
    perfect = metrics.filtering(Verdict(keep=~poison, suspicion=suspicion), kinds(poison, cover), labels)
    assert perfect == {"removed": 1, "fpr": 0.0, "tpr": 1.0, "cover_removed": 0.0, "auroc_all": 1.0, "auroc_in_class": 1.0}
    both = metrics.filtering(Verdict(keep=~(poison | cover), suspicion=suspicion), kinds(poison, cover), labels)
    assert (both["fpr"], both["tpr"], both["cover_removed"]) == (0.0, 1.0, 1.0)


def test_ties_in_suspicion_count_one_half():
    assert metrics.auroc(torch.zeros(4), torch.tensor([True, False, True, False])) == 0.5


@pytest.mark.parametrize("digits", [0, 1, None])
def test_the_area_under_the_curve_has_the_bits_of_scikit_learn(digits):
    """Rounded scores have ties; with one decimal most thresholds hold rows of both kinds."""
    draw = Key.root(100).numpy()
    for rows in [2, 3, 5, 40, 41, 1000] * 5:
        suspicion, positive = draw.standard_normal(rows).astype("float32"), draw.random(rows) < draw.random()
        suspicion = suspicion if digits is None else suspicion.round(digits)
        positive[:2] = True, False
        assert metrics.auroc(torch.from_numpy(suspicion), torch.from_numpy(positive)) == roc_auc_score(positive, suspicion)


def test_a_screen_that_refuses_all_probes_leaves_no_success():
    test = Dataset.of(torch.zeros(4, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 0, 1, 2]), num_classes=3)
    suspicion = {"trusted": torch.arange(100.0), "test": torch.tensor([0.0, 1, 2, 200]), "probe": torch.full((4,), 99.5)}
    figures = metrics.screening({"test": ANSWERS, "probe": ANSWERS}, suspicion, test, probe())
    assert figures == {"fpr": 0.25, "c_acc": 0.75, "auroc": 0.75, "asr": 0.0}


def test_the_certified_curve_starts_at_radius_zero_and_its_median_is_the_last_half():
    figures = metrics.certified(torch.tensor([-1, 0, 1, 3]))
    assert figures["certified"] == [0.75, 0.5, 0.25, 0.25, 0.0]
    assert figures["median_radius"] == 1
    assert metrics.certified(torch.tensor([-1, -1, 0])) == {"certified": [1 / 3, 0.0]}


def test_r_acc_is_not_its_complement():
    one = Probe(rows=torch.arange(4), inputs=torch.zeros(4, 1), truth=torch.tensor([0, 0, 1, 1]), hit=torch.eye(3)[[2, 2, 2, 2]].bool())
    assert metrics.success(ANSWERS, one) == {"asr": 0.25, "r_acc": 0.75}


def test_only_classes_that_hold_both_kinds_of_rows_are_judged_within():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])  # 0 is all poison, 1 mixed, 2 all clean
    mask = torch.tensor([True, True, True, False, False, False])
    verdict = Verdict(keep=torch.ones(6, dtype=torch.bool), suspicion=torch.tensor([0.0, 0.0, 0.9, 0.1, 1.0, 1.0]))
    assert metrics.filtering(verdict, kinds(mask), labels)["auroc_in_class"] == 1.0


def test_a_suspicion_at_the_threshold_passes_the_screen():
    test = Dataset.of(torch.zeros(4, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 0, 1, 2]), num_classes=3)
    same = {"trusted": torch.ones(100), "test": torch.ones(4), "probe": torch.ones(4)}
    assert metrics.screening({"test": ANSWERS, "probe": ANSWERS}, same, test, probe())["fpr"] == 0.0


def test_the_accuracy_of_members_is_that_of_one_picked_at_random():
    answers = torch.tensor([[0, 1, 0], [2, 2, 2]], dtype=torch.uint8)
    assert metrics.member_accuracy(answers, torch.tensor([0, 1])) == pytest.approx(2 / 6)
