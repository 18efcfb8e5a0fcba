import dataclasses

import pytest
import torch

from poisonbench.core.combine import honest
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Trained, Worded
from poisonbench.core.proof import strangers
from poisonbench.core.rng import Key
from poisonbench.forms.reals import Reals
from poisonbench.forms.tokens import Tokens
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyForm:
    """A network that does not say which forms it reads."""


@pytest.fixture
def line(tiny, store):
    return Line(experiment=tiny("learner=transfer"), store=store)


def parts(victim, prefix):
    return {name: value for name, value in victim.state().items() if name.startswith(prefix)}


def test_only_the_head_is_trained_and_the_extractor_comes_from_public_rows(line, store):
    data = line.experiment.task.train
    one, other = (line.learner.fit(data, line.honest, Key.root(seed)) for seed in (0, 1))
    assert all(torch.equal(value, parts(other, "extractor.")[name]) for name, value in parts(one, "extractor.").items())
    assert any(not torch.equal(value, parts(other, "last.")[name]) for name, value in parts(one, "last.").items())
    assert [visit.stage for visit in store.visits] == ["fit on public rows"]
    overlap = (line.experiment.task.public.inputs[:, None] == data.inputs[None]).flatten(2).all(2).any()
    assert not overlap


def test_victim_and_attacker_share_the_public_extractor(line, store):
    line.learner, line.surrogate  # noqa: B018
    assert sum(visit.made for visit in store.visits) == 1


def test_its_module_gives_its_scores_and_gradients_of_pixels(line):
    data = line.experiment.task.train
    victim = line.learner.fit(data, line.honest, Key.root(0))
    pixels = data.inputs[:4].float().requires_grad_()
    scores = victim.module(pixels)
    torch.testing.assert_close(scores.detach(), victim.scores(data.inputs[:4]))
    torch.testing.assert_close(victim.module.features(pixels).detach(), victim.features(data.inputs[:4]))
    scores.sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_its_module_lifts_what_its_extractor_reads(line, tiny, store):
    data = line.experiment.task.train
    pixels = line.learner.fit(data, line.honest, Key.root(0)).module
    assert torch.equal(pixels.lift(data.inputs[:4]), data.inputs[:4].float())
    assert not isinstance(pixels, Worded)

    texts = tiny("attack=none", "task=sentiment", "task.rows=90", "task.public=0.4", "learner=text", "learner.epochs=1")
    mixed = dataclasses.replace(line.experiment.learner, extractor=texts.learner)
    words = texts.task.train
    learner = mixed.with_public(texts.task.public, lambda learner, rows: learner.fit(rows, line.honest, Key.root(0)))
    victim = learner.fit(words, line.honest, Key.root(0))
    module, inputs = victim.module, words.inputs[:4]
    assert isinstance(module, Worded)
    assert torch.equal(module.table[inputs], module.lift(inputs))
    assert torch.equal(module.known, victim.extractor.module.known)
    torch.testing.assert_close(module(module.lift(inputs)).detach(), victim.scores(inputs), rtol=1e-4, atol=1e-5)


def test_it_survives_the_store_and_tuning_moves_the_head_alone(line):
    data = line.experiment.task.train
    victim = line.learner.fit(data, line.honest, Key.root(0))
    again = line.learner.restore(Trained.of(victim), data, honest(data))
    assert torch.equal(victim.scores(data.inputs), again.scores(data.inputs))
    tuned = line.learner.with_epochs(1).fit(data, line.honest, Key.root(1), victim)
    assert all(torch.equal(value, parts(tuned, "extractor.")[name]) for name, value in parts(victim, "extractor.").items())
    assert any(not torch.equal(value, parts(tuned, "last.")[name]) for name, value in parts(victim, "last.").items())


def test_without_public_rows_it_is_refused(tiny, store):
    with pytest.raises(ConfigError, match=r"set task\.public"):
        run(tiny("learner=transfer", "task.public=0"), store)


def test_an_extractor_reads_what_its_network_reads_and_any_form_if_that_does_not_say(tiny, store):
    learner = tiny("learner=transfer").learner
    words, reals = Tokens(vocabulary=("", "<unk>", "good")), Reals(names=("age",))
    assert strangers(learner, words) == [learner]
    anything = dataclasses.replace(learner, extractor=dataclasses.replace(learner.extractor, net=AnyForm()))
    assert strangers(anything, words) == strangers(anything, reals) == []


def test_pixel_defenses_on_features_are_skipped_with_a_reason(tiny, store):
    record = run(tiny("learner=transfer", "defense=adversarial_training"), store)
    assert record.status == "skipped"
    assert "perturbs pixels" in record.reason


MEMBER = ("defense=dpa", "defense.train.parts=3", "+learner@defense.train.member=transfer")


def test_an_ensemble_of_heads_is_rooted_in_the_public_rows_from_python_and_from_words(tiny, store):
    words = [f"defense.train.member.{name}" for name in ("extractor.epochs=2", "head.epochs=2", "extractor.batch_size=32")]
    experiment = tiny(*MEMBER, *words)
    assert len(experiment.task.public) > 0
    assert run(experiment, store).status == "done"
    plain = tiny("task.public=0.5", "defense=dpa", "defense.train.parts=3")
    member = experiment.defense.train.member
    python = dataclasses.replace(plain, defense=dataclasses.replace(plain.defense, train=dataclasses.replace(plain.defense.train, member=member)))
    assert run(python, store).metrics == run(experiment, store).metrics


def test_a_mapping_in_place_of_a_learner_is_refused_in_words(tiny):
    with pytest.raises(ConfigError, match="a Learner is needed"):
        tiny("defense=dpa", "defense.train.member={learner: small}")
