import torch

from poisonbench.core.attack import Honest, Round
from poisonbench.core.defense import AsTrained, KeepAll, Mean, NoCertificate, PassAll, Server
from poisonbench.core.learner import Batch, Moment, PlainStep, Plan, Unchanged
from poisonbench.core.rng import Key
from poisonbench.learn.objectives import CROSS_ENTROPY


def test_every_null_object_does_nothing():
    rows = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    server = Server(round=0, state=torch.zeros(2), malicious=0, reference=lambda: torch.zeros(2))
    everyone = torch.tensor([True, False])
    round_ = Round(updates=rows, visible=everyone, malicious=everyone, state=torch.zeros(2), index=0, eta=1.0)
    victim = object()
    assert Mean()(rows, server).tolist() == [2.0, 4.0]
    assert Honest().craft(round_, Key.root(0)).updates is rows
    assert KeepAll().judge(None, None, Key.root(0)) is None
    assert AsTrained().repair(victim, None, None, Key.root(0)).victim is victim
    assert PassAll().suspicion(victim, rows, None, Key.root(0)) is None
    assert NoCertificate().certify(victim, None) is None
    assert Unchanged()(victim) is victim


def test_the_plain_step_changes_nothing():
    step, losses = PlainStep(), torch.tensor([1.0, 2.0])
    batch = Batch(inputs=torch.zeros(2, 1), labels=torch.zeros(2, dtype=torch.int64), ids=torch.arange(2))
    plan = Plan(rows=2, epochs=1, steps=1, shape=(1,))
    moment = Moment(module=torch.nn.Linear(1, 1), plan=plan, epoch=0, step=0, rng=Key.root(0))
    batches = [torch.arange(2)]
    assert step.sample(batches, None, moment) is batches
    assert step.finish(moment.module, plan) == {}
    assert step.batch(batch, moment) is batch
    assert step.objective(CROSS_ENTROPY, moment) is CROSS_ENTROPY
    assert step.loss(losses, batch, moment) is losses
    step.update(moment)
    assert moment.module.weight.grad is None
