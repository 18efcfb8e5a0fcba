"""Models of pictures and captions."""

import math

import pytest
import torch
from torch.nn import functional as F

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Column
from poisonbench.core.learner import Batch
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.pixels import Pixels
from poisonbench.forms.prompts import CAPTION, Prompts
from poisonbench.forms.tokens import Tokens
from poisonbench.learn.central import check_says
from poisonbench.learn.objectives import CROSS_ENTROPY, Contrast, matched
from poisonbench.nets.small import SmallCNN
from poisonbench.nets.text import MeanEmbedding
from poisonbench.nets.towers import PairNet, Towers
from poisonbench.runner.stages import Line

CNN = SmallCNN(widths=(8,), depths=(1,), pool="max", norm="batch")
WORDS = MeanEmbedding(width=8, min_count=1, words=100, dropout=0.0, scale=1.0, spread=1.0)
PAIRS = Towers(pictures=CNN, captions=WORDS, width=4, temperature=0.1)
VOCABULARY = ("", "<unk>", "a", "big", "cat", "dog")


def pairs(prompts=(((2, 4), (3, 4)), ((2, 5),)), rows=6):
    """Return rows of two classes with captions."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (rows, 1, 4, 4), generator=generator).to(torch.uint8)
    labels = torch.arange(rows) % 2
    data = Dataset.of(inputs, labels, num_classes=len(prompts), form=Pixels())
    captions = torch.where(labels[:, None] == 0, torch.tensor([[2, 4, 0]]), torch.tensor([[2, 5, 0]]))
    data = data.with_column(CAPTION, captions, Column(form=Tokens(vocabulary=VOCABULARY), role="said"))
    return data.with_answers(Prompts(size=len(prompts), listed=prompts))


def built(data):
    """Return a network for these rows, in evaluation mode."""
    with seeded(Key.root(0)):
        net = PAIRS.build(data)
    net.prepare(data.inputs)
    net.ear.prepare(data.extra[CAPTION])
    return net.eval()


def test_the_loss_is_that_of_both_directions_of_the_similarities():
    similar = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    batch = Batch(inputs=torch.zeros(2, 1), labels=torch.zeros(2, dtype=torch.int64), ids=torch.arange(2), extra={CAPTION: torch.zeros(2, 1)})
    losses = Contrast()(lambda *_: similar, batch, 0.0)
    first = (math.log(math.exp(2) + 1) - 2 + math.log(math.exp(2) + math.exp(1)) - 2) / 2
    second = (math.log(math.exp(1) + math.exp(3)) - 3 + math.log(1 + math.exp(3)) - 3) / 2
    assert losses.tolist() == pytest.approx([first, second])


def test_similarities_are_cosines_times_the_factor_and_the_factor_has_a_limit():
    data = pairs()
    net = built(data)
    pictures, captions = net.pictures(data.inputs.float()), net.captions(data.extra[CAPTION])
    assert torch.allclose(pictures.norm(dim=1), torch.ones(6))
    assert torch.allclose(net(data.inputs.float(), data.extra[CAPTION]), 10 * pictures @ captions.T, atol=1e-4)
    with torch.no_grad():
        net.log_scale.fill_(50.0)
    assert net.scale.item() == 100.0


def test_a_class_is_the_mean_of_its_captions_and_one_without_captions_is_never_the_answer():
    data = pairs(prompts=(((2, 4), (3, 4)), ((2, 5),), ()))
    net = built(data)
    pictures = net.pictures(data.inputs.float())
    texts = net.captions(torch.tensor([[2, 4], [3, 4], [2, 5]]))
    wanted = torch.stack([pictures @ F.normalize(texts[:2].mean(0), dim=0), pictures @ texts[2], -torch.ones(6)], 1) * 10
    scores = net(data.inputs.float())
    assert torch.allclose(scores, wanted, atol=1e-5)
    assert (scores.argmax(1) < 2).all()


def test_the_gradient_of_the_loss_is_the_shares_minus_one_on_the_diagonal():
    similar = torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    matched(similar).sum().backward()
    wanted = (similar.softmax(1) + similar.softmax(0)) / 2 - torch.eye(5)
    assert torch.allclose(similar.grad, wanted, atol=1e-6)


def test_rows_without_captions_and_other_objectives_are_refused(tiny):
    with pytest.raises(Incompatible, match="net=towers needs pictures with captions; choose task=crawl"):
        PAIRS.build(Dataset.of(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), num_classes=2, form=Pixels()))
    with pytest.raises(
        Incompatible, match=r"this network gives similarities of pictures and captions, and learner\.objective=CrossEntropy needs scores of classes"
    ):
        check_says(built(pairs()), CROSS_ENTROPY)
    with pytest.raises(ConfigError, match=r"learner\.ddp=true: a pair is compared"):
        tiny("task=crawl", "learner.ddp=true")


def test_a_victim_finds_classes_embeds_both_parts_and_comes_back_from_the_store(tiny, store):
    experiment = tiny("task=crawl", "learner.epochs=6", "attack=none")
    line = Line(experiment=experiment, store=store)
    rows = experiment.task.train
    victim = line.fit(line.learner, rows, line.honest)
    assert isinstance(victim.net, PairNet)
    test = experiment.task.trusted
    assert float((victim.scores(test.inputs).argmax(1) == test.labels).double().mean()) > 0.5
    pictures, captions = victim.embedded(test)
    assert torch.allclose(pictures.norm(dim=1), torch.ones(len(test)), atol=1e-5)
    fits, others = (pictures * captions).sum(1), (pictures * captions.roll(1, 0)).sum(1)
    assert fits.mean() > others.mean()
    assert torch.allclose(victim.losses(test), 1 - fits, atol=1e-5)
    asked = test.schema["labels"].form
    texts = F.pad(asked.texts[::8], (0, test.extra[CAPTION].shape[1] - asked.texts.shape[1]))
    chosen = victim.choose(test.inputs, texts.expand(len(test), -1, -1))
    assert torch.allclose(chosen, pictures @ victim.of_captions(texts).T, atol=1e-5)
    again = line.fit(line.learner, rows, line.honest)
    assert torch.equal(again.scores(test.inputs), victim.scores(test.inputs))


@pytest.mark.parametrize(("tower", "wide"), [("pictures", 32), ("captions", 64), ("both", 96)])
def test_filters_see_the_features_of_the_tower_that_the_recipe_names(tiny, store, tower, wide):
    experiment = tiny("task=crawl", "learner.epochs=1", f"learner.tower={tower}", "attack=none")
    line = Line(experiment=experiment, store=store)
    victim = line.fit(line.learner, experiment.task.train, line.honest)
    rows = experiment.task.trusted
    features = victim.row_features(rows)
    assert features.shape == (len(rows), wide)
    other = rows.with_columns(rows.columns | {CAPTION: rows.extra[CAPTION].roll(1, 0)})
    assert torch.equal(features, victim.row_features(other)) == (tower == "pictures")
