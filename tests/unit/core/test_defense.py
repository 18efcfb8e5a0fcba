"""The verdicts that a sanitizer may return."""

import pytest
import torch

from defenses.sanitize.random_drop import RandomDrop
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Defense, Verdict, checked
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key

ROWS = Dataset.of(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), num_classes=2)
KEEP, SUSPICION = torch.tensor([True, False, True, True]), torch.zeros(4)


class Filter:
    """Any plugin; errors contain its name."""


def test_a_whole_verdict_passes_as_it_is_and_none_stays_none():
    verdict = Verdict(keep=KEEP, suspicion=SUSPICION)
    assert checked(verdict, ROWS, Filter()) is verdict
    assert checked(None, ROWS, Filter()) is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"keep": KEEP.long()}, r"keep as torch.int64 of shape \(4,\); give one torch.bool per row, 4 in all"),
        ({"keep": KEEP.float()}, "keep as torch.float32"),
        ({"keep": KEEP[:3]}, r"keep as torch.bool of shape \(3,\)"),
        ({"keep": KEEP[:, None]}, r"of shape \(4, 1\)"),
        ({"suspicion": SUSPICION.double()}, "suspicion as torch.float64"),
        ({"suspicion": SUSPICION[:0]}, r"suspicion as torch.float32 of shape \(0,\)"),
        ({"suspicion": torch.tensor([0.0, torch.nan, torch.inf, 1.0])}, "not finite for 2 of 4 rows"),
    ],
)
def test_any_other_verdict_is_refused_by_the_plugins_name(fields, says):
    verdict = Verdict(**{"keep": KEEP, "suspicion": SUSPICION, **fields})
    with pytest.raises(ConfigError, match=rf"^Filter\.judge returned .*{says}"):
        checked(verdict, ROWS, Filter())


class Whole:
    """Return 1 for rows to keep, as some libraries do; ~1 is -2, which is also true."""

    def judge(self, data, means, rng):
        return Verdict(keep=torch.ones(len(data), dtype=torch.int64), suspicion=torch.zeros(len(data)))


def test_a_random_filter_checks_the_filter_that_it_matches():
    with pytest.raises(ConfigError, match="Whole"):
        RandomDrop(like=Defense(sanitize=Whole())).judge(ROWS, None, Key.root(0))
