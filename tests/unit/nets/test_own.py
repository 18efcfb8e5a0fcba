"""A user's own network: its identity, the checks of its answers, and its use in every part of a run."""

import contextlib
import functools
import re
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import poisonbench
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.identity import identity
from poisonbench.core.rng import Key, seeded
from poisonbench.nets.own import OwnNet
from tests.unit.nets.likes import like

SHAPE, CLASSES = (1, 4, 4), 3
SCALE = 1.0


class Functional(nn.Module):
    """A network whose behaviour depends on plain attributes."""

    def __init__(self, act=F.relu, rate=0.0, scale=1.0, between=nn.Identity):
        super().__init__()
        self.act, self.rate, self.scale = act, rate, scale
        self.first, self.between, self.last = nn.Linear(16, 8), between(), nn.Linear(8, CLASSES)

    def forward(self, inputs):
        hidden = self.between(self.act(self.first(inputs.flatten(1))))
        return self.last(F.dropout(hidden, self.rate, self.training)) * self.scale


class Global(Functional):
    def forward(self, inputs):
        return super().forward(inputs) * SCALE


class Answers(nn.Module):
    """A network that returns something other than scores."""

    def __init__(self, form):
        super().__init__()
        self.form, self.layer = form, nn.Linear(16, CLASSES)

    def forward(self, inputs):
        return self.form(self.layer(inputs.flatten(1)), self.training)


def own(make, name=None) -> OwnNet:
    return OwnNet(make=make, shape=SHAPE, num_classes=CLASSES, name=name)


def fresh(**kwargs) -> nn.Module:
    with seeded(Key.root(5)):
        return Functional(**kwargs)


DIFFER = {
    "an activation": {"act": torch.tanh},
    "a dropout rate": {"rate": 0.5},
    "a scale": {"scale": 0.5},
    "a layer without weights": {"between": functools.partial(nn.Dropout, 0.5)},
    "a setting of a layer": {"between": functools.partial(nn.Softplus, beta=2)},
}


@pytest.mark.parametrize("what", DIFFER)
def test_networks_that_differ_in_a_plain_attribute_are_told_apart(what):
    assert own(fresh()).content == own(fresh()).content
    assert own(fresh()).content != own(fresh(**DIFFER[what])).content


def test_what_no_answer_shows_tells_networks_apart_by_the_code_alone():
    """Two networks that give equal answers now and may differ later: a hook, a global number, a method."""
    hooked = fresh()
    hooked.register_forward_hook(lambda module, given, answer: answer)
    assert own(hooked).content != own(fresh()).content
    assert own(fresh()).content != own(type("Functional", (Functional,), {"extra": lambda self: 1})()).content


def test_a_global_that_the_code_names_counts(monkeypatch):
    def made():
        with seeded(Key.root(5)):
            return Global()

    before = identity(made).digest
    monkeypatch.setitem(Global.forward.__globals__, "SCALE", 2.0)
    assert identity(made).digest != before


def test_closures_defaults_and_arguments_count():
    def maker(rate, act=F.relu):
        return lambda: Functional(act, rate)

    digests = [identity(made).digest for made in (maker(0.1), maker(0.1), maker(0.2), maker(0.1, torch.tanh), functools.partial(Functional, F.relu, 0.1))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_what_cannot_be_looked_at_is_shared_with_nobody_unless_it_has_a_name():
    held = fresh()
    held.lock = threading.Lock()
    held_make = lambda: held_copy(held)  # noqa: E731
    with pytest.warns(UserWarning, match="lock"):
        contents = {own(held_make).content for _ in range(2)}
    assert len(contents) == 2
    assert len({own(held_make, name="mine").content for _ in range(2)}) == 1


def held_copy(held):
    copied = fresh()
    copied.load_state_dict(held.state_dict())
    return copied


def test_values_inside_collections_count():
    same = [identity(value).digest for value in ({"a": [1, {2.0}]}, {"a": [1, {2.0}]})]
    assert same[0] == same[1]
    others = ({"a": [1, {3.0}]}, {"b": [1, {2.0}]}, {"a": (1, {2.0})}, [torch.ones(2)], [torch.zeros(2)], slice(1, 2), range(3))
    assert len({identity(value).digest for value in others} | set(same)) == 1 + len(others)
    ring: list[object] = []
    ring.append(ring)
    assert not identity(ring).unknown
    assert identity(threading.Lock()).unknown


REFUSED = {
    "returns a tuple in evaluation": lambda scores, training: (scores, scores),
    "returns a tuple in training": lambda scores, training: (scores, scores) if training else scores,
    "returns a dict": lambda scores, training: {"logits": scores},
    "scores 1 classes, the task has 3": lambda scores, training: scores[:, :1],
    r"returns the shape \(4,\)": lambda scores, training: scores.sum(1),
    r"returns torch\.int64": lambda scores, training: scores.argmax(1, keepdim=True).expand(-1, CLASSES),
    "fails in evaluation": lambda scores, training: scores.view(-1, 7),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_anything_but_scores_is_refused_once_in_one_sentence(sentence):
    with pytest.raises(ConfigError, match=sentence) as told:
        own(lambda: Answers(REFUSED[sentence]))
    assert "\n" not in str(told.value)


def test_features_are_those_of_the_last_linear_layer_that_is_called():
    class Twisted(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body, self.unused = nn.Linear(8, CLASSES), nn.Linear(16, 8), nn.Linear(2, CLASSES)

        def forward(self, inputs):
            return self.head(torch.relu(self.body(inputs.flatten(1))))

    module, inputs = own(Twisted).build(like(SHAPE, CLASSES)).net, torch.rand(2, *SHAPE)
    assert module.features(inputs).shape == (2, 8)
    torch.testing.assert_close(module.head(module.features(inputs)), module(inputs))


def test_an_auxiliary_head_is_not_the_head():
    class Auxiliary(Functional):
        def __init__(self):
            super().__init__()
            self.aside = nn.Linear(16, CLASSES)

        def forward(self, inputs):
            scores = super().forward(inputs)
            self.aside(inputs.flatten(1))
            return scores

    assert own(Auxiliary).build(like(SHAPE, CLASSES)).net.features(torch.rand(2, *SHAPE)).shape == (2, 8)


def test_a_network_without_a_linear_head_trains_and_has_no_features():
    module = own(lambda: nn.Sequential(nn.Conv2d(1, CLASSES, 4), nn.Flatten())).build(like(SHAPE, CLASSES)).net
    assert module(torch.rand(2, *SHAPE)).shape == (2, CLASSES)
    with pytest.raises(Incompatible, match="has no features"):
        module.features(torch.rand(2, *SHAPE))


def test_lazy_layers_find_out_their_widths():
    module = own(lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, CLASSES))).build(like(SHAPE, CLASSES)).net
    assert module.features(torch.rand(2, *SHAPE)).shape == (2, 8)


def test_trying_a_network_leaves_it_as_it_was():
    held = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    held[2].eval()
    split = own(held).build(like(SHAPE, CLASSES)).net
    assert split.drifts
    assert not split.alone
    assert int(split.module[2].num_batches_tracked) == int(held[2].num_batches_tracked) == 0
    assert split.module.training
    assert not split.module[2].training


def task():
    labels = torch.arange(240) % CLASSES
    pixels = torch.randint(0, 60, (240, *SHAPE), generator=Key.root(0).torch()) + 70 * labels.view(-1, 1, 1, 1)
    return poisonbench.own_task(train=(pixels[:180].to(torch.uint8), labels[:180]), test=(pixels[180:].to(torch.uint8), labels[180:]))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, inputs):
        return self.head(self.block(self.embed(inputs[:, 0])).mean(1))


KINDS = {
    "BatchNorm1d": functools.partial(Functional, between=functools.partial(nn.BatchNorm1d, 8)),
    "functional": functools.partial(Functional, F.gelu, 0.2),
    "tuple": functools.partial(Answers, REFUSED["returns a tuple in evaluation"]),
    "auxiliary": functools.partial(Answers, REFUSED["returns a tuple in training"]),
    "attention": Attention,
    "no linear head": lambda: nn.Sequential(nn.Conv2d(1, CLASSES, 4), nn.Flatten()),
}
PATCH = ("attack=backdoor", "attack.data.size=1", "learner.batch_size=30")
LINES = {
    "central": (*PATCH,),
    "federated": ("attack=sign_flip", "learner.rounds=12", "task.clients=6"),
    "dpa": (*PATCH, "defense=dpa", "defense.train.parts=4"),
    "dp_sgd": (*PATCH, "defense=dp_sgd", "defense.train.step.delta=1e-3"),
    "fine_pruning": (*PATCH, "defense=fine_pruning"),
    "spectral": (*PATCH, "defense=spectral"),
    "neural_cleanse": (*PATCH, "defense=neural_cleanse", "defense.repair.steps=5"),
}
NO_FEATURES, NO_PRUNING = "has no features", "cannot be switched off permanently"
EXPECTED = {
    ("tuple", "every line"): ("refused", "returns a tuple in evaluation"),
    ("auxiliary", "every line"): ("refused", "returns a tuple in training"),
    ("BatchNorm1d", "federated"): ("refused", "cannot combine running statistics"),
    ("BatchNorm1d", "dp_sgd"): ("refused", "batch normalisation mixes them"),
    ("attention", "dp_sgd"): ("refused", "cannot follow single rows through this network"),
    ("BatchNorm1d", "fine_pruning"): ("skipped", NO_PRUNING),
    ("functional", "fine_pruning"): ("skipped", NO_PRUNING),
    ("attention", "fine_pruning"): ("skipped", NO_PRUNING),
    ("no linear head", "fine_pruning"): ("skipped", NO_FEATURES),
    ("no linear head", "spectral"): ("skipped", NO_FEATURES),
}


def test_another_attribute_has_other_figures_in_one_store(tmp_path):
    words = ("attack=none", "learner.epochs=3", "learner.batch_size=30", "threads=1")
    records = [poisonbench.run(*words, task=task(), net=fresh(act=act), results_dir=str(tmp_path)) for act in (F.relu, torch.zeros_like, F.relu)]
    assert records[0].metrics["c_acc"] > records[1].metrics["c_acc"] + 0.3
    assert records[0].result_digest == records[2].result_digest


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_walks_every_line_or_is_refused_in_a_sentence(tmp_path, kind, line):
    words = (*LINES[line], "learner.epochs=12" if line != "federated" else "learner.client.epochs=4", "threads=1")
    expected = EXPECTED.get((kind, line)) or EXPECTED.get((kind, "every line"))
    if expected is None:
        record = poisonbench.run(*words, task=task(), net=KINDS[kind], results_dir=str(tmp_path))
        assert record.status == "done"
        assert record.baseline["c_acc"] > 0.8
        assert record.metrics["c_acc"] > 0.4
    else:
        status, sentence = expected
        with pytest.raises(ConfigError, match=sentence) if status == "refused" else contextlib.nullcontext():
            record = poisonbench.run(*words, task=task(), net=KINDS[kind], results_dir=str(tmp_path))
            assert record.status == "skipped"
            assert re.search(sentence, record.reason)


def test_batches_of_one_row_are_refused_for_a_network_that_cannot_train_on_them(tmp_path):
    net = functools.partial(Functional, between=functools.partial(nn.BatchNorm1d, 8))
    words = ("attack=none", "learner.epochs=1", "threads=1")
    assert poisonbench.run(*words, "learner.batch_size=30", task=task(), net=net, results_dir=str(tmp_path)).status == "done"
    with pytest.raises(ConfigError, match=r"cannot train on a batch of one row; raise learner\.batch_size"):
        poisonbench.run(*words, "learner.batch_size=1", task=task(), net=net, results_dir=str(tmp_path))
