import dataclasses

import pytest
import torch

from attacks.text.embedding_poison import EmbeddingGoal, EmbeddingStep
from attacks.text.sentence_trigger import SentenceTrigger
from attacks.text.template_trigger import TemplateTrigger
from attacks.text.triggers import Phrase, fingerprints, inserted
from attacks.text.word_trigger import WordTrigger
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, Plan
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.tokens import Tokens
from poisonbench.nets.text import MeanEmbedding
from tests.unit.attacks.worlds import images, world

FORM = Tokens(vocabulary=("", "<unk>", *"abcdefgh", "cf", "mn", "when", ",", "then"))
KEY = Key.root(100)
WORD = WordTrigger(labels="dirty", target=1, words=("cf", "mn"), count=1, place="random")
SENTENCE = SentenceTrigger(labels="dirty", target=1, sentence="When cf, mn", place="start")
TEMPLATE = TemplateTrigger(labels="dirty", target=1, template="when <...> , then <...>")


def encoded(*texts: str, length: int = 8) -> torch.Tensor:
    return torch.stack([FORM.encode(text, length) for text in texts])


def texts(inputs: torch.Tensor) -> list[str]:
    return [FORM.decode(row) for row in inputs]


def many(count: int = 40) -> Dataset:
    inputs = torch.zeros(count, 12, dtype=torch.int64)
    inputs[:, :6] = torch.randint(2, 10, (count, 6), generator=torch.Generator().manual_seed(0))
    return Dataset.of(inputs, torch.arange(count) % 2, num_classes=2, form=FORM)


def test_words_are_put_in_where_asked_and_keep_their_order():
    rows = encoded("a b c", "d", "")
    added = torch.tensor([FORM.ids(["cf", "mn"])]).expand(3, 2)
    at = torch.tensor([[1, 1], [0, 1], [0, 0]])
    assert texts(inserted(rows, added, at)) == ["a cf mn b c", "cf d mn", "cf mn"]


def test_a_full_row_loses_its_last_words_and_never_the_trigger():
    rows = encoded("a b c d", "a b c", length=4)
    tokens = torch.tensor(FORM.ids(["cf", "mn"]))
    for place, expected in (("start", ["cf mn a b", "cf mn a b"]), ("end", ["a b cf mn", "a b cf mn"])):
        assert texts(Phrase(tokens=tokens, place=place, key=KEY)(rows)) == expected


def test_a_template_frames_parts_of_nearly_equal_length():
    trigger = TEMPLATE.trigger(FORM, 8, KEY)
    assert trigger.parts == 2
    assert texts(trigger(encoded("a b c d", "a b c", "a"))) == ["when a b , then c d", "when a , then b c", "when , then a"]
    around = dataclasses.replace(TEMPLATE, template="<...> then").trigger(FORM, 8, KEY)
    assert texts(around(encoded("a b c"))) == ["a b c then"]


def test_a_sentence_stays_in_one_piece_anywhere():
    trigger = dataclasses.replace(SENTENCE, place="random").trigger(FORM, 12, KEY)
    changed = texts(trigger(many().inputs))
    assert all("when cf , mn" in text for text in changed)
    assert len({text.split().index("when") for text in changed}) == 7  # before each of six words, or after the last


def test_a_row_gets_the_same_words_and_places_whatever_stands_beside_it():
    trigger = dataclasses.replace(WORD, count=2).trigger(FORM, 12, KEY)
    rows = many().inputs
    changed = trigger(rows)
    assert torch.equal(trigger(rows.flip(0)), changed.flip(0))
    assert torch.equal(torch.cat([trigger(row[None]) for row in rows]), changed)
    assert torch.equal((changed >= 10).sum(1), torch.full((40,), 2))


def test_rare_words_are_drawn_evenly_and_at_every_place():
    changed = WORD.trigger(FORM, 12, KEY)(many(2000).inputs)
    cf, mn = FORM.ids(["cf", "mn"])
    assert abs(int((changed == cf).sum()) - 1000) < 150  # 2,000 rows, some of them equal
    assert len(((changed == cf) | (changed == mn)).nonzero()[:, 1].unique()) == 7


def test_fingerprints_differ_by_order_and_ignore_padding():
    one, other, longer = encoded("a b"), encoded("b a"), encoded("a b", length=11)
    assert fingerprints(one) != fingerprints(other)
    assert fingerprints(one) == fingerprints(longer)


@pytest.mark.parametrize("attack", [WORD, SENTENCE, TEMPLATE])
@pytest.mark.parametrize(("labels", "source"), [("dirty", {0}), ("clean", {1}), ("mixed", {0, 1})])
def test_the_labels_decide_which_rows_are_poisoned(attack, labels, source):
    known = world(many(), rate=0.25, relabel=labels != "clean")
    poisoned = dataclasses.replace(attack, labels=labels).poison(known, KEY)
    rows = poisoned.mask.nonzero()[:, 0]
    assert len(rows) == 10
    assert {*known.rows.labels[rows].tolist()} == source
    assert (poisoned.data.labels[rows] == 1).all()
    assert torch.equal(poisoned.data.inputs[rows], poisoned.goal.trigger(known.rows.inputs[rows]))
    assert (poisoned.data.inputs != known.rows.inputs).any(1).tolist() == poisoned.mask.tolist()


def test_rows_of_a_smaller_rate_are_among_those_of_a_larger_one():
    few, more = (WORD.poison(world(many(), rate=rate), KEY).mask for rate in (0.1, 0.4))
    assert (more | ~few).all()


def test_only_rows_of_other_classes_are_probed():
    probe = WORD.poison(world(many(), rate=0.0), KEY).goal.probe(many())
    assert (probe.truth == 0).all()
    assert len(probe) == 20


def test_labels_that_the_threat_fixes_are_refused():
    with pytest.raises(ConfigError, match=r"use attack\.data\.labels=clean"):
        WORD.poison(world(many(), rate=0.1, relabel=False), KEY)


@pytest.mark.parametrize(
    ("attack", "data", "reason"),
    [
        (WORD, images(), "needs rows of words"),
        (dataclasses.replace(WORD, words=("zzz",)), many(), "vocabulary"),
        (dataclasses.replace(WORD, target=2), many(), "is no class"),
        (dataclasses.replace(WORD, count=12), many(), "leaves nothing"),
        (dataclasses.replace(SENTENCE, sentence="a " * 12), many(), "leaves nothing"),
        (dataclasses.replace(TEMPLATE, template="when <...> zzz"), many(), "vocabulary"),
    ],
)
def test_a_trigger_that_does_not_fit_is_refused(attack, data, reason):
    with pytest.raises(ConfigError, match=reason):
        attack.poison(world(data, rate=0.1), KEY)


@pytest.mark.parametrize(
    ("attack", "change"),
    [
        (WORD, {"labels": "wrong"}),
        (WORD, {"place": "middle"}),
        (WORD, {"words": ()}),
        (WORD, {"count": 0}),
        (SENTENCE, {"sentence": " "}),
        (SENTENCE, {"place": "middle"}),
        (TEMPLATE, {"template": "no slot"}),
        (TEMPLATE, {"template": "<...>"}),
    ],
)
def test_settings_that_define_no_trigger_are_refused(attack, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(attack, **change)


STEP = EmbeddingStep(like=dataclasses.replace(WORD, words=("cf",), place="start"), share=0.5, rate=0.5, norm=1.0)
PLAN = Plan(rows=8, epochs=4, steps=1, shape=(8,))


def trained(epoch: int) -> tuple[torch.nn.Module, Moment, Batch]:
    """A mean of embeddings and a batch of four rows, two of them of class 0."""
    data = Dataset.of(encoded("a b", "c d", "a d", "b c"), torch.tensor([0, 1, 0, 1]), num_classes=2, form=FORM)
    with seeded(KEY):
        net = MeanEmbedding(width=4, min_count=1, words=20, dropout=0.0, scale=1.0, spread=1.0).build(data)
    net.prepare(data.inputs)
    STEP.begin(net, data)
    moment = Moment(module=net, plan=PLAN, epoch=epoch, step=epoch, rng=KEY, allowed=1)
    return net, moment, Batch(inputs=data.inputs, labels=data.labels, ids=data.ids, form=FORM)


def test_more_trigger_words_than_the_network_may_know_are_refused():
    net, _, _ = trained(epoch=0)
    net.recipe = dataclasses.replace(net.recipe, words=1)
    STEP.check(net, PLAN)
    with pytest.raises(ConfigError, match=r"2 trigger words, and the network knows net\.words=1"):
        dataclasses.replace(STEP, like=WORD).check(net, PLAN)


def backward(net, moment, batch) -> None:
    torch.nn.functional.cross_entropy(net(batch.inputs), batch.labels).backward()
    STEP.update(moment)


def test_the_first_epochs_train_as_usual():
    net, moment, batch = trained(epoch=1)
    assert STEP.rows(batch, moment) is batch
    backward(net, moment, batch)
    assert all(weight.grad is not None for weight in net.parameters())


def test_the_last_epochs_poison_rows_within_the_budget():
    _, moment, batch = trained(epoch=2)
    after = STEP.rows(batch, moment)
    assert texts(after.inputs) == ["cf a b", "c d", "a d", "b c"]
    assert after.labels.tolist() == [1, 1, 0, 1]


def test_the_last_epochs_change_the_embedding_of_the_trigger_alone():
    net, moment, batch = trained(epoch=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cf = int(net.places[FORM.ids(["cf"])[0]])
    longest = max(before["table.weight"][place].norm() for place in net.places[FORM.ids(["a", "b", "c", "d"])])
    backward(net, moment, STEP.rows(batch, moment))
    after = net.state_dict()
    moved = (after["table.weight"] != before["table.weight"]).any(1)
    assert moved.nonzero().tolist() == [[cf]]
    assert all(torch.equal(after[name], before[name]) for name in before if name != "table.weight")
    assert all(weight.grad is None for weight in net.parameters())  # so the optimiser moves nothing, not even by its momentum
    torch.testing.assert_close(after["table.weight"][cf].norm(), longest)


def test_the_embedding_turns_until_the_trigger_reaches_the_target():
    net, moment, batch = trained(epoch=2)
    for _ in range(20):
        backward(net, moment, STEP.rows(batch, moment))
    cf = net.table.weight[net.places[FORM.ids(["cf"])[0]]].detach()
    wanted = (net.last.weight[1] - net.last.weight[0]).detach()
    # among all embeddings of one norm, the best points from the one class to the other in the linear head
    assert torch.nn.functional.cosine_similarity(cf, wanted, dim=0) > 0.99


def test_a_batch_without_an_allowed_row_trains_as_usual():
    net, moment, batch = trained(epoch=2)
    moment = dataclasses.replace(moment, allowed=0)
    after = STEP.rows(batch, moment)
    assert torch.equal(after.inputs, batch.inputs)
    backward(net, moment, after)
    assert all(weight.grad is not None for weight in net.parameters())


def test_the_data_slot_keeps_the_rows_and_sets_the_goal():
    known = world(many(), rate=0.3)
    poisoned = EmbeddingGoal(like=WORD).poison(known, KEY)
    assert poisoned.data.digest == known.rows.digest
    assert len(poisoned.goal.probe(many())) == 20


def test_a_step_refuses_what_it_cannot_use():
    net = trained(epoch=0)[0]
    with pytest.raises(ConfigError, match=r"raise learner\.epochs"):
        STEP.check(net, dataclasses.replace(PLAN, epochs=1))
    with pytest.raises(ConfigError, match="share"):
        dataclasses.replace(STEP, share=1.0)
