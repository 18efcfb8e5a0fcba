import dataclasses
from dataclasses import dataclass, field

import pytest
import torch

from defenses.aggregate.krum import Krum
from defenses.aggregate.multi_krum import MultiKrum
from defenses.aggregate.trimmed_mean import TrimmedMean
from poisonbench.core.attack import Attack, Crafted
from poisonbench.core.defense import Defense, Mean, Server
from poisonbench.core.errors import ConfigError, Diverged
from poisonbench.core.rng import Key
from poisonbench.nets.small import Linear
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

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
    """A rule that always returns the same update."""

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
    """Send a huge update and record the round."""

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
    line = Line(experiment=experiment, store=store)
    assert set(experiment.task.train.owners[line.strike().mask].tolist()) == set(line.malicious.tolist())


def test_some_clients_take_part_in_each_round(line):
    learner = dataclasses.replace(line.learner, participants=3)
    drawn = [learner._present(9, Key.root(0).child(f"round/{index}")).tolist() for index in range(20)]
    assert all(len(clients) == 3 for clients in drawn)
    assert {client for clients in drawn for client in clients} == set(range(9))
    assert learner.fit(line.experiment.task.train, line.honest, Key.root(0)).facts["rounds"] == 4


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Send one value that is not finite from `clients` of the malicious clients."""

    value: float
    clients: int = 1

    def craft(self, round, rng):
        updates = round.updates.clone()
        updates[round.malicious.nonzero()[: self.clients, 0], 3] = self.value
        return Crafted(updates=updates)


@dataclass(frozen=True, kw_only=True)
class Seen(Mean):
    """The mean; it notes the number of rows and f."""

    notes: list = field(default_factory=list)

    def __call__(self, rows_RP, server):
        assert rows_RP.isfinite().all()
        self.notes.append((len(rows_RP), server.malicious))
        return rows_RP.mean(0)


def trained(experiment, rule, store, **fields):
    line = Line(experiment=experiment, store=store)
    return dataclasses.replace(line.learner, **fields).fit(experiment.task.train, line.combine(rule), Key.root(0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_updates_that_are_not_finite_are_dropped_and_counted_and_f_stays(tiny, store, value):
    experiment = tiny("attack=federated", "threat.rounds=[1,3]", attack=Attack(update=Broken(value=value, clients=2)))
    victim = trained(experiment, rule := Seen(), store)
    assert rule.notes == [(9, 3), (7, 3), (7, 3), (9, 3)]
    assert victim.facts["dropped_updates"] == [0, 2, 2, 0]
    assert "dropped_updates" not in trained(tiny("attack=federated", attack=Attack()), Seen(), store).facts


def test_the_mean_of_a_round_is_that_of_the_finite_updates(tiny, store):
    """One round of fedsgd on equal clients is a step of descent on the rows of those whose updates are finite."""
    experiment = tiny("attack=federated", attack=Attack(update=Broken(value=float("inf"), clients=3)))
    line = Line(experiment=experiment, store=store)
    data = experiment.task.train.take(torch.arange(360))
    data = data.edit(torch.arange(360), owners=torch.arange(360) % 9)
    learner = linear(line, algorithm="fedsgd", rounds=1)
    start = learner.client.begin(data, Key.root(0))
    left = data.take(~torch.isin(data.owners, line.malicious))
    alone = dataclasses.replace(learner.client, epochs=1, batch_size=len(left)).fit(left, line.honest, Key.root(0), start)
    together = learner.fit(data, dataclasses.replace(line.combine(Mean()), clean=data), Key.root(0))
    torch.testing.assert_close(flat(together), flat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("defense", ["none", "krum", "multi_krum", "trimmed_mean", "median", "geometric_median", "norm_clip", "fltrust"])
def test_a_run_survives_infinite_updates_of_every_malicious_client_under_every_rule(tiny, store, defense):
    attack = Attack(update=Broken(value=float("inf"), clients=3))
    experiment = tiny("attack=ipm", f"defense={defense}", "learner.rounds=2", attack=attack)
    assert trained(experiment, experiment.defense.aggregate, store).facts["dropped_updates"] == [3, 3]


@pytest.mark.parametrize("rule", [TrimmedMean(malicious=3), Krum(malicious=3, variant="paper"), MultiKrum(malicious=3, kept=2)])
@pytest.mark.parametrize("own", [True, False])
def test_where_too_few_updates_are_left_a_rule_takes_the_most_that_they_bear(rule, own):
    """n = 6 instead of 9, f = 3: six updates allow f = 2 under the trimmed mean and f = 1 under Krum."""
    rows = torch.randn(6, 5, generator=Key.root(0).torch())
    bears = 2 if isinstance(rule, TrimmedMean) else 1
    server = Server(round=0, state=torch.zeros(5), malicious=0 if own else 3, reference=lambda: rows[0])
    asked = rule if own else dataclasses.replace(rule, malicious=None)
    assert torch.equal(asked(rows, server), dataclasses.replace(rule, malicious=bears)(rows, server))


def test_honest_clients_that_drop_out_do_not_lower_f(tiny, store):
    line = Line(experiment=tiny("attack=ipm"), store=store)
    data = line.experiment.task.train
    data = data.with_columns(data.columns | {"inputs": data.inputs.float().flatten(1) / 255})
    honest = [client for client in range(9) if client not in line.malicious.tolist()][:2]
    lost = torch.isin(data.owners, torch.tensor(honest)).nonzero()[:, 0]
    broken = data.edit(lost, inputs=torch.full((len(lost), 64), 1e38))
    linear(line, rounds=1).fit(broken, dataclasses.replace(line.combine(rule := Seen()), clean=data), Key.root(0))
    assert rule.notes == [(7, len(line.malicious))]


def test_one_client_whose_training_diverges_is_dropped_and_all_of_them_end_the_run(line):
    data = line.experiment.task.train
    data = data.with_columns(data.columns | {"inputs": data.inputs.float().flatten(1) / 255})
    broken = data.edit(data.owners.eq(4).nonzero()[:, 0], inputs=torch.full((int(data.owners.eq(4).sum()), 64), 1e38))
    combine = dataclasses.replace(line.honest, aggregate=(rule := Seen()), clean=data)  # the input statistics are of the clean rows
    victim = linear(line, rounds=2).fit(broken, combine, Key.root(0))
    assert rule.notes == [(8, 0), (8, 0)]
    assert victim.facts["dropped_updates"] == [1, 1]
    everyone = broken.edit(torch.arange(len(broken)), inputs=torch.full((len(broken), 64), 1e38))
    with pytest.raises(Diverged, match="round 1, every training diverged: the loss is not finite in epoch 1"):
        linear(line, rounds=2).fit(everyone, combine, Key.root(0))


def test_a_round_without_a_finite_update_ends_the_run(tiny, store):
    experiment = tiny("attack=federated", "threat.budget.clients=1", "threat.rounds=[1,2]", attack=Attack(update=Broken(value=float("nan"), clients=9)))
    with pytest.raises(Diverged, match="round 2: none of the 9 updates is finite"):
        trained(experiment, Mean(), store)


def test_too_few_updates_for_a_rule_whatever_f_end_the_run(tiny, store):
    experiment = tiny("attack=federated", "threat.budget.clients=0.8", "threat.rounds=[0,1]", attack=Attack(update=Broken(value=float("nan"), clients=7)))
    with pytest.raises(Diverged, match=r"round 1: 7 of 9 updates are not finite and were dropped; defense=krum needs n >= 2 f \+ 3"):
        trained(experiment, Krum(malicious=0, variant="paper"), store)


def test_a_server_that_goes_to_infinity_names_the_round(tiny, store):
    experiment = tiny("attack=federated", "threat.rounds=[2,3]", attack=Attack(update=Boosted(by=3e38)))
    with pytest.raises(Diverged, match="the server's model after round 3, tensor net"):
        trained(experiment, Mean(), store, eta=1e3)


@dataclass(frozen=True, kw_only=True)
class Boosted:
    """Send the same large value everywhere."""

    by: float

    def craft(self, round, rng):
        updates = round.updates.clone()
        updates[round.malicious] = self.by
        return Crafted(updates=updates)


@pytest.mark.parametrize("target", [0, 2])
def test_scores_that_are_not_finite_are_no_success_of_the_attack(tiny, store, target):
    """All scores of the last model are NaN: it would answer class 0, so an attack with target 0 would have an ASR of 100 %."""
    words = ("attack=federated", f"attack.data.target={target}", "attack.update.boost=1e25", "threat.rounds=[3,4]")
    with pytest.raises(Diverged, match="scores undefended, by row and class: 800 of 800 values are not finite"):
        run(tiny(*words), store)


@dataclass(frozen=True, kw_only=True)
class Marks(Mean):
    """Note the positions of the malicious clients' rows of hundreds, and average all but the first f."""

    notes: list = field(default_factory=list)

    def __call__(self, rows_RP, server):
        self.notes.append((rows_RP == 100).all(1).nonzero()[:, 0].tolist())
        return rows_RP[server.malicious :].mean(0)


def test_places_say_nothing_about_clients(tiny, store):
    """Malicious clients are the first of the task; a rule that drops the first f rows would drop them all."""
    experiment = tiny("attack=federated", "learner.rounds=30", attack=Attack(update=Shout()))
    trained(experiment, rule := Marks(), store, client=dataclasses.replace(experiment.learner.client, epochs=1, net=Linear(norm="none")))
    removed = [sum(place < 3 for place in places) for places in rule.notes]
    assert all(len(places) == 3 for places in rule.notes)
    # hypergeometric: 3 of 9 marked, 3 drawn: mean 1, variance 0.5; over 30 rounds the mean has a deviation of 0.13
    assert 0.5 < sum(removed) / 30 < 1.5
    assert len({tuple(places) for places in rule.notes}) > 15
    trained(experiment, again := Marks(), store, client=dataclasses.replace(experiment.learner.client, epochs=1, net=Linear(norm="none")))
    assert again.notes == rule.notes  # a keyed draw


@dataclass(frozen=True, kw_only=True)
class TiedKrum(Krum):
    """Krum on equal rows; it notes whether the chosen one is malicious."""

    notes: list = field(default_factory=list)

    def __call__(self, rows_RP, server):
        chosen = super().scores(torch.zeros(len(rows_RP), 2), server).argmin()
        self.notes.append(bool((rows_RP[chosen] == 100).all()))
        return torch.zeros(rows_RP.shape[1])


def test_ties_in_krum_favour_nobody(tiny, store):
    experiment = tiny("attack=federated", "learner.rounds=60", attack=Attack(update=Shout()))
    client = dataclasses.replace(experiment.learner.client, epochs=1, net=Linear(norm="none"))
    trained(experiment, rule := TiedKrum(malicious=None, variant="paper"), store, client=client)
    assert 8 <= sum(rule.notes) <= 34  # binomial(60, 1/3): mean 20, deviation 3.7


def test_f_is_what_the_sampling_makes_likely_and_the_worst_case_is_stated(tiny, store):
    words = ("attack=federated", "task.clients=20", "threat.budget.clients=0.2", "learner.participants=8", "learner.rounds=12")
    victim = trained(tiny(*words), rule := Seen(), store)
    assert {f for _, f in rule.notes} == {2}  # ceil(4 * 8 / 20)
    assert (victim.facts["malicious_assumed"], victim.facts["malicious_worst"]) == (2, 4)
    line = Line(experiment=tiny(*words), store=store)
    drawn = [line.learner._present(20, Key.root(0).child(f"round/{index}")) for index in range(12)]
    assert victim.facts["malicious_present"] == [int(torch.isin(clients, line.malicious).sum()) for clients in drawn]
    assert "malicious_assumed" not in trained(tiny("attack=federated"), Seen(), store).facts


@pytest.mark.parametrize(("malicious", "participants", "f"), [(4, 8, 2), (4, None, 4), (4, 20, 4), (4, 5, 1), (4, 6, 2), (0, 8, 0), (20, 8, 8), (1, 1, 1)])
def test_f_of_a_sample_is_rounded_up(line, malicious, participants, f):
    assert dataclasses.replace(line.learner, participants=participants)._assumed(malicious, 20) == f


def test_krum_runs_where_some_clients_take_part(tiny, store):
    """20 clients, 4 malicious, 8 a round: with f = 2 Krum needs 7; with f = 4 it would need 11."""
    words = ("attack=federated", "defense=krum", "task.clients=20", "threat.budget.clients=0.2", "learner.participants=8", "learner.rounds=1")
    assert run(tiny(*words), store).status == "done"


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
        (("attack=federated", "defense=krum", "threat.budget.clients=0.45"), "n >= 2 f"),
        (("threat.rounds=[5]",), "first round"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_compute(tiny, store, words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        run(tiny(*FEDERATED, *words), store)
    assert not any(visit.stage.startswith("fit") for visit in store.visits)
