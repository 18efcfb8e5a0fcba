import dataclasses
from dataclasses import dataclass

import pytest
import torch

from poisonbench.core.attack import Attack, Crafted
from poisonbench.core.defense import Defense, Mean
from poisonbench.core.errors import ConfigError, Diverged
from poisonbench.core.rng import Key
from poisonbench.nets.small import Linear
from poisonbench.pipeline import Line, run

FEDERATED = ("learner=federated",)


def flat(victim, names=None):
    state = victim.state()
    return torch.cat([state[name].flatten() for name in (names or state)])


@pytest.fixture
def line(tiny, store):
    return Line(experiment=tiny(*FEDERATED), store=store)


def linear(line, **fields):
    client = dataclasses.replace(line.learner.client, net=Linear(norm="none"), momentum=0.0, weight_decay=0.0, lr=0.3)
    return dataclasses.replace(line.learner, client=client, **fields)


def test_fedsgd_of_equal_clients_is_gradient_descent_on_all_rows(line):
    data = line.experiment.task.train.take(torch.arange(360))
    data = data.edit(torch.arange(360), owners=torch.arange(360) % 9)
    learner = linear(line, algorithm="fedsgd", rounds=3)
    together = learner.fit(data, dataclasses.replace(line.honest, clean=data), Key.root(0))
    central = dataclasses.replace(learner.client, epochs=3, batch_size=360)
    alone = central.fit(data, line.honest, Key.root(0))  # the same initial weights: both begin from the same key
    torch.testing.assert_close(flat(together), flat(alone), rtol=1e-4, atol=1e-5)


def test_the_server_takes_steps_of_eta_with_momentum(line):
    data = line.experiment.task.train
    start = linear(line, rounds=1).client.begin(data, Key.root(0))
    one = linear(line, rounds=1).fit(data, line.honest, Key.root(0))
    half = linear(line, rounds=1, eta=0.5).fit(data, line.honest, Key.root(0))
    torch.testing.assert_close(flat(half) - flat(start), 0.5 * (flat(one) - flat(start)), rtol=1e-4, atol=1e-5)


@dataclass(frozen=True, kw_only=True)
class Constant(Mean):
    """A rule that always answers the same."""

    def __call__(self, rows_RP, server):
        return torch.ones(rows_RP.shape[1])


def test_momentum_adds_up_what_the_rule_gives(line):
    combine = dataclasses.replace(line.honest, aggregate=Constant())
    learner = linear(line, rounds=3, server_momentum=0.5, eta=2.0)
    names = ["net.last.weight", "net.last.bias"]
    moved = flat(learner.fit(line.experiment.task.train, combine, Key.root(0)), names) - flat(
        learner.client.begin(line.experiment.task.train, Key.root(0)), names
    )
    torch.testing.assert_close(moved, torch.full_like(moved, 2.0 * (1 + 1.5 + 1.75)), rtol=1e-4, atol=1e-3)


def test_a_history_holds_every_round_and_the_record_its_curve(tiny, store):
    record = run(tiny("attack=federated", "threat.budget.rate=0.2"), store)
    assert len(record.curves["undefended"]["c_acc"]) == len(record.curves["undefended"]["asr"]) == 4
    assert record.curves["undefended"]["c_acc"][-1] == record.undefended["c_acc"]
    assert record.curves["undefended"]["asr"][-1] == record.undefended["asr"]
    assert record.facts["crafted"]["boost"] == (3.0,) * 4
    assert (record.counts["clients"], record.counts["malicious"]) == (9, 3)


def test_a_sparse_history_ends_with_the_last_round(tiny, store):
    whole = run(tiny("attack=federated", "threat.budget.rate=0.2"), store).curves["undefended"]
    sparse = run(tiny("attack=federated", "threat.budget.rate=0.2", "learner.history_every=3"), store).curves["undefended"]
    assert sparse["round"] == [1, 4]
    assert sparse["asr"] == [whole["asr"][0], whole["asr"][3]]


@dataclass(frozen=True, kw_only=True)
class Shout:
    """Send a huge update and remember when."""

    def craft(self, round, rng):
        updates = round.updates.clone()
        updates[round.malicious] = 100.0
        return Crafted(updates=updates, facts={"round": round.index})


def test_the_attack_keeps_to_its_rounds_and_its_clients_behave_before(tiny, store):
    experiment = tiny("attack=federated", "threat.rounds=[2,3]", attack=Attack(update=Shout()))
    line = Line(experiment=experiment, store=store)
    attacked = line.learner.fit(experiment.task.train, line.combine(Mean()), Key.root(0))
    honest = line.learner.fit(experiment.task.train, line.honest, Key.root(0))
    assert attacked.facts["crafted"]["round"] == [2.0]
    equal = [all(torch.equal(one[name], other[name]) for name in one) for one, other in zip(attacked.history, honest.history, strict=True)]
    assert equal == [True, True, False, False]


def test_outside_its_rounds_an_attacker_trains_on_clean_rows(tiny, store):
    experiment = tiny("attack=model_replacement", "threat.rounds=[3,4]", "threat.budget.rate=0.2")
    line = Line(experiment=experiment, store=store)
    poisoned = line.strike()
    attacked = line.learner.fit(poisoned.data, line.combine(Mean()), Key.root(0))
    honest = line.learner.fit(experiment.task.train, line.honest, Key.root(0))
    assert torch.equal(attacked.history[2]["net.last.weight"], honest.history[2]["net.last.weight"])
    assert not torch.equal(attacked.history[3]["net.last.weight"], honest.history[3]["net.last.weight"])


def test_only_rows_of_malicious_clients_are_poisoned(tiny, store):
    experiment = tiny("attack=model_replacement", "threat.budget.rate=0.2")
    poisoned = Line(experiment=experiment, store=store).strike()
    assert set(experiment.task.train.owners[poisoned.mask].tolist()) == {0, 1, 2}


def test_some_clients_take_part_in_each_round(line):
    learner = dataclasses.replace(line.learner, participants=3)
    drawn = [learner._present(9, Key.root(0).child(f"round/{index}")).tolist() for index in range(20)]
    assert all(len(clients) == 3 for clients in drawn)
    assert {client for clients in drawn for client in clients} == set(range(9))
    assert learner.fit(line.experiment.task.train, line.honest, Key.root(0)).facts["rounds"] == 4


@dataclass(frozen=True, kw_only=True)
class Broken:
    def craft(self, round, rng):
        updates = round.updates.clone()
        updates[round.malicious] = float("nan")
        return Crafted(updates=updates)


def test_an_update_that_is_not_finite_names_its_client(tiny, store):
    with pytest.raises(Diverged, match="client 0 sent an update that is not finite in round 1"):
        run(tiny("attack=federated", attack=Attack(update=Broken())), store)
    with pytest.raises(Diverged, match="client 0, round 1"):
        run(tiny(*FEDERATED, "learner.client.lr=1e18"), store)


@dataclass(frozen=True, kw_only=True)
class Reference(Mean):
    def __call__(self, rows_RP, server):
        assert server.malicious == 3
        return server.reference()


def test_a_rule_is_told_f_and_may_ask_for_an_update_on_trusted_rows(tiny, store):
    experiment = tiny("attack=federated", "learner.rounds=12", defense=Defense(aggregate=Reference()))
    assert run(experiment, store).metrics["c_acc"] > 0.5  # trained on 20 trusted rows alone


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("task.clients=1", "threat.budget.clients=0"), "one client"),
        (("learner.participants=10",), "there are 9 clients"),
        (("net.norm=batch",), r"set net\.norm=group"),
        (("attack=federated", "threat.budget.clients=0.01"), "selects none"),
        (("attack=federated", "defense=krum", "threat.budget.clients=0.45"), "n > 2 f"),
        (("threat.rounds=[5]",), "first round"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_compute(tiny, store, words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        run(tiny(*FEDERATED, *words), store)
    assert not any(visit.stage.startswith("fit") for visit in store.visits)
