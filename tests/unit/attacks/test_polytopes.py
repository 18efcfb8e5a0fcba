import dataclasses

import pytest
import torch

from attacks.targeted.aims import Scene, wished
from attacks.targeted.bullseye_polytope import BullseyePolytope, off_centre
from attacks.targeted.convex_polytope import ConvexPolytope, off_mixture
from attacks.targeted.feature_collision import FeatureCollision, apart
from attacks.targeted.random_label_targeted import RandomLabelTargeted
from attacks.targeted.simplex import closest_mixture, onto_simplex
from attacks.targeted.views import dropped, seen
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from tests.unit.attacks.worlds import images, world

FROGS = {"bases": "first", "iterations": 200, "lr": 1.0, "penalty": 0.0, "watermark": 0.3, "decay": 0.2, "tolerance": 0.0, "surrogates": 1, "base_class": None}
CONVEX = {
    **{"bases": "first", "iterations": 60, "lr": 0.02, "surrogates": 1, "solver_steps": 10},
    **{"end_to_end": False, "dropout": 0.0, "draws": 1, "base_class": None},
}
BULLSEYE = {"bases": "first", "iterations": 5, "lr": 0.02, "surrogates": 1}


class Brightness(torch.nn.Module):
    """A model whose features are the pixels in 0..1, after a block that halves the resolution."""

    def lift(self, inputs):
        return inputs.float()

    def features(self, inputs):
        return inputs.flatten(1) / 255

    def activations(self, inputs):
        return [torch.nn.functional.avg_pool2d(inputs, 2) / 255, self.features(inputs)]


@dataclasses.dataclass
class Trained:
    module: torch.nn.Module

    def features(self, inputs):
        return self.module.features(inputs.float())


def aimed(**budget: object):
    rows = images()
    return world(rows.take(torch.arange(1, 30)), target=rows.take(torch.arange(1)), fit=lambda data, draw=0: Trained(Brightness()), **budget)


def scene(count: int = 4, limit: float = 255.0, norm: str = "linf", module: torch.nn.Module | None = None) -> Scene:
    rows = images()
    known, chosen = world(rows, target=rows.take(torch.arange(1))), torch.arange(1, count + 1)
    told = {"limit": limit, "norm": norm, "known": known, "chosen": chosen}
    return Scene(inputs=rows.inputs[chosen], label=1, target=rows.inputs[:1], modules=[module or Brightness()], **told)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_projection_of_known_points_onto_the_simplex():
    points = torch.tensor([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.6, 0.6, -5.0]])
    expected = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(onto_simplex(points), expected)


def test_no_corner_of_the_simplex_lies_on_the_far_side_of_a_projection():
    """The condition that characterises the nearest point of a convex set."""
    points = 2 * noise(200, 7)
    nearest = onto_simplex(points)
    assert (nearest >= 0).all()
    torch.testing.assert_close(nearest.sum(1), torch.ones(200, dtype=torch.float64))
    towards = torch.eye(7, dtype=torch.float64)[None] - nearest[:, None]
    assert (((points - nearest)[:, None] * towards).sum(2) <= 1e-12).all()


def test_the_mixture_of_two_points_is_the_closed_form():
    points, target = noise(50, 2, 5), noise(50, 5, seed=1)
    line = points[:, 0] - points[:, 1]
    share = (((target - points[:, 1]) * line).sum(1) / line.square().sum(1)).clamp(0, 1)
    gram, cross = points @ points.transpose(1, 2), (points @ target[:, :, None])[:, :, 0]
    weights = closest_mixture(gram, cross, torch.full((50, 2), 0.5, dtype=torch.float64), 300)
    torch.testing.assert_close(weights, torch.stack([share, 1 - share], 1), atol=1e-6, rtol=0)


def test_mixtures_meet_the_conditions_of_optimality_in_every_programme():
    """No point of the polytope can lower the objective by more than w'g - min g, which is zero at the optimum only; more points than dimensions too."""
    points, target = noise(40, 25, 10), noise(40, 10, seed=1)
    gram, cross = points @ points.transpose(1, 2), (points @ target[:, :, None])[:, :, 0]
    weights = closest_mixture(gram, cross, torch.full((40, 25), 1 / 25, dtype=torch.float64), 2000)
    slope = (gram @ weights[:, :, None])[:, :, 0] - cross
    gap = (weights * slope).sum(1) - slope.min(1).values
    assert (gap < 1e-6 * target.square().sum(1)).all()
    assert (weights.sum(1) - 1).abs().max() < 1e-12


def test_a_target_inside_the_polytope_is_reached_by_its_weights():
    points, share = noise(1, 4, 9), torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    target = share[:, None] @ points
    gram, cross = points @ points.transpose(1, 2), (points @ target.transpose(1, 2))[:, :, 0]
    torch.testing.assert_close(closest_mixture(gram, cross, torch.full_like(share, 0.25), 500), share, atol=1e-6, rtol=0)


def test_few_solver_steps_from_the_last_solution_are_enough():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 128), torch.nn.GELU())
    with torch.no_grad():
        network[1].weight.copy_(noise(128, 64) / 255)
    module = Brightness()
    module.features = network
    world = scene(25, limit=32.0, module=module)

    def reached(steps: int) -> float:
        poisons = ConvexPolytope(wish="next", **{**CONVEX, "solver_steps": steps}).moved(world, Key.root(0)).float()
        points, goal = network(poisons).detach().double(), network(world.target.float()).detach().double()
        weights = closest_mixture((points @ points.T)[None], (points @ goal.T).T, torch.full((1, 25), 1 / 25, dtype=torch.float64), 2000)
        return float(off_mixture(points, goal, weights[0]))

    start = ConvexPolytope(wish="next", **{**CONVEX, "iterations": 1})
    assert start.moved(world, Key.root(0)).shape == (25, 1, 8, 8)
    assert reached(10) == pytest.approx(reached(200), rel=0.01)


def test_the_losses_are_differentiable_by_features():
    features, target = noise(3, 6).requires_grad_(), noise(1, 6, seed=1)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: off_mixture(x, target, weights), features)
    assert torch.autograd.gradcheck(lambda x: apart(x, target), features)
    assert torch.autograd.gradcheck(lambda x: off_centre(x, target), features)


def test_the_convex_polytope_ends_at_the_target_where_features_are_pixels():
    world = scene()
    poisons = ConvexPolytope(wish="next", **{**CONVEX, "iterations": 300}).moved(world, Key.root(0))
    points, goal = poisons.float().flatten(1), world.target.float().flatten(1)
    weights = closest_mixture((points @ points.T)[None], points @ goal[0][None, :, None], torch.full((1, 4), 0.25), 0)
    weights = closest_mixture((points @ points.T)[None], (points @ goal.T).T, weights, 500)
    assert float(off_mixture(points, goal, weights[0])) < 1e-4


def test_a_polytope_attack_keeps_to_its_limit_and_the_labels():
    known = aimed(count=4, norm="linf", limit=8.0, relabel=False)
    poisoned = ConvexPolytope(wish="next", **CONVEX).poison(known, Key.root(0))
    assert (poisoned.data.inputs.int() - known.rows.inputs.int()).abs().max() == 8
    assert torch.equal(poisoned.data.labels, known.rows.labels)


def test_frogs_within_a_linf_limit_are_the_target_cut_to_the_limit():
    world = scene(limit=20.0)
    poisons = FeatureCollision(wish="next", **FROGS).moved(world, Key.root(0))
    expected = world.target.float().clamp(world.inputs.float() - 20, world.inputs.float() + 20)
    assert (poisons.float() - expected).abs().max() <= 1


def test_frogs_with_a_penalty_are_the_weighted_mean_of_target_and_base():
    """The minimum of |x - t|^2 + p / 2 |x - b|^2 is (2 t + p b) / (2 + p)."""
    world = scene(limit=1e4, norm="l2")
    poisons = FeatureCollision(wish="next", **{**FROGS, "penalty": 3.0}).moved(world, Key.root(0))
    expected = (2 * world.target.float() + 3 * world.inputs.float()) / 5
    assert (poisons.float() - expected).abs().max() <= 1.01


def test_frogs_within_an_l2_limit_lie_on_the_way_to_the_target():
    world = scene(limit=100.0, norm="l2")
    poisons = FeatureCollision(wish="next", **FROGS).moved(world, Key.root(0))
    change, way = (poisons.float() - world.inputs.float()).flatten(1), (world.target.float() - world.inputs.float()).flatten(1)
    assert (change.norm(dim=1) <= 100).all()
    assert (change.norm(dim=1) > 90).all()
    assert (torch.nn.functional.cosine_similarity(change, way) > 0.99).all()


@pytest.mark.parametrize("lr", [1e3, 1.0])
def test_a_first_step_that_is_too_large_is_undone(lr):
    world = scene(limit=255.0)
    poisons = FeatureCollision(wish="next", **{**FROGS, "lr": lr, "watermark": 0.0}).moved(world, Key.root(0))
    assert (poisons.float() - world.target.float()).abs().max() <= 1


def test_a_frog_does_not_depend_on_the_others_in_its_batch():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 9), torch.nn.Tanh()).double()
    module = Brightness()
    module.features = lambda inputs: network(inputs.double() / 255).float()
    whole = scene(4, limit=40.0, module=module)
    attack = FeatureCollision(wish="next", **{**FROGS, "tolerance": 1e-3, "iterations": 60})
    together = attack.moved(whole, Key.root(0))
    alone = [attack.moved(dataclasses.replace(whole, inputs=whole.inputs[row : row + 1]), Key.root(0)) for row in range(4)]
    assert (together.int() - torch.cat(alone).int()).abs().max() <= 1


def test_end_to_end_is_the_mean_over_the_blocks():
    inputs = images().inputs[:4].float()
    blocks = seen(Brightness(), inputs, end_to_end=True)
    assert [block.shape[1] for block in blocks] == [16, 64]
    assert torch.equal(seen(Brightness(), inputs, end_to_end=False)[0], blocks[1])


def test_dropout_keeps_the_expectation_and_several_draws_vary_less():
    layer = torch.ones(400, 50)
    one, five = (dropped([layer], 0.5, draws, Key.root(0))[0] for draws in (1, 5))
    assert set(one.unique().tolist()) == {0.0, 2.0}
    assert abs(float(five.mean()) - 1) < 0.02
    assert float(five.var()) == pytest.approx(0.2, abs=0.02)  # (1 - p) p / (1 - p)^2 / draws
    assert dropped([layer], 0.0, 1, Key.root(0))[0] is layer


def test_dropout_and_blocks_change_the_poison_and_a_seed_repeats_it():
    world = scene(limit=8.0)
    plain, whole, thinned = (BullseyePolytope(wish="next", **BULLSEYE, **more) for more in ({}, {"end_to_end": True}, {"dropout": 0.5, "draws": 3}))
    poisons = [attack.moved(world, Key.root(0)) for attack in (plain, whole, thinned)]
    assert not torch.equal(poisons[0], poisons[1])
    assert not torch.equal(poisons[0], poisons[2])
    assert torch.equal(poisons[2], thinned.moved(world, Key.root(0)))


@pytest.mark.parametrize(("fields", "named"), [({"dropout": 1.0}, "dropout lies in"), ({"draws": 3}, "dropout above 0")])
def test_draws_of_no_dropout_are_refused(fields, named):
    with pytest.raises(ConfigError, match=named):
        BullseyePolytope(wish="next", **BULLSEYE, **fields)


def test_a_limit_without_a_whole_grey_level_is_refused():
    for attack in (FeatureCollision(wish="next", **FROGS), ConvexPolytope(wish="next", **CONVEX), BullseyePolytope(wish="next", **BULLSEYE)):
        with pytest.raises(ConfigError, match="limit=0 allows no change"):
            attack.poison(aimed(count=4, norm="linf", limit=0.0, relabel=False), Key.root(0))


def test_more_poisons_than_the_base_class_has_rows_are_refused():
    with pytest.raises(ConfigError, match=r"only 10 can be poisoned; lower threat\.budget\.count to 10"):
        FeatureCollision(wish="next", **FROGS).poison(aimed(count=11, norm="linf", limit=8.0, relabel=False), Key.root(0))


def test_a_target_of_the_base_class_is_refused():
    targets = images().take(torch.arange(3))
    assert wished(targets.take(targets.labels != 1), "next", Key.root(0), 1).tolist() == [1, 1]
    with pytest.raises(ConfigError, match="already belongs to class 1"):
        wished(targets, "next", Key.root(0), 1)
    with pytest.raises(ConfigError, match="3 classes allow 0 to 2"):
        wished(targets, "next", Key.root(0), 3)


def test_the_likeliest_wrong_label_is_that_of_the_surrogate_and_never_the_truth():
    class Sure:
        def scores(self, inputs):
            return torch.tensor([[9.0, 1.0, 2.0], [3.0, 9.0, 2.0], [3.0, 9.0, 2.0]])

    targets = images().take(torch.arange(3))  # labels 0, 1, 2
    assert wished(targets, "likely", Key.root(0), surrogate=Sure).tolist() == [2, 0, 1]
    with pytest.raises(ConfigError, match="trains no surrogate"):
        RandomLabelTargeted(wish="likely").poison(aimed(count=6), Key.root(0))


def test_the_control_relabels_random_rows_of_other_classes():
    known = aimed(count=6)
    poisoned = RandomLabelTargeted(wish="next").poison(known, Key.root(0))
    other = RandomLabelTargeted(wish="next").poison(known, Key.root(1))
    assert int(poisoned.mask.sum()) == 6
    assert (known.rows.labels[poisoned.mask] != 1).all()
    assert (poisoned.data.labels[poisoned.mask] == 1).all()
    assert torch.equal(poisoned.data.inputs, known.rows.inputs)
    assert not torch.equal(poisoned.mask, other.mask)
