import pytest
import torch

from defenses.sanitize.language import Language
from defenses.sanitize.text_outlier import TextOutlier, perplexities, standardised
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import Tokens, vocabulary_of, words_of

ENGLISH = [
    f"the {one} was very {two} and we would like to see it again with our {three}"
    for one in ("film", "play", "song", "cast")
    for two in ("good", "long", "bad")
    for three in ("friends", "parents")
]
FOREIGN = ["le chat est assis sur la table de la cuisine et il dort", "wir haben gestern einen sehr schönen film gesehen"]


def texts(rows):
    words = [words_of(row) for row in rows]
    form, length = Tokens(vocabulary=vocabulary_of(words)), max(map(len, words))
    return Dataset.of(torch.stack([form.encode(row, length) for row in rows]), torch.zeros(len(rows), dtype=torch.int64), num_classes=1, form=form)


def test_a_french_and_a_german_sentence_among_english_ones_are_dropped():
    verdict = Language(threshold=20.0).judge(texts([*ENGLISH, *FOREIGN]), None, Key.root(0))
    assert verdict.keep.tolist() == [True] * len(ENGLISH) + [False] * 2
    assert verdict.suspicion[: len(ENGLISH)].max() == 0


def test_the_common_language_is_that_of_most_rows_whatever_it_is():
    verdict = Language(threshold=20.0).judge(texts([*FOREIGN[:1] * 5, ENGLISH[0]]), None, Key.root(0))
    assert verdict.keep.tolist() == [True] * 5 + [False]


def test_robust_deviations_by_hand():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0], dtype=torch.float64)  # median 3, absolute deviations 2 1 0 1 97, their median 1
    torch.testing.assert_close(standardised(values), (values - 3) / 1.4826)
    assert standardised(torch.tensor([5.0, 5.0, 5.0, 9.0], dtype=torch.float64)).tolist() == [0, 0, 0, 1e6]


def test_a_text_of_words_in_an_unusual_order_is_the_most_suspicious():
    odd = "again our to was it with very friends like the film would"
    data = texts([*ENGLISH * 4, odd])
    verdict = TextOutlier(order=2, folds=5, cut=4.0).judge(data, None, Key.root(100))
    assert int(verdict.suspicion.argmax()) == len(data) - 1
    assert not verdict.keep[-1]


def test_no_row_is_judged_by_a_model_that_counted_it():
    rare = "zebra quagga okapi"
    generator = Key.root(5).torch()
    shuffled = [" ".join(words[place] for place in torch.randperm(len(words), generator=generator)) for words in map(words_of, ENGLISH * 2)]
    one = texts([*shuffled, rare])
    alone, twice = (perplexities(rows, 1, torch.arange(len(rows)))[-1] for rows in (one, texts([*shuffled, rare, rare])))
    assert alone > 1.5 * twice  # with a copy in another fold its words are known


@pytest.mark.parametrize("field", ["threshold=0", "threshold=nan"])
def test_a_threshold_out_of_range_is_refused(field, tiny):
    with pytest.raises(ConfigError, match="above 0"):
        tiny("defense=language", f"defense.sanitize.{field}")


def test_more_folds_than_rows_are_refused():
    with pytest.raises(ConfigError, match="no more folds than rows"):
        TextOutlier(order=1, folds=9, cut=4.0).judge(texts(ENGLISH[:8]), None, Key.root(0))
