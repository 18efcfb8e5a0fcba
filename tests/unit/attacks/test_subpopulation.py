import dataclasses

import pytest
import torch

from attacks.targeted.subpopulation import Spoil, Subpopulation, likely_wrong
from poisonbench.core.audit import audit, audit_probe
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from tests.unit.attacks.worlds import world


def groups(rows: int) -> Dataset:
    """Three groups of pictures: dark ones of class 0, medium ones of class 1, bright ones of class 2."""
    labels = torch.arange(rows) % 3
    pixels = (20 + 90 * labels)[:, None, None, None] + torch.randint(0, 9, (rows, 1, 4, 4), generator=torch.Generator().manual_seed(rows))
    return Dataset.of(pixels.to(torch.uint8), labels, num_classes=3)


@dataclasses.dataclass
class Trained:
    """A model that takes class 1 for class 2 more often than for class 0."""

    def features(self, inputs):
        return inputs.float().flatten(1)

    def scores(self, inputs):
        brightness = (inputs.float().flatten(1).mean(1) - 24) / 90
        return -(brightness[:, None] - torch.tensor([-0.5, 1.0, 2.0])).square()


def aimed(**budget: object):
    return world(groups(60), target=groups(30), fit=lambda data, draw=0: Trained(), **budget)


def test_poisons_are_copies_of_one_group_with_one_wrong_label_and_its_targets_are_probed():
    known = aimed(count=12, inject=True)
    poisoned = Subpopulation(clusters=3, dims=2).poison(known, Key.root(0))
    audit(known.rows, poisoned, known.budget, known.writable, known.targets)
    (group,) = known.rows.labels[poisoned.origins].unique().tolist()
    assert torch.equal(poisoned.data.inputs[60:], known.rows.inputs[poisoned.origins])
    assert len(poisoned.data.labels[60:].unique()) == 1
    assert group not in poisoned.data.labels[60:]
    probe = poisoned.goal.probe(known.targets)
    audit_probe(probe, known.targets, torch.arange(30))
    assert sorted(probe.rows.tolist()) == (known.targets.labels == group).nonzero()[:, 0].tolist()
    assert torch.equal(probe.targets, probe.rows)
    assert (probe.hit.sum(1) == 2).all()


def test_every_group_is_drawn_by_some_seed():
    drawn = {int(Subpopulation(clusters=3, dims=2).poison(aimed(count=3, inject=True), Key.root(seed)).origins[0]) % 3 for seed in range(20)}
    assert drawn == {0, 1, 2}


def test_without_insertions_the_rows_of_the_group_are_relabelled():
    known = aimed(count=12)
    poisoned = Subpopulation(clusters=3, dims=2).poison(known, Key.root(0))
    audit(known.rows, poisoned, known.budget, known.writable, known.targets)
    assert int(poisoned.mask.sum()) == 12
    assert len(known.rows.labels[poisoned.mask].unique()) == 1
    assert torch.equal(poisoned.data.inputs, known.rows.inputs)
    assert int(Subpopulation(clusters=3, dims=2).poison(aimed(count=50), Key.root(0)).mask.sum()) == 20  # all there are


def test_the_label_is_the_likeliest_one_that_is_not_the_groups_own():
    scores = torch.tensor([[3.0, 5.0, 4.0], [3.0, 5.0, 4.0], [9.0, 5.0, 4.0]])
    assert likely_wrong(scores, torch.tensor([1, 1, 0])) == 0  # 0.09 + 0.09 + 0.98 against 0.24 + 0.24 + 0.01
    assert likely_wrong(scores[:2], torch.tensor([1, 1])) == 2


def test_a_subpopulation_needs_rows_that_the_attacker_can_write():
    known = aimed(count=3, inject=True)
    dark = dataclasses.replace(known, writable=known.rows.labels == 0)
    origins = [Subpopulation(clusters=3, dims=2).poison(dark, Key.root(seed)).origins for seed in range(5)]
    assert (known.rows.labels[torch.cat(origins)] == 0).all()
    with pytest.raises(ConfigError, match="none of 3 clusters"):
        Subpopulation(clusters=3, dims=2).poison(dataclasses.replace(dark, writable=known.rows.labels > 2), Key.root(0))


def test_more_clusters_than_rows_are_refused():
    with pytest.raises(ConfigError, match="give fewer clusters"):
        Subpopulation(clusters=61, dims=2).poison(aimed(count=3, inject=True), Key.root(0))


def test_any_wrong_answer_counts_and_the_right_one_never():
    probe = Spoil(ids=torch.tensor([4])).probe(groups(6))
    assert probe.rows.tolist() == [4]
    assert probe.hit.tolist() == [[True, False, True]]
