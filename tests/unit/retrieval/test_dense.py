import sys
from dataclasses import dataclass, field, fields

import pytest
import torch
import yaml

from poisonbench.config.build import build
from poisonbench.config.compose import CONFIGS, options
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.keys import key
from poisonbench.core.plugins import OWN, find_class
from poisonbench.core.proof import strangers
from poisonbench.core.rng import Key
from poisonbench.retrieval.dense import Dense
from poisonbench.retrieval.words import Bag
from tests.unit.retrieval.rows import asked, generated, passages

ROWS = passages("a b", "a", "", "b c", words="d")


@dataclass(frozen=True)
class Numbers:
    """An encoder with few different numbers, so that many scores are equal."""

    size: int = 3
    missing: str = field(default="")

    def check(self) -> None:
        if self.missing:
            raise ConfigError(self.missing)

    def words(self, vocabulary) -> Bag:
        vectors = torch.randint(-1, 2, (len(vocabulary), self.size), generator=Key.root(100).torch()).float()
        vectors[:2] = vectors[::3] = 0
        return Bag(vectors)


def recipe(search: str = "exact") -> Dense:
    return Dense(encoder=Numbers(), search=search)


@pytest.mark.parametrize("search", ["exact", "faiss"])
def test_a_search_is_that_of_a_full_sort_without_empty_texts(search):
    if search == "faiss":
        pytest.importorskip("faiss")
    rows, questions = generated(300), generated(50, seed=101).inputs
    index = recipe(search).index(rows)
    ours, theirs = index.features(questions), index.embeddings
    scores = (ours.double() @ theirs.double().T).float()
    scores[:, ~theirs.any(1)] = -torch.inf
    scores[~ours.any(1)] = -torch.inf
    assert not ours.any(1).all()
    assert not theirs.any(1).all(), "some texts are all zeros here"
    for count in (1, 5, 40, 310):
        hits = index.search(questions, count)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
        best = scores.gather(1, order)
        assert torch.equal(hits.scores[:, :300], best)
        assert torch.equal(hits.places[:, :300], order.masked_fill(best == -torch.inf, -1))


def test_both_searches_find_copies_in_their_order():
    faiss = pytest.importorskip("faiss")
    from poisonbench.retrieval.faiss import MOST, Flat
    from poisonbench.retrieval.search import search

    draws = Key.root(100).torch()
    vectors = torch.nn.functional.normalize(torch.randn(20, 384, generator=draws))
    copies = vectors[torch.arange(4000) % 20]
    assert len(copies) > MOST
    flat = Flat(copies)
    assert isinstance(flat.index, faiss.IndexFlatIP)
    for count in (1, 7, 10, 60, 300, 1500):
        ours, theirs = search(vectors, copies, count), flat.search(vectors, count)
        assert torch.equal(ours.places, theirs.places)
        assert torch.equal(ours.scores, theirs.scores)
    assert ours.places[3, :200].tolist() == list(range(3, 4000, 20)), "all copies of the text itself, in their order"


def test_an_empty_text_finds_nothing_and_is_never_found():
    index = recipe().index(ROWS)
    assert (index.search(asked(ROWS.form, "", "zzz").inputs, 3).places == -1).all()
    assert 2 not in index.search(asked(ROWS.form, "a").inputs, 4).places.tolist()[0]
    nothing = recipe().index(asked(ROWS.form, "", ""))
    assert nothing.search(ROWS.inputs[:1], 2).places.tolist() == [[-1, -1]]


def test_the_state_is_the_embeddings_and_saves_encoding_them():
    index = recipe().index(ROWS)
    assert torch.equal(index.state()["embeddings"], index.features(ROWS.inputs))
    moved = recipe().index(ROWS, {"embeddings": index.embeddings.flip(0)})
    assert torch.equal(moved.embeddings, index.embeddings.flip(0))


def test_the_module_is_that_of_the_index():
    index = recipe().index(ROWS)
    torch.testing.assert_close(index.module.features(index.module.lift(ROWS.inputs)), index.features(ROWS.inputs))
    assert index.module is recipe().index(ROWS).module, "several victims share it"


def test_the_way_to_search_is_not_part_of_the_key():
    assert key(recipe("exact")) == key(recipe("faiss"))
    assert Dense.LOOKS_AT == "each row alone"


def test_an_encoder_that_is_missing_is_refused():
    with pytest.raises(ConfigError, match="no files"):
        Dense(encoder=Numbers(missing="no files"), search="exact").check(ROWS)


def test_a_missing_faiss_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r'retriever\.search=faiss needs faiss-cpu: pip install "poisonbench\[text\]"'):
        recipe("faiss").check(ROWS)
    recipe().check(ROWS)


@pytest.mark.parametrize("name", options("retriever"))
def test_every_retriever_builds_from_a_file_with_all_its_fields(name):
    tree = yaml.safe_load((CONFIGS / "retriever" / f"{name}.yaml").read_text())
    retriever = build(tree, OWN, "retriever")
    for node in (tree, tree.get("encoder", tree)):
        assert set(node) - {"_target_"} == {field.name for field in fields(find_class(node["_target_"], OWN))}
    assert strangers(retriever, ROWS.form) == []
    assert type(retriever).LOOKS_AT in ("each row alone", "all rows")
    numbers = Dataset.of(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), num_classes=1)
    with pytest.raises(ConfigError, match="needs rows of words"):
        retriever.check(numbers)
