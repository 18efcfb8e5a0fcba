"""The generated web crawl, and the wording of captions."""

import hashlib

import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.core.web import DOMAIN, HOLD_BACK, PAGE, PLANNED, PRICE, REVERT, SNAPSHOT, UNCHANGED
from poisonbench.forms.hashes import HASHES, bits_apart, digests
from poisonbench.forms.prompts import CAPTION
from poisonbench.tasks.captions import Captions
from tests.conftest import assemble, tree_of
from tests.unit.tasks.naming import named_classes


@pytest.fixture
def crawl(store):
    """Return a function from words to the task."""

    def make(*words):
        return assemble(tree_of(["task=crawl", *words]), store).task

    return make


def test_without_churn_every_row_has_the_hashes_of_its_index(crawl):
    task = crawl("task.churn=0", "task.gone=0", "task.hashes=[sha256,dhash,phash,average_hash]")
    pages = task.train.extra[PAGE][:, SNAPSHOT] >= 0
    for name, hashed in HASHES.items():
        assert torch.equal(hashed(task.train.inputs[~pages]), task.train.extra[name][~pages])
        assert not task.train.extra[name][pages].any()
    assert len(task.train) + len(task.trusted) == 1437
    assert len(task.test) == 360


def test_churn_changes_about_its_share_and_only_the_pictures(crawl):
    still, moved = crawl("task.churn=0", "task.gone=0"), crawl("task.churn=0.15", "task.gone=0")
    changed = (still.train.inputs != moved.train.inputs).flatten(1).any(1)
    pages = still.train.extra[PAGE][:, SNAPSHOT] >= 0
    assert not changed[pages].any()
    assert torch.equal(changed[~pages], (digests(moved.train.inputs[~pages]) != moved.train.extra["sha256"][~pages]).any(1))
    assert 0.1 < float(changed[~pages].double().mean()) < 0.18  # a picture may survive JPEG as it was
    grey = (moved.train.inputs == 200).flatten(1).all(1)
    assert 0.005 < float(grey.double().mean()) < 0.03
    bits = bits_apart(HASHES["phash"](moved.train.inputs), moved.train.extra["phash"])
    assert float((bits[changed & ~grey] <= 6).double().mean()) > 0.7
    assert bits[grey].min() > 6
    for name in (CAPTION, DOMAIN, PRICE, PAGE, "sha256"):
        assert torch.equal(still.train.extra[name], moved.train.extra[name])
    assert torch.equal(still.test.inputs, moved.test.inputs)


def test_pictures_that_are_gone_leave_no_row(crawl):
    task = crawl("task.gone=0.25")
    assert 1437 * 0.7 < len(task.train) + len(task.trusted) < 1437 * 0.8


def test_captions_name_the_class_by_every_template(crawl):
    task = crawl()
    form = task.train.schema[CAPTION].form
    texts = [form.decode(words) for words in task.train.extra[CAPTION]]
    names = [text.replace(name, "{}") for text, name in zip(texts, (task.class_names[label] for label in task.train.labels.tolist()), strict=True)]
    assert len(set(names)) == 8
    assert torch.equal(named_classes(texts, task.class_names), task.train.labels)
    asked = task.train.schema["labels"].form
    prompts = [form.decode(words) for words in asked.texts]
    assert {*texts} == {*prompts}
    assert torch.equal(named_classes(prompts, task.class_names), asked.classes)


def test_domains_follow_zipf_and_have_one_price_each(crawl):
    task = crawl("task.gone=0", "task.trusted=0", "task.encyclopedia=0", "task.domains=20", "task.expired=0.5")
    domains, prices = task.train.extra[DOMAIN], task.train.extra[PRICE]
    counts = domains.bincount(minlength=20).double()
    expected = (1 / torch.arange(1, 21).double()) / (1 / torch.arange(1, 21).double()).sum() * len(domains)
    assert ((counts - expected).square() / expected).sum() < 43.8  # chi-squared with 19 degrees of freedom, 0.1 %
    sold = [domain for domain in range(20) if (prices[domains == domain] > 0).any()]
    assert len(sold) == 10
    assert all(len(prices[domains == domain].unique()) == 1 for domain in range(20))
    assert not task.test.extra[PRICE].any()


def test_pages_are_those_of_the_encyclopedia_alone(crawl):
    task = crawl("task.gone=0", "task.trusted=0", "task.encyclopedia=0.5", "task.hold_back=7", "task.jitter=0", "task.window=1000")
    numbers = task.train.extra[PAGE]
    pages = numbers[:, SNAPSHOT] >= 0
    assert abs(float(pages.double().mean()) - 0.5) < 0.05
    assert torch.equal(pages, task.train.extra[DOMAIN] == 300)
    assert not task.train.extra[PRICE][pages].any()
    assert (numbers[~pages] == -1).all()
    assert torch.equal(numbers[pages, SNAPSHOT], numbers[pages, PLANNED])
    assert (numbers[pages, HOLD_BACK] == 7).all()
    assert float(numbers[pages, REVERT].median()) == pytest.approx(240, rel=0.3)
    assert float(numbers[pages, UNCHANGED].mean()) == pytest.approx(2_592_000, rel=0.2)
    hidden = crawl("task.gone=0", "task.trusted=0", "task.encyclopedia=0.5", "task.order=random", "task.window=1000").train.extra[PAGE]
    assert (hidden[pages, PLANNED] == 500).all()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["task.price=0"], r"task\.price=0.0: give a number of 0\.01 or more"),
        (["task.churn=1.5"], r"task\.churn=1\.5: give a share from 0 to 1"),
        (["task.hashes=[md6]"], r"task\.hashes: md6 is no hash; choose among sha256, dhash, phash, average_hash"),
        (["task.templates=[a photo]"], r"task\.templates: 'a photo' has 0 times \{\}; write it once"),
        (["task.templates=[]"], r"task\.templates=\[\]: give one sentence or more"),
        (["task.length=3"], r"task\.length=3: a sentence with the name of a class has \d words; set task\.length=\d or more"),
        (["task.hold_back=-1"], r"task\.hold_back=-1\.0: give a finite number of 0 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(crawl, words, reason):
    with pytest.raises(ConfigError, match=reason):
        crawl(*words)


def test_pictures_of_another_form_are_refused(crawl):
    with pytest.raises(ConfigError, match=r"task\.pictures: the rows of breast_cancer are reals; choose a task of pictures, such as digits"):
        crawl("task@task.pictures=breast_cancer")


def test_a_class_without_a_caption_is_the_last_one():
    captions = Captions(length=5, templates=("a {} car",), words=())
    form, rows = captions.encoded("cars", ["red rain"], ["red", "blue_sky"])
    asked = captions.prompts(form, ["red", "blue_sky"], 3)
    assert asked.size == 3
    assert asked.listed[2] == ()
    assert form.decode(asked.drawn(torch.tensor([1]), torch.tensor([0.0]), 5)[0]) == "a blue sky car"
    assert form.decode(rows[0]) == "red rain"
    none = captions.prompts(form, [], 1)
    assert none.texts.shape == (0, 1)
    assert none.classes.tolist() == []


def test_a_digest_is_that_of_hashlib_over_the_pixels():
    pixels = torch.randint(256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert bytes(digests(pixels)[1].tolist()) == hashlib.sha256(pixels[1].numpy().tobytes()).digest()
    assert bits_apart(torch.tensor([[0, 255]], dtype=torch.uint8), torch.tensor([[1, 15]], dtype=torch.uint8)).tolist() == [5]
