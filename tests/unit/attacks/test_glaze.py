"""Cloaks of an artist's own pictures."""

import dataclasses

import pytest
import torch
from torch import nn

from attacks.generators.glaze import NotMimicked, target_style
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.shapes import PICTURE
from poisonbench.runner.stages import Line
from tests.conftest import assemble, tree_of


class Halves(nn.Module):
    """A surrogate whose codes are linear: the mean grey levels of the upper and of the lower half."""

    @property
    def coding(self):
        return self

    def features(self, inputs):
        return inputs.unflatten(2, (2, -1)).mean((1, 3, 4))

    def head(self, codes):
        return codes


def test_the_target_style_is_between_the_median_and_the_upper_quartile_of_distances():
    codes = torch.tensor([[0.0], [0.0], [5.0], [-1.0], [4.0], [-2.0], [3.0]])  # artist 0 twice, then artists 1 to 5
    labels = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    assert {target_style(codes, labels, 0, Key.root(seed)) for seed in range(20)} == {5, 3}  # distances 3 and 4 of 1 to 5
    three = labels < 4
    assert {target_style(codes[three], labels[three], 0, Key.root(seed)) for seed in range(5)} == {3}  # 4 of 1, 4 and 5
    assert target_style(codes[:3], labels[:3], 0, Key.root(0)) == 1
    with pytest.raises(ConfigError, match="no training row is of another artist"):
        target_style(codes[:2], labels[:2], 0, Key.root(0))


@pytest.mark.parametrize("limit", [3, 12])
def test_codes_of_a_linear_encoder_move_to_the_nearest_one_of_the_target_style_as_far_as_the_limit_allows(tiny, store, limit):
    experiment = tiny("attack=glaze", f"threat.budget.limit={limit}", "threat.budget.count=27", "attack.data.steps=60")
    known = Line(experiment=experiment, store=store).known()
    poisoned = experiment.attack.data.poison(dataclasses.replace(known, fit=lambda data, draw=0: Halves()), Key.root(100))
    rows, goal = known.rows, poisoned.goal
    own = (rows.labels == 1).nonzero()[:, 0]
    assert torch.equal(poisoned.mask.nonzero()[:, 0], own)  # all pictures of the artist
    assert torch.equal(poisoned.data.inputs, rows.inputs)
    before, after, anchors = (
        Halves().features(pictures.float())
        for pictures in (rows.extra[PICTURE][own], poisoned.data.extra[PICTURE][own], rows.extra[PICTURE][rows.labels == goal.anchor])
    )
    nearest = anchors[torch.cdist(before, anchors).argmin(1)]
    best = before + (nearest - before).clamp(-limit, limit)  # each half has a code of its own, so the limit of a pixel is that of a code
    assert (after - best).abs().max() < 1.5  # steps end within half a grey level, and whole grey levels are cut
    assert (best - before).abs().max() > 2
    assert torch.equal(goal.pictures.sum((1, 2, 3)).sort().values, poisoned.data.extra[PICTURE][own].sum((1, 2, 3)).sort().values)


def test_every_answer_but_the_style_of_the_artist_is_a_success(store):
    test = assemble(tree_of(["task=styles"]), store).task.test
    none = torch.zeros(0, dtype=torch.uint8)
    probe = NotMimicked(concept=1, anchor=3, pictures=none, shown=1, clean=none, truth=none.long()).probe(test)
    assert (probe.truth == 1).all()
    assert len(probe) == 100
    assert (probe.hit == torch.tensor([True, False, True, True, True])).all()


def test_settings_that_fit_nothing_are_refused(tiny, shared):
    with pytest.raises(ConfigError, match=r"attack\.data\.steps=0"):
        tiny("attack=glaze", "attack.data.steps=0")
    for words, says in (
        (("threat=mislabelled", "threat.budget.count=5"), "threat=own_pictures"),
        (("attack.data.artist=4",), "artist=4"),
        (("threat.budget.count=60",), "only 27 can be poisoned"),
    ):
        with pytest.raises(ConfigError, match=says):
            Line(experiment=tiny("attack=glaze", *words), store=shared).struck()
