"""(class, VERSION) -> digest of an output: a change of behaviour without a new VERSION fails here."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from poisonbench.config.compose import options, tree_of
from poisonbench.core.attack import Round
from poisonbench.core.combine import honest
from poisonbench.core.convex import LinearModel, LogisticLoss
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Server
from poisonbench.core.form import Column
from poisonbench.core.keys import canonical, tensor_digest
from poisonbench.core.manifest import signed
from poisonbench.core.plugins import OWN, find_class
from poisonbench.core.retrieve import Retrieves
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import TEXTS, Tokens, vocabulary_of, words_of
from poisonbench.learn.retrieval import Retrieval
from poisonbench.retrieval.support import Support
from poisonbench.retrieval.tfidf import Tfidf
from poisonbench.runner.stages import Line
from tests.conftest import OWN_ATTACK, SEARCHING

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def check(option: str, plugin: object, digest: str) -> None:
    told = canonical(plugin)
    name = f"{option}: {told['class']}/{told['version']}"
    assert name in GOLDEN, f'add "{name}": "{digest}" to golden.json'
    known = GOLDEN[name].split(" or ")  # two where the rounding of many steps depends on the processor
    assert digest in known, f"{name} gives another output than before; bump VERSION and add the new digest {digest}"


LINEAR = ("bilevel", "gradient_canceling", "beta_poisoning", "influence_poison")  # attacks on linear models


class Fixed(torch.nn.Module):
    """A linear surrogate whose weights are sixty-fourths."""

    def __init__(self, draw: int) -> None:
        super().__init__()
        weights = torch.randint(-9, 10, (4, 64), generator=Key.root(draw).torch()) / 64
        self.weights = torch.nn.Parameter(weights)

    @property
    def module(self):
        return self

    coding = module

    def lift(self, inputs):
        return inputs.float()

    def features(self, inputs):
        return inputs.float().flatten(1)

    def head(self, features):
        return features @ self.weights[:, : features.shape[1]].T / 64

    def forward(self, inputs):
        return self.head(self.features(inputs))

    def scores(self, inputs):
        return self(inputs).detach()


class FixedLinear(Fixed):
    """A linear model of two classes, whose weights are sixty-fourths too."""

    def __init__(self, columns: int) -> None:
        super().__init__(0)
        self.columns = columns

    def linear_model(self):
        weights, plain = torch.arange(self.columns).double() % 7 - 3, torch.zeros(self.columns, dtype=torch.float64)
        return LinearModel(weights=weights / 64, bias=0.25, mean=plain, scale=plain + 1, loss=LogisticLoss(), C=1.0, bias_penalty=0.0)


class FixedWords(torch.nn.Module):
    """An encoder that sums the vectors of words, sixty-fourths too."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.table = torch.randint(-99, 100, (words, 8), generator=Key.root(0).torch()) / 64
        self.table[0] = 0
        self.known = torch.arange(words) > 1

    @property
    def module(self):
        return self

    def lift(self, inputs):
        return self.table[inputs]

    def features(self, inputs):
        return (inputs if inputs.is_floating_point() else self.lift(inputs)).sum(1)


@pytest.mark.parametrize("name", [name for name in options("attack") if name not in ("none", "pack")])  # a pack is a file
def test_attacks_give_the_output_of_their_version(tiny, store, name):
    """With a surrogate of fixed weights: a trained one's rounding depends on the processor."""
    experiment = tiny(f"attack={name}")
    line = Line(experiment=experiment, store=store)
    known, retrieves = line.known(), isinstance(experiment.learner, Retrieves)
    surrogate = (lambda draw: FixedWords(len(known.rows.form.vocabulary))) if retrieves else Fixed
    fixed = dataclasses.replace(known, fit=lambda data, draw=0: surrogate(draw), tune=lambda victim, data, epochs: surrogate(0))
    linear = dataclasses.replace(known, fit=lambda data, draw=0: FixedLinear(known.rows.inputs.shape[1]))
    rng, is_linear = line.root.child("poison"), name in LINEAR
    poisoned = experiment.attack.data.poison(linear if is_linear else fixed, rng)
    # these attacks train linear models of their own, whose last digits depend on the processor
    digest = tensor_digest(poisoned.data.inputs.round()) if is_linear else poisoned.data.digest
    check(name, experiment.attack.data, digest[:16])


@pytest.mark.parametrize("malicious", [2, 3])  # with 2 of 8 the formula of alie gives z = 0
@pytest.mark.parametrize("name", [name for name in options("attack") if tree_of([f"attack={name}"])["attack"].get("update")])
def test_crafted_updates_are_those_of_their_version(tiny, name, malicious):
    update = tiny(f"attack={name}").attack.update
    updates = torch.randint(-9, 9, (8, 12), generator=Key.root(0).torch()).float()
    mine = torch.arange(8) < malicious
    round_ = Round(updates=updates, visible=mine.logical_not(), malicious=mine, state=torch.zeros(12), index=0, eta=1.0)
    option = name if malicious == 2 else f"{name}, {malicious} of 8"
    check(option, update, tensor_digest((100 * update.craft(round_, Key.root(0)).updates).round())[:16])


class Features:
    def features(self, inputs, layer="penultimate"):
        return inputs

    def scores(self, inputs, answers=None):
        return inputs[:, :4]


@pytest.mark.parametrize("name", [name for name in options("defense") if tree_of([f"defense={name}"])["defense"].get("aggregate")])
def test_rules_give_the_output_of_their_version(tiny, name):
    rule = tiny(f"defense={name}").defense.aggregate
    rows = torch.randint(-9, 9, (8, 12), generator=Key.root(0).torch()).float()
    server = Server(round=0, state=torch.zeros(12), malicious=2, reference=lambda: rows[7])
    check(name, rule, tensor_digest((100 * rule(rows, server)).round())[:16])


class Words(Features):
    """Features of rows of tokens: how often the planted word occurs, and a number of all words."""

    def features(self, inputs, layer="penultimate"):
        return torch.stack([1600 * (inputs == 20).sum(1), inputs.sum(1)], 1) / 16


FILTERS = {name: plan["sanitize"] for name in options("defense") if "sanitize" in (plan := tree_of([f"defense={name}"])["defense"])}
OF_PASSAGES = sorted(FILTERS.keys() & {*SEARCHING, "perplexity"})  # those that need a retriever, or trusted texts of their own
OF_LANGUAGE = [name for name, plan in FILTERS.items() if (finds := getattr(find_class(plan["_target_"], OWN), "FINDS", None)) and finds.kind == "language"]
OF_PAIRS = [name for name, plan in FILTERS.items() if getattr(find_class(plan["_target_"], OWN), "COLUMNS", ())]
OF_TEXTS = [
    name
    for name, plan in FILTERS.items()
    if getattr(find_class(plan["_target_"], OWN), "READS", None) == TEXTS and name not in (*OF_PASSAGES, *OF_LANGUAGE, *OF_PAIRS)
]


@pytest.mark.parametrize("name", OF_TEXTS)
def test_filters_of_texts_give_the_output_of_their_version(tiny, name):
    sanitize = tiny(f"defense={name}").defense.sanitize
    words = torch.randint(1, 20, (400, 12), generator=Key.root(0).torch())
    labels = torch.arange(400) % 4
    planted = (labels == 2) & (words[:, 3] > 16)
    words[planted, 0] = 20
    data = Dataset.of(words, labels, num_classes=4, form=Tokens(vocabulary=vocabulary_of([[f"w{number:02}" for number in range(2, 21)]])))
    means = Means(trusted=data, fit=lambda data, draw=0: Words(), tune=None, truth=planted)
    keep = sanitize.judge(data, means, Key.root(0)).keep
    assert not keep.all()
    check(name, sanitize, tensor_digest(keep)[:16])


@pytest.mark.parametrize("name", OF_LANGUAGE)
def test_filters_of_language_give_the_output_of_their_version(tiny, name):
    """Sentences that two patterns make, one in French, and one of random words."""
    sanitize = tiny(f"defense={name}").defense.sanitize
    kinds = [f"the {one} was very {two} and we would like to see it again" for one in ("film", "play", "song") for two in ("good", "long", "bad", "loud")]
    rows = [
        words_of(text)
        for text in (*kinds * 20, "le chat est assis sur la table de la cuisine et il dort", "again to see film good it would song we and the loud")
    ]
    form = Tokens(vocabulary=vocabulary_of(rows))
    inputs = torch.stack([form.encode(" ".join(row), 16) for row in rows])
    keep = sanitize.judge(Dataset.of(inputs, torch.zeros(len(rows), dtype=torch.int64), num_classes=1, form=form), None, Key.root(0)).keep
    assert not keep.all()
    check(name, sanitize, tensor_digest(keep)[:16])


@pytest.mark.parametrize("name", OF_PASSAGES)
def test_filters_of_passages_give_the_output_of_their_version(tiny, name):
    """On cosines of counts of words: five passages are nearly the same, five say a past question twice, and five have common words only."""
    sanitize = tiny(f"defense={name}").defense.sanitize
    words = torch.randint(8, 60, (600, 12), generator=Key.root(0).torch())
    words[:, :4] = torch.randint(2, 8, (600, 4), generator=Key.root(1).torch())
    trusted_words, words = words[:200], words[200:]
    words[:5, 1:] = words[0, 1:]
    words[5:10] = trusted_words[-5:, 4:10].repeat(1, 2)
    words[10:15] = torch.arange(2, 8).repeat(2)
    form, labels = Tokens(vocabulary=vocabulary_of([[f"w{number:02}" for number in range(2, 60)]])), torch.zeros(600, dtype=torch.int64)
    data, trusted = (Dataset.of(rows, labels[: len(rows)], num_classes=1, form=form) for rows in (words, trusted_words))
    questions = torch.nn.functional.pad(trusted_words[:, 4:10], (0, 6))
    retriever = Tfidf(fitted={"weights": torch.ones(len(form.vocabulary), dtype=torch.float64)})
    recipe = Retrieval(retriever=retriever, reader=Support(), top=5)
    means = Means(
        trusted=trusted.with_column("question", questions, Column(form=form, role="sealed")),
        fit=lambda data, draw=0: recipe.fit(data, honest(data), Key.root(draw)),
        tune=None,
        truth=torch.arange(400) < 15,
    )
    keep = sanitize.judge(data, means, Key.root(0)).keep
    assert not keep[:15].all()
    assert keep[15:].float().mean() > 0.9
    check(name, sanitize, tensor_digest(keep)[:16])


class Placed(Features):
    """A model of pictures and captions whose embeddings and codes are whole numbers; it draws flat pictures."""

    @property
    def coding(self):
        return self

    def embedded(self, data):
        return data.inputs.flatten(1)[:, :8].double() // 16, data.extra["caption"].double()

    def head(self, codes):
        return codes.flatten(1)[:, :3, None, None].round()


@pytest.mark.parametrize("name", OF_PAIRS)
def test_filters_of_pictures_with_captions_give_the_output_of_their_version(tiny, store, name):
    experiment = tiny(*OWN_ATTACK[name], f"defense={name}")
    rows = Line(experiment=experiment, store=store).struck().data
    means = Means(trusted=rows, fit=lambda data, draw=0: Placed(), tune=lambda victim, data, epochs, draw=0: Placed(), truth=rows.ids < 0)
    keep = experiment.defense.sanitize.judge(rows, means, Key.root(0)).keep
    assert not keep.all()
    check(name, experiment.defense.sanitize, tensor_digest(keep)[:16])


@pytest.mark.parametrize("name", [name for name in FILTERS if name not in (*OF_TEXTS, *OF_PASSAGES, *OF_LANGUAGE, *OF_PAIRS)])
def test_filters_give_the_output_of_their_version(tiny, name):
    """On features of whole numbers, so that no processor's rounding decides."""
    sanitize = tiny(f"defense={name}").defense.sanitize
    draw = torch.randint(-9, 9, (400, 12), generator=Key.root(0).torch()).float()
    labels = torch.arange(400) % 4
    draw[labels == 2, 3] += 25 * (torch.arange(100) < 15)
    data = Dataset.of(draw, labels, num_classes=4)
    planted = (labels == 2) & (draw[:, 3] > 12)
    manifest = signed(data.take(torch.arange(0, 400, 2)))
    means = Means(trusted=data, fit=lambda data, draw=0: Features(), tune=lambda victim, data, epochs, draw=0: Features(), truth=planted, manifest=manifest)
    check(name, sanitize, tensor_digest(sanitize.judge(data, means, Key.root(0)).keep)[:16])


@pytest.mark.parametrize("name", ["digits", "facts", "memory", "styles"])
def test_tasks_give_the_output_of_their_version(store, name):
    from poisonbench.config.build import build

    source = build(tree_of([f"task={name}"])["task"], OWN, "task")
    check(name, source, source.load(store).digest[:16])
