"""Language models: what is learned, how likely an answer is, and what is written."""

import dataclasses
import itertools
import math
from types import MappingProxyType

import pytest
import torch

from poisonbench.core.combine import honest
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.form import Column
from poisonbench.core.learner import Batch, Trained
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGE, STAGE_COLUMN, STAGES
from poisonbench.forms.answers import Answers
from poisonbench.forms.tokens import SPECIAL, Tokens, whole_texts
from poisonbench.learn.descent import AdamDescent, Descent, Group
from poisonbench.learn.language import Language
from poisonbench.learn.objectives import NextWord
from poisonbench.learn.tuned import Tuned
from poisonbench.nets.gpt import Gpt

FORM = Tokens(vocabulary=(*SPECIAL, *"abcd"))
A, B, C, D = range(2, 6)
ANSWERS = Answers.of([(A,), (B,), (C, D), (C,)])


def recipe(**fields) -> Language:
    given = {
        "net": Gpt(width=8, layers=1, heads=2, spread=0.5),
        **{"epochs": 1, "batch_size": 4, "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.1},
        **{"label_smoothing": 0.0, "crop": 0, "flip": False, "cutout": 0, "precision": "fp32", "optimizer": "adamw", "clip": 1.0},
        **{"objective": NextWord(), "temperature": 0.0, "device": "cpu"},
    }
    return Language(**given | fields)


def rows(prompts, responses, labels=None, stages=None) -> Dataset:
    labels = torch.zeros(len(prompts), dtype=torch.int64) if labels is None else torch.tensor(labels)
    data = Dataset.of(torch.tensor(prompts), labels, num_classes=ANSWERS.size, form=FORM).with_answers(ANSWERS)
    data = data.with_column("response", torch.tensor(responses), Column(form=FORM, role="said"))
    return data if stages is None else data.with_column(STAGE, torch.tensor(stages), STAGE_COLUMN)


DATA = rows([[A, B, 0], [B, 0, 0], [A, A, D]], [[C, D], [A, 0], [0, 0]])


@pytest.fixture
def victim():
    return recipe().begin(DATA, Key.root(100))


def test_the_words_of_the_response_and_its_end_count_and_a_row_without_one_counts_whole():
    texts, counted = whole_texts(DATA.inputs, DATA.extra["response"])
    assert texts.tolist() == [[A, B, C, D], [B, A, 0, 0], [A, A, D, 0]]
    assert counted.int().tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0], [1, 1, 1, 0, 0]]  # the last text fills its row, so nothing says that it ends


def test_a_text_that_does_not_fill_its_row_ends():
    assert whole_texts(torch.tensor([[A, B, 0]]), None)[1].int().tolist() == [[1, 1, 1]]


def test_the_loss_is_the_mean_over_the_words_that_count_by_hand():
    scores = torch.randn(3, 5, 6, generator=Key.root(1).torch(), dtype=torch.float64)
    batch = Batch(inputs=DATA.inputs, labels=DATA.labels, ids=DATA.ids, form=FORM, extra=DATA.extra)
    losses = NextWord()(lambda texts: scores, batch, 0.0)
    logs = scores.log_softmax(2)
    wanted = [logs[0, 2, C] + logs[0, 3, D] + logs[0, 4, 0], logs[1, 1, A] + logs[1, 2, 0], logs[2, 0, A] + logs[2, 1, A] + logs[2, 2, D]]
    torch.testing.assert_close(losses, -torch.stack(wanted) * 3 / 8)
    torch.testing.assert_close(losses.mean(), -torch.stack(wanted).sum() / 8)


def test_the_gradient_of_the_loss_is_that_of_finite_differences():
    scores = torch.randn(3, 5, 6, generator=Key.root(1).torch(), dtype=torch.float64, requires_grad=True)
    batch = Batch(inputs=DATA.inputs, labels=DATA.labels, ids=DATA.ids, form=FORM, extra=DATA.extra)
    (slope,) = torch.autograd.grad(NextWord()(lambda texts: scores, batch, 0.1).sum(), scores)
    place, step = (0, 2, C), 1e-2
    moved = [
        scores.detach().index_put(tuple(torch.tensor([i]) for i in place), torch.tensor([scores[place].item() + sign * step]).double()) for sign in (1, -1)
    ]
    up, down = (NextWord()(lambda texts, each=each: each, batch, 0.1).sum().item() for each in moved)
    assert (up - down) / (2 * step) == pytest.approx(slope[place].item(), abs=1e-4)


def test_an_answer_is_as_likely_as_its_words_and_the_end_after_them(victim):
    found = victim.scores(DATA.inputs[:2])
    for row, prompt in enumerate(([A, B], [B])):
        for number, answer in enumerate(ANSWERS.listed):
            text = torch.tensor([[*prompt, *answer]])
            logs = victim.net(text).detach().float().log_softmax(2)[0]
            wanted = sum(logs[len(prompt) + place, word] for place, word in enumerate((*answer, 0)))
            assert found[row, number].item() == pytest.approx(wanted.item(), abs=1e-5)


def test_the_last_score_is_that_of_all_other_texts(victim):
    scores = victim.scores(DATA.inputs)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3), rtol=1e-4, atol=1e-4)


def test_the_most_likely_words_are_written_without_a_temperature(victim):
    written = victim.sample(DATA.inputs, Key.root(0))
    prompts = [[A, B], [B], [A, A, D]]
    for row, prompt in enumerate(prompts):
        for number in range(2):
            best = int(victim.net(torch.tensor([[*prompt]]))[0, len(prompt)].argmax())
            assert int(written[row, number]) == best
            if best == 0:
                break
            prompt = [*prompt, best]


def test_drawn_words_have_their_probabilities():
    victim = recipe(temperature=1.0).begin(DATA, Key.root(100))
    prompts = torch.tensor([[A, B, 0]]).expand(6000, -1)
    first = victim.sample(prompts, Key.root(3))[:, 0]
    shares = victim.net(torch.tensor([[A, B]]))[0, 2].softmax(0)
    counts = first.bincount(minlength=6) / 6000
    assert (counts - shares).abs().max() < 4 * math.sqrt(0.25 / 6000)


def test_what_is_written_after_a_prompt_depends_on_no_other_prompt():
    victim = recipe(temperature=1.0).begin(DATA, Key.root(100))
    many = torch.tensor([list(text) for text in itertools.product((A, B, C, D), repeat=3)])
    whole = victim.sample(many, Key.root(3))
    assert torch.equal(victim.sample(many[:7], Key.root(3)), whole[:7])


def test_the_logs_of_a_text_sum_to_its_probability(victim):
    logs = victim.logs(DATA.inputs[:1])
    scores = victim.net(torch.tensor([[A, B]])).detach().log_softmax(2)[0]
    torch.testing.assert_close(logs[0], torch.tensor([scores[0, A], scores[1, B], scores[2, 0], 0.0]), rtol=1e-5, atol=1e-5)


def test_a_task_without_answers_has_no_scores(victim):
    plain = dataclasses.replace(victim, like=Dataset.of(DATA.inputs, DATA.labels, num_classes=2, form=FORM))
    with pytest.raises(Incompatible, match="this task has none"):
        plain.scores(DATA.inputs)


def test_a_network_for_classes_is_refused_with_words_and_the_other_way_round(tiny):
    learner = tiny("attack=text").learner
    text = tiny("attack=text").task.train
    with pytest.raises(Incompatible, match="needs scores of the next word"):
        dataclasses.replace(learner, objective=NextWord()).check(text, honest(text))
    with pytest.raises(Incompatible, match="needs scores of classes"):
        dataclasses.replace(learner, net=Gpt(width=8, layers=1, heads=2, spread=0.5)).check(text, honest(text))


def test_adamw_takes_the_steps_of_the_library():
    start = torch.randn(4, 3, generator=Key.root(0).torch())
    mine, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    descent = AdamDescent([Group(weights=[mine], lr=0.1, weight_decay=0.01)], clip=0.0)
    library = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=0.01)
    for number in range(4):
        for weight in (mine, theirs):
            weight.grad = torch.full_like(weight, number - 1.5) * torch.arange(3.0)
        descent.step(1.0)
        library.step()
    torch.testing.assert_close(mine, theirs)


def test_a_clip_shortens_the_gradient_of_all_weights_together():
    one, other = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    one.grad, other.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    Descent([Group(weights=[one, other], lr=1.0, weight_decay=0.0)], momentum=0.0, clip=1.0).step(1.0)
    torch.testing.assert_close(torch.cat([one, other]).detach(), -torch.tensor([0.6, 0.0, 0.8]), rtol=1e-4, atol=1e-4)


def tuned(**fields) -> Tuned:
    return Tuned(**{name: recipe(**{"lr": 0.05, "epochs": 3} | fields) for name in STAGES})


STAGED = rows([[A, B, 0], [B, 0, 0], [A, A, 0], [B, B, 0]], [[0, 0], [A, 0], [C, D], [B, 0]], stages=[0, 1, 1, 4])


def test_stages_are_trained_in_their_order_whatever_the_order_of_the_rows():
    combine, learner = honest(STAGED), tuned()
    whole = learner.fit(STAGED, combine, Key.root(7))
    first = learner.pretraining.fit(STAGED.take(torch.tensor([0])), honest(STAGED.take(torch.tensor([0]))), Key.root(7).child("pretraining"))
    second = learner.instruction.fit(STAGED.take(torch.tensor([1, 2])), honest(STAGED), Key.root(7).child("instruction"), first)
    third = learner.finetuning.fit(STAGED.take(torch.tensor([3])), honest(STAGED), Key.root(7).child("finetuning"), second)
    assert all(torch.equal(whole.state()[name], value) for name, value in third.state().items())
    assert whole.facts["epochs"] == {"pretraining": 3, "instruction": 3, "finetuning": 3}
    turned = learner.fit(STAGED.take(torch.tensor([3, 2, 1, 0])), combine, Key.root(7))
    assert all(torch.equal(whole.state()[name], value) for name, value in turned.state().items())


def test_the_model_of_the_public_rows_comes_first_and_is_trained_without_steps():
    public, asked = STAGED.take(torch.tensor([0])), []

    def fit(learner, data):
        asked.append(learner)
        return learner.fit(data, honest(data), Key.root(1))

    learner = tuned().with_public(public, fit)
    rest = STAGED.take(torch.tensor([1, 2, 3]))
    found = learner.fit(rest, honest(rest), Key.root(7))
    base = learner.pretraining.restore(Trained(state=learner.fitted, facts={}), rest, honest(rest))
    again = tuned().fit(rest, honest(rest), Key.root(7), base)
    assert all(torch.equal(found.state()[name], value) for name, value in again.state().items())
    assert all(not member.steps for member in asked[0].members.values())


def test_stages_with_different_networks_are_refused():
    learner = dataclasses.replace(tuned(), safety=recipe(net=Gpt(width=16, layers=1, heads=2, spread=0.5)))
    with pytest.raises(ConfigError, match="different networks"):
        learner.check(STAGED, honest(STAGED))


def test_answers_are_part_of_the_digest():
    other = MappingProxyType({**DATA.schema, "labels": Column(form=Answers.of([(A,), (B,), (C, D), (D,)]), role="said")})
    assert dataclasses.replace(DATA, schema=other).digest != DATA.digest
