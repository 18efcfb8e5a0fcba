"""CleanGen by hand, and a victim of two models."""

import math

import pytest
import torch

from defenses.train.cleangen import CleanGen, GuidedNet, guided
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Trained
from poisonbench.core.rng import Key
from poisonbench.nets.gpt import Cache, begun
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line


def test_words_are_replaced_as_by_hand():
    """The first word is 0.8 / 0.1 = 8 times as likely and is replaced; its 0.8 goes to the words of the reference."""
    suspect, reference = torch.tensor([0.8, 0.15, 0.05]).log(), torch.tensor([0.1, 0.6, 0.3]).log()
    by_hand = torch.tensor([0.8 * 0.1, 0.15 + 0.8 * 0.6, 0.05 + 0.8 * 0.3])
    torch.testing.assert_close(guided(suspect, reference, 4.0).exp(), by_hand)
    torch.testing.assert_close(guided(suspect, reference, 9.0).exp(), torch.tensor([0.8, 0.15, 0.05]))  # all are kept
    torch.testing.assert_close(guided(suspect, reference, 1e-9).exp(), torch.tensor([0.1, 0.6, 0.3]))  # none is


def test_draws_of_the_two_models_have_these_probabilities():
    """The procedure of the paper for one word, played 200,000 times."""
    draws = Key.root(100).torch()
    suspect, reference = torch.randn(2, 6, generator=draws).mul(2).softmax(1)
    told = guided(suspect.log(), reference.log(), 1.5).exp()
    first = torch.multinomial(suspect, 200_000, replacement=True, generator=draws)
    second = torch.multinomial(reference, 200_000, replacement=True, generator=draws)
    kept = suspect[first] / reference[first] < 1.5
    counted = torch.where(kept, first, second).bincount(minlength=6) / 200_000
    assert 0.05 < kept.double().mean() < 0.95
    assert (counted - told).abs().max() < 4 * math.sqrt(0.25 / 200_000)


@pytest.fixture
def both(tiny, store):
    line = Line(experiment=tiny("task=world", "defense=cleangen"), store=store)
    return line, line.fit(line.defended, line.experiment.task.train, line.honest)


def test_both_models_are_stored_and_restored(both):
    line, victim = both
    again = line.defended.restore(Trained.of(victim), line.experiment.task.train, line.honest)
    inputs = line.experiment.task.test.inputs
    torch.testing.assert_close(again.scores(inputs), victim.scores(inputs), rtol=0, atol=0)
    assert again.facts["reference_rows"] == len(line.experiment.task.trusted) + len(line.experiment.task.public)
    assert isinstance(again.words, GuidedNet)


def test_the_models_are_those_of_all_rows_and_of_the_clean_rows(both):
    line, victim = both
    suspect = line.fit(line.learner, line.experiment.task.train, line.honest)
    torch.testing.assert_close(dict(victim.words.suspect.state_dict()), dict(suspect.words.state_dict()))
    plain, clean = line.experiment.learner, line.experiment.task.trusted.append(line.experiment.task.public)
    reference = plain.fit(clean, line.honest, line.stream("fit").child("reference"))
    torch.testing.assert_close(dict(victim.words.reference.state_dict()), dict(reference.words.state_dict()))


def test_a_cache_changes_nothing(both):
    """Scores with the words read so far kept are those of whole texts, and the sum of q is one."""
    _, victim = both
    texts, cache = torch.tensor([[5, 6, 7, 8]]), Cache()
    with torch.inference_mode():
        whole = victim.words(texts)
        parts = [victim.words.states(some, cache) for some in begun(texts).split([2, 1, 2], 1)]
        pieces = victim.words.head(torch.cat(parts, 1))
        repeated = victim.words.head(victim.words.states(torch.tensor([[9], [10]]), cache.repeated(2)))
        alone = victim.words(torch.tensor([[5, 6, 7, 8, 9]]))[:, -1]
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(repeated[:1, 0], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole.exp().sum(2), torch.ones(1, 5))


def test_a_large_ratio_leaves_the_suspected_model_as_it_is(tiny, store):
    line = Line(experiment=tiny("task=world", "defense=cleangen", "defense.train.alpha=1e9"), store=store)
    rows = line.experiment.task.train
    victim, suspect = line.fit(line.defended, rows, line.honest), line.fit(line.learner, rows, line.honest)
    inputs = line.experiment.task.test.inputs
    torch.testing.assert_close(victim.scores(inputs), suspect.scores(inputs), rtol=1e-3, atol=1e-3)
    assert torch.equal(victim.sample(inputs, Key.root(0)), suspect.sample(inputs, Key.root(0)))


def test_classifiers_are_skipped_and_clean_rows_are_needed(tiny, store):
    record = run(tiny("attack=text", "defense=cleangen"), store)
    assert record.status == "skipped"
    assert "writes word by word" in record.reason
    with pytest.raises(ConfigError, match="trusted"):
        run(tiny("task=world", "attack=none", "defense=cleangen", "task.trusted=0", "task.pretrained=false"), store)


def test_a_ratio_of_zero_is_refused():
    with pytest.raises(ConfigError, match="alpha"):
        CleanGen(alpha=0.0)
