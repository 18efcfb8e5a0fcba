import dataclasses

import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Diverged
from poisonbench.core.learner import Trained
from poisonbench.core.rng import Key
from poisonbench.learn.stacked import cut, members_at_once
from poisonbench.nets.fast import FastCNN
from poisonbench.nets.resnet import PreActResNet18
from poisonbench.nets.small import MLP, Linear, SmallCNN
from poisonbench.runner.stages import Line
from tests.unit.nets.likes import like

BATCH = SmallCNN(widths=(8, 16), depths=(1, 1), pool="max", norm="batch")
GROUP = SmallCNN(widths=(8, 16), depths=(2, 1), pool="average", norm="group")
FAST = FastCNN(widths=(8, 16), pool="max", norm="batch", scale=0.5, whiten_eps=0.001)
CASES = [
    (net, how)
    for net in (BATCH, GROUP, FAST, MLP(widths=(12,), norm="none"), MLP(widths=(12, 8), norm="group"), Linear(norm="none"), Linear(norm="group"))
    for how in ("grouped", "unfold", "vmap")
]
CASES = [(net, how) for net, how in CASES if how != "vmap" or net.norm != "batch"]
SIZES = (23, 40, 9, 2, 31)


@pytest.fixture
def world(tiny, store):
    """Return the tiny recipe, parts of uneven size, their keys and an honest `Combine`."""
    experiment = tiny()
    learner = dataclasses.replace(experiment.learner, epochs=3, batch_size=16, label_smoothing=0.1, stack_members=6)
    data = experiment.task.train
    parts = [part for part in data.take(torch.arange(sum(SIZES))).columns["ids"].split(SIZES)]
    parts = [data.take(torch.isin(data.ids, ids)) for ids in parts]
    return learner, parts, [Key.root(seed) for seed in range(len(SIZES))], Line(experiment=experiment, store=store).honest


def states(victims) -> list[dict[str, torch.Tensor]]:
    return [dict(victim.state()) for victim in victims]


@pytest.mark.parametrize(("net", "how"), CASES)
def test_a_stack_equals_a_loop_up_to_rounding(world, net, how):
    learner, parts, rngs, honest = world
    learner = dataclasses.replace(learner, net=net, bias_lr=2.0, lr=0.05)
    loop = states(learner.fit_many(parts, honest, rngs))
    stack = states(dataclasses.replace(learner, stack=how).fit_many(parts, honest, rngs))
    before = states(learner.begin(part, rng) for part, rng in zip(parts, rngs, strict=True))
    for own, theirs, first in zip(stack, loop, before, strict=True):
        assert own.keys() == theirs.keys()
        assert all(torch.allclose(own[name], theirs[name], atol=2e-3, rtol=1e-2) for name in own)
        assert any((theirs[name] - first[name]).abs().max() > 0.02 for name in own)


@pytest.mark.parametrize("how", ["grouped", "unfold"])
def test_augmentation_in_a_stack_is_that_of_the_loop(world, how):
    learner, parts, rngs, honest = world
    learner = dataclasses.replace(learner, net=BATCH, crop=1, flip=True, cutout=2, alternate=True, lr=0.05)
    loop = states(learner.fit_many(parts, honest, rngs))
    stack = states(dataclasses.replace(learner, stack=how).fit_many(parts, honest, rngs))
    assert all(torch.allclose(own[name], theirs[name], atol=2e-3, rtol=1e-2) for own, theirs in zip(stack, loop, strict=True) for name in own)


def grown(part: Dataset, other: Dataset) -> Dataset:
    """Return the part with 17 rows of another part appended, which also changes its number of steps."""
    return dataclasses.replace(part, **{name: torch.cat([part.columns[name], other.columns[name][:17]]) for name in ("inputs", "labels", "ids", "owners")})


EDITS = {
    "insert": lambda part, other: grown(part, other),
    "delete": lambda part, other: part.take(torch.arange(len(part) - 1)),
    "relabel": lambda part, other: part.edit(torch.tensor([0]), labels=(part.labels[:1] + 1) % part.num_classes),
}


@pytest.mark.parametrize("edit", sorted(EDITS))
@pytest.mark.parametrize(("net", "how"), CASES)
def test_a_changed_row_of_one_part_leaves_every_other_member_as_it_was_to_the_bit(world, net, how, edit):
    learner, parts, rngs, honest = world
    learner = dataclasses.replace(learner, net=net, stack=how)
    before = states(learner.fit_many(parts, honest, rngs))
    changed = [*parts[:1], EDITS[edit](parts[1], parts[4]), *parts[2:]]
    after = states(learner.fit_many(changed, honest, rngs))
    for member in (0, 2, 3, 4):
        assert all(torch.equal(before[member][name], after[member][name]) for name in before[member])
    assert any(not torch.equal(before[1][name], after[1][name]) for name in before[1])


@pytest.mark.parametrize(("net", "how"), CASES)
def test_a_member_does_not_depend_on_its_place_or_on_who_is_there(world, net, how):
    learner, parts, rngs, honest = world
    learner = dataclasses.replace(learner, net=net, stack=how)
    whole = states(learner.fit_many(parts, honest, rngs))
    fewer = states(learner.fit_many([parts[4], parts[0]], honest, [rngs[4], rngs[0]]))
    assert all(torch.equal(whole[4][name], fewer[0][name]) and torch.equal(whole[0][name], fewer[1][name]) for name in whole[0])


def test_stacks_of_two_give_what_one_stack_gives_up_to_rounding(world):
    learner, parts, rngs, honest = world
    learner = dataclasses.replace(learner, net=GROUP, stack="unfold")
    one = states(learner.fit_many(parts, honest, rngs))
    several = states(dataclasses.replace(learner, stack_members=2).fit_many(parts, honest, rngs))
    assert len(several) == 5
    assert all(torch.allclose(own[name], theirs[name], atol=2e-3, rtol=1e-2) for own, theirs in zip(several, one, strict=True) for name in own)


@pytest.mark.parametrize(
    ("parts", "parameters", "members"), [(5, 100, 5), (256, 100, 256), (300, 100, 150), (100, 100_000, 20), (41, 100_000, 14), (3, 10**8, 1)]
)
def test_members_are_spread_evenly_over_passes_that_fit_the_cache(parts, parameters, members):
    assert members_at_once(parts, parameters) == members


def test_a_victim_of_a_stack_is_the_one_that_the_store_gives_back(world):
    learner, parts, rngs, honest = world
    victim = dataclasses.replace(learner, net=BATCH, stack="grouped").fit_many(parts, honest, rngs)[1]
    restored = learner.restore(Trained.of(victim), parts[1], honest)
    assert torch.equal(victim.scores(parts[0].inputs), restored.scores(parts[0].inputs))
    assert all(torch.equal(value, victim.net.state_dict()[name]) for name, value in victim.state().items())


def test_one_part_alone_is_trained_alone(world):
    learner, parts, rngs, honest = world
    (alone,) = dataclasses.replace(learner, stack="grouped").fit_many(parts[:1], honest, rngs[:1])
    loop = learner.fit(parts[0], honest, rngs[0]).state()
    assert all(torch.equal(value, loop[name]) for name, value in alone.state().items())


def test_a_stack_goes_on_from_a_start(world):
    learner, parts, rngs, honest = world
    start = learner.fit(parts[1], honest, Key.root(9))
    loop = states(learner.fit_many(parts[:2], honest, rngs[:2], start))
    stack = states(dataclasses.replace(learner, stack="grouped").fit_many(parts[:2], honest, rngs[:2], start))
    assert all(torch.allclose(own[name], theirs[name], atol=2e-3, rtol=1e-2) for own, theirs in zip(stack, loop, strict=True) for name in own)


@pytest.mark.parametrize("member", [0, 3, 4])
@pytest.mark.parametrize("stack", ["loop", "unfold"])
def test_the_member_that_diverges_is_named(world, stack, member):
    learner, parts, rngs, honest = world
    learner = dataclasses.replace(learner, net=Linear(norm="none"), stack=stack, stack_members=2)
    features = [part.with_columns(part.columns | {"inputs": part.inputs.flatten(1).float()}) for part in parts]
    spoiled = features[member].inputs.clone()
    spoiled[0, 0] = float("nan")
    features[member] = features[member].with_columns(features[member].columns | {"inputs": spoiled})
    with pytest.raises(Diverged) as caught:
        learner.fit_many(features, honest, rngs)
    assert caught.value.member == member


def test_what_has_no_stacked_form_is_refused(world):
    learner, parts, rngs, honest = world
    with pytest.raises(ConfigError, match="vmap cannot keep padding rows out of batch normalisation"):
        dataclasses.replace(learner, net=BATCH, stack="vmap").fit_many(parts, honest, rngs)
    with pytest.raises(ConfigError, match=r"learner.stack=all"):
        dataclasses.replace(learner, stack="all")


def test_a_residual_network_is_stacked_as_well():
    from poisonbench.learn.stacked import Stack

    net = PreActResNet18(pool="average", norm="group")
    members = [net.build(like((3, 16, 16), 4)) for _ in range(2)]
    inputs = torch.rand(2, 3, 3, 16, 16)
    scores = Stack(members[0], [member.state_dict() for member in members], "grouped").scores(inputs, torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(scores, torch.stack([member(rows) for member, rows in zip(members, inputs, strict=True)]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "steps"), [(10, 3), (9, 3), (5, 5), (1, 1), (17, 4)])
def test_a_sequence_is_cut_as_tensor_split_does(rows, steps):
    places = torch.arange(rows)
    step, slot = cut(places, torch.full((rows,), rows), torch.full((rows,), steps))
    for number, part in enumerate(places.tensor_split(steps)):
        assert places[step == number].tolist() == part.tolist()
        assert slot[step == number].tolist() == list(range(len(part)))
