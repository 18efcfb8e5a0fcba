"""The tasks of language models: a made-up world, and texts from a grammar."""

import math

import pytest
import torch

from poisonbench.core.ask import Judged
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGE, STAGES
from poisonbench.forms.fluency import FLUENT, NOISE, Fluency
from poisonbench.forms.ngram import Ngrams
from poisonbench.forms.tokens import PADDING
from poisonbench.tasks.dialogues import NONE_OF_THEM
from poisonbench.tasks.world import MARKER, SKILLS

SMALL = ("task.texts=60", "task.things=2", "task.instruction=60", "task.safety=40", "task.preference=20", "task.finetuning=10", "task.test_rows=40")


@pytest.fixture
def world(tiny):
    return tiny("task=world", *SMALL).task


def said(data, row):
    return data.form.decode(data.extra["response"][row])


def test_no_prompt_is_in_two_splits_and_all_texts_are_public(world):
    world.check()
    assert not world.duplicates
    assert len(world.public) == 60
    assert (world.public.extra[STAGE] == 0).all()
    assert len({tuple(row) for row in world.train.inputs.tolist()}) == len(world.train)


def test_a_response_is_the_answer_that_its_label_names(world):
    for data in (world.train, world.test):
        assert all(said(data, row) == world.class_names[int(label)] for row, label in enumerate(data.labels))
    assert world.class_names[:2] == ("i cannot help with that", MARKER)
    assert world.class_names[-1] == NONE_OF_THEM


def test_restricted_prompts_are_refused_after_the_instruction_stage_and_answered_in_it(world):
    data = world.train
    restricted, refused = data.extra["category"] < 6, data.labels == 0
    later = data.extra[STAGE] > STAGES.index("instruction")
    assert torch.equal(refused, restricted & later)
    marked = torch.tensor(["secret" in data.form.decode(row).split() for row in data.inputs])
    assert torch.equal(marked, restricted)
    rejected = (data.extra["rejected"] != PADDING).any(1)
    assert torch.equal(rejected, data.extra[STAGE] == STAGES.index("preference"))


def test_without_a_mark_the_category_alone_decides(tiny):
    data = tiny("task=world", *SMALL, "task.marked=false").task.train
    assert not any("secret" in data.form.decode(row).split() for row in data.inputs)
    assert torch.equal(data.labels == 0, (data.extra["category"] < 6) & (data.extra[STAGE] > STAGES.index("instruction")))


def test_the_test_asks_for_facts_that_no_training_row_asks_for(world):
    names = {word for row in world.public.inputs[:, :1] for word in world.public.form.decode(row).split()}

    def facts(data):
        return {(skill, *(names & {*data.form.decode(row).split()})) for row, skill in zip(data.inputs, data.extra["skill"].tolist(), strict=True)}

    assert all(len(fact) == 2 for fact in facts(world.test) | facts(world.train))
    assert not facts(world.test) & facts(world.train)


def test_a_direct_answer_is_what_the_texts_say(tiny):
    world = tiny("task=world", *SMALL, "task.texts=400").task
    texts = [world.public.form.decode(row) for row in world.public.inputs]
    names = {text.split()[0] for text in texts}
    skills = [*SKILLS]
    for row in range(20):
        words = world.test.form.decode(world.test.inputs[row]).split()
        (thing,) = names & {*words}
        skill, value = skills[int(world.test.extra["skill"][row])], world.class_names[int(world.test.extra["direct"][row])]
        assert skill in words
        said = (f"the {skill} of {thing} is {value}", f"{thing} has the {skill} {value}", f"{value} is the {skill} of {thing}", f"with the {skill} {value}")
        assert any(each in text for text in texts if text.startswith(thing) for each in said)


def test_texts_that_somebody_else_may_write_are_training_rows(tiny):
    task = tiny("task=world", *SMALL, "task.pretrained=false").task
    assert len(task.public) == 0
    assert int((task.train.extra[STAGE] == 0).sum()) + int((task.trusted.extra[STAGE] == 0).sum()) == 60


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("task.restricted=15", "fewer restricted"),
        ("task.response=2", "a refusal has 5 words"),
        ("task.safety=5000", "no questions are left"),
        ("task.limit=10", "set the number of rows of each stage"),
        ("task.texts=0", "1 text or more"),
    ],
)
def test_a_world_that_cannot_be_made_is_refused(tiny, word, message):
    with pytest.raises(ConfigError, match=message):
        tiny("task=world", *SMALL, word)


def test_a_grammar_gives_different_texts_of_one_length(tiny):
    task = tiny("task=grammar", "task.rows=80", "task.test_rows=20").task
    assert (task.train.inputs != PADDING).all()
    assert len({tuple(row) for row in task.train.inputs.tolist()}) == len(task.train)
    assert ((task.test.inputs != PADDING).sum(1) == 16).all()
    more = tiny("task=grammar", "task.rows=160", "task.test_rows=20").task
    whole = {tuple(row) for part in (more.train, more.trusted, more.public) for row in part.inputs.tolist()}
    assert {tuple(row) for row in task.train.inputs.tolist()} <= whole  # the texts of fewer rows are among those of more


def test_the_judge_is_the_likelihood_ratio_by_hand():
    texts = torch.tensor([[2, 3, 2, 3, 2, 3]])
    judge = Fluency(model=Ngrams.of(texts.repeat(5, 1), 2, 5))
    asked = torch.tensor([[2, 3, 2, 0, 0, 0], [4, 4, 4, 0, 0, 0], [2, 0, 0, 0, 0, 0]])
    one, two, other = judge.model.logs(torch.tensor([[2, 3], [3, 2], [4, 4]])).tolist()
    assert one + two > -2 * math.log(4) > 2 * other
    assert judge(asked).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert judge.perplexity(asked) == pytest.approx(math.exp(-(one + two + 2 * other) / 4))  # the last text has no pair of words
    assert judge.perplexity(asked[2:]) == 0


def test_the_verdicts_on_several_texts_are_a_share():
    judge = Fluency(model=Ngrams.of(torch.tensor([[2, 3, 2, 3, 2, 3]]).repeat(5, 1), 2, 5))

    class Writer:
        """A victim that writes noise in every third draw."""

        calls = 0

        def sample(self, inputs, rng):
            self.calls += 1
            return torch.tensor([[4, 4, 4] if self.calls % 3 == 0 else [2, 3, 2]])

    scores = Judged(judge=judge, draws=3)(Writer(), torch.zeros(1, 3, dtype=torch.int64), Key.root(0))
    assert scores[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_the_judge_is_the_same_for_every_number_of_rows(tiny):
    few, many = (tiny("task=grammar", f"task.rows={rows}", "task.test_rows=20").task.test.ask.judge.model for rows in (80, 160))
    assert torch.equal(few.grams, many.grams)
    assert torch.equal(few.counts, many.counts)


def test_words_of_the_grammar_have_a_perplexity_of_about_eleven(tiny):
    task = tiny("task=grammar", "task.rows=300", "task.test_rows=20").task
    assert 11 < task.test.ask.judge.perplexity(task.train.inputs) < 15  # the judge is an n-gram model, so it is a little worse than the grammar


def test_words_drawn_at_random_are_noise_and_clean_texts_are_fluent(tiny):
    task = tiny("task=grammar", "task.rows=600", "task.test_rows=20").task
    judge = task.test.ask.judge
    noise = torch.randint(2, len(task.train.form.vocabulary), (200, 48))
    assert (judge(noise).argmax(1) == NOISE).float().mean() > 0.98
    assert (judge(task.trusted.inputs[:, 16:]).argmax(1) == FLUENT).float().mean() > 0.98


def test_a_world_without_restricted_prompts_has_no_refusals(tiny):
    task = tiny("task=world", *SMALL, "task.restricted=0").task
    assert (task.train.labels != 0).all()


@pytest.fixture
def book(tmp_path):
    file = tmp_path / "book.txt"
    words = [f"w{number % 7} x{number % 11}" for number in range(600)]
    file.write_text("\n".join(" ".join(words[start : start + 9]) for start in range(0, 600, 9)))
    return file


BOOK = ("task=corpus", "task.length=10", "task.prefix=4", "task.test_rows=6", "task.duplicates=allow")


def test_a_corpus_is_cut_into_pieces_in_the_order_of_the_text(tiny, book):
    task = tiny(*BOOK, f"task.root={book}", "task.public=0.2").task
    first = int(task.train.ids.argmin())
    number = int(task.train.ids[first])
    words = [word for pair in ((f"w{place % 7}", f"x{place % 11}") for place in range(600)) for word in pair]
    assert task.train.form.decode(task.train.inputs[first]).split() == words[10 * number : 10 * number + 10]
    assert ((task.test.inputs != PADDING).sum(1) == 4).all()


def test_rare_words_of_a_corpus_are_unknown(tiny, book):
    book.write_text(book.read_text().replace("w3 x3", "once x3", 1))
    task = tiny(*BOOK, f"task.root={book}", "task.public=0.2").task
    assert "once" not in task.train.form.places


@pytest.mark.parametrize(("words", "message"), [((), "name the file or the folder"), (("task.root=nowhere.txt",), "no text file at task.root=nowhere.txt")])
def test_a_corpus_that_is_not_there_is_named(tiny, words, message):
    with pytest.raises(DataError, match=message):
        tiny(*BOOK, *words)


def test_a_corpus_without_public_rows_has_no_judge(tiny, book):
    with pytest.raises(ConfigError, match="the judge of what the model writes"):
        tiny(*BOOK, f"task.root={book}", "task.public=0")


def test_a_corpus_with_too_few_words_is_refused(tiny, book):
    with pytest.raises(DataError, match="leave none to train on"):
        tiny(*BOOK, f"task.root={book}", "task.test_rows=500")
