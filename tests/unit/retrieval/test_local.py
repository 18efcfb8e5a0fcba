"""The reader that is a language model in a folder: a tiny one with random weights, which the test writes."""

import shutil
import sys

import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.keys import key
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.tokens import SPECIAL, Tokens
from poisonbench.retrieval.local import Local

WORDS = ("who", "made", "it", "ann", "ben", "smith", "did", "i", "not", "know")
FORM = Tokens(vocabulary=(*SPECIAL, *WORDS))
WHO, MADE, IT, ANN, BEN, SMITH, DID = range(2, 9)
QUESTION = torch.tensor([[WHO, MADE, IT, 0]])
PASSAGES = torch.tensor([[[[ANN, MADE, IT, 0], [BEN, DID, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]]])
ANSWERS = torch.tensor([[[0, 0], [ANN, 0], [BEN, SMITH]]])
PROMPT = "{passages} | {question} "
DATA = Dataset.of(QUESTION, torch.tensor([0]), num_classes=1, form=FORM)


def local(root, prompt=PROMPT):
    return Local(root=None if root is None else str(root), prompt=prompt, none="i know not")


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A folder as `save_pretrained` writes it: a tiny GPT-2 whose tokens are words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("models") / "tiny"
    vocabulary = {word: place for place, word in enumerate(("<s>", "<unk>", "|", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    config = transformers.GPT2Config(vocab_size=len(vocabulary), n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    with seeded(Key.root(100)):
        net = transformers.GPT2LMHeadModel(config)
        with torch.no_grad():
            for weight in net.parameters():
                weight.normal_(std=0.5)
    net.save_pretrained(folder)
    return folder


def by_hand(folder, text, answer):
    """The mean log-likelihood of the last words of a text, one after the other, without padding or a batch."""
    import transformers

    net = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = {word: place for place, word in enumerate(("<s>", "<unk>", "|", *WORDS))}
    tokens = [0, *(ids[word] for word in f"{text} {answer}".split())]
    count, total = len(answer.split()), 0.0
    for place in range(len(tokens) - count, len(tokens)):
        with torch.no_grad():
            total += float(net(torch.tensor([tokens[:place]])).logits[0, -1].log_softmax(0)[tokens[place]])
    return total / count


def test_its_scores_are_mean_log_likelihoods_of_the_words_of_an_answer(written):
    read = local(written).read(QUESTION, PASSAGES, ANSWERS, FORM)
    told = ("ann made it\nben did | who made it", " | who made it")
    wanted = [[by_hand(written, text, answer) for answer in ("i know not", "ann", "ben smith")] for text in told]
    torch.testing.assert_close(read[0], torch.tensor(wanted))
    assert len({*read[0, 0].tolist()}) == 3


def test_no_connection_is_opened(written, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection is opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    local(written, "{passages} {question}").read(QUESTION, PASSAGES, ANSWERS, FORM)


def test_a_prompt_that_the_model_cannot_read_is_refused(written):
    with pytest.raises(ConfigError, match=r"reads 16; lower learner\.top"):
        local(written).read(QUESTION, PASSAGES.repeat(1, 1, 3, 1), ANSWERS, FORM)


def test_weights_that_are_no_safetensors_are_refused_when_they_are_read(written, tmp_path):
    broken = shutil.copytree(written, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read as a causal language model"):
        local(broken).read(QUESTION, PASSAGES, ANSWERS, FORM)


def test_the_package_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("poisonbench.retrieval.local.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install \"poisonbench\[local\]\""):
        local(empty(tmp_path)).check(DATA)


def test_a_package_that_cannot_be_imported_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text('raise ImportError("it needs another torch")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    with pytest.raises(ConfigError, match=r"cannot import transformers \(it needs another torch\); install it again: pip install"):
        local(empty(tmp_path)).read(QUESTION, PASSAGES, ANSWERS, FORM)


def empty(folder):
    """Write files that look like a model from outside."""
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


def test_its_key_depends_on_the_files_and_not_on_where_they_are(tmp_path):
    one, other = (tmp_path / name for name in ("one", "other"))
    for folder in (one, other):
        folder.mkdir()
        empty(folder)
    assert key(local(one)) == key(local(other)) != key(local(one, prompt="{question} {passages}"))
    (other / "config.json").write_text("{ }")
    assert key(local(one)) != key(local(other))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (("config.json", "pytorch_model.bin"), r"pytorch_model\.bin holds pickled weights"),
        (("config.json", "tokenizer.json"), r"has no \*\.safetensors"),
        (("model.safetensors", "tokenizer.json"), r"has no config\.json or no tokenizer"),
        (("model.safetensors", "config.json"), r"has no config\.json or no tokenizer"),
    ],
)
def test_a_folder_without_a_model_in_safetensors_is_refused(tmp_path, files, reason):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=reason):
        local(tmp_path).check(DATA)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"reader\.root=PATH"):
        local(None).check(DATA)
    with pytest.raises(ConfigError, match="is no folder"):
        local(tmp_path / "nothing").check(DATA)


@pytest.mark.parametrize("prompt", ["{question}", "{passages} {question} {answer}", "{passages} {question", "{passages} {}"])
def test_a_prompt_without_passages_or_question_is_refused(tmp_path, prompt):
    with pytest.raises(ConfigError, match=r"write \{passages\} and \{question\}"):
        local(tmp_path, prompt)


def test_none_of_them_needs_words():
    with pytest.raises(ConfigError, match=r"reader\.none"):
        Local(root=None, prompt=PROMPT, none=" ")
