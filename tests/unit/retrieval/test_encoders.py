import dataclasses
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from poisonbench.config.build import build
from poisonbench.config.compose import CONFIGS
from poisonbench.core.errors import ConfigError
from poisonbench.core.keys import key
from poisonbench.core.plugins import OWN
from poisonbench.retrieval import encoders
from poisonbench.retrieval.encoders import Folder
from tests.unit.retrieval.rows import CONFIG, SUBWORDS, folder, passages, weights

tokenizers = pytest.importorskip("tokenizers")
ROWS = passages("ab c ?", "c", "acd a b e ab", "x b", "", words="d")


def packaged(name: str):
    retriever = build(yaml.safe_load((CONFIGS / "retriever" / f"{name}.yaml").read_text()), OWN, "retriever")
    try:
        retriever.encoder.check()
    except ConfigError as error:
        if "pip install" not in str(error):  # the package is there, and something is wrong with it
            raise
        pytest.skip(str(error))
    return retriever.encoder


@pytest.fixture
def local(tmp_path) -> Folder:
    return Folder(root=str(folder(tmp_path / "encoder")), pooling="mean")


def reference(pieces: list[int], pooling: str = "mean") -> torch.Tensor:
    """Encode a text by torch's own layers."""
    known, width = weights(), CONFIG["hidden_size"]
    ids = torch.tensor([2, *pieces, 3])
    states = known["embeddings.word_embeddings.weight"][ids] + known["embeddings.position_embeddings.weight"][: len(ids)]
    states = states + known["embeddings.token_type_embeddings.weight"][0]
    states = nn.functional.layer_norm(states, (width,), known["embeddings.LayerNorm.weight"], known["embeddings.LayerNorm.bias"], 1e-12)[None]
    for number in range(CONFIG["num_hidden_layers"]):
        names = {
            "self_attn.out_proj": "attention.output.dense",
            "linear1": "intermediate.dense",
            "linear2": "output.dense",
            "norm1": "attention.output.LayerNorm",
            "norm2": "output.LayerNorm",
        }
        home = f"encoder.layer.{number}"
        state = {f"{ours}.{part}": known[f"{home}.{theirs}.{part}"] for ours, theirs in names.items() for part in ("weight", "bias")}
        for part in ("weight", "bias"):
            state[f"self_attn.in_proj_{part}"] = torch.cat([known[f"{home}.attention.self.{one}.{part}"] for one in ("query", "key", "value")])
        layer = nn.TransformerEncoderLayer(width, 2, CONFIG["intermediate_size"], 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True)
        layer.load_state_dict(state)
        states = layer(states)
    pooled = states[0].mean(0) if pooling == "mean" else states[0, 0]
    return nn.functional.normalize(pooled, dim=0).detach()


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_folder_encodes_as_torchs_own_layers_do(tmp_path, pooling, prefix):
    module = Folder(root=str(folder(tmp_path / "encoder", prefix=prefix)), pooling=pooling).words(ROWS.form.vocabulary)
    piece = {word: number for number, word in enumerate(SUBWORDS)}
    split = [["a", "##b", "c", "?"], ["c"], ["a", "##c", "##d", "a", "b", "e", "a", "##b"], ["[UNK]", "b"]]
    expected = torch.stack([reference([piece[word] for word in words], pooling) for words in split])
    torch.testing.assert_close(module.encoded(ROWS.inputs)[:4], expected)
    assert not module.encoded(ROWS.inputs)[4].any(), "a text without a word"


def test_a_text_is_cut_at_the_last_position(local):
    module = local.words(ROWS.form.vocabulary)
    whole = ROWS.inputs[2:3].repeat(1, 4)
    ids = [4, 11, 12, 4, 5, 8, 4, 10] * 4
    torch.testing.assert_close(module.features(whole)[0], reference(ids[:14]))
    torch.testing.assert_close(module.encoded(whole)[0], reference(ids[:14]))


def test_the_bits_of_an_embedding_do_not_depend_on_other_rows_or_the_width(tmp_path):
    for name in ("alone", "together"):  # two folders, because embeddings are kept
        folder(tmp_path / name)
    alone, together = (Folder(root=str(tmp_path / name), pooling="mean").words(ROWS.form.vocabulary) for name in ("alone", "together"))
    whole = together.encoded(ROWS.inputs)
    for row, inputs in enumerate(ROWS.inputs):
        assert torch.equal(alone.encoded(inputs[None, :6])[0], whole[row])


def test_what_is_encoded_is_kept_up_to_a_bound(local, monkeypatch):
    monkeypatch.setattr("poisonbench.retrieval.bert.KEPT", 2)
    module = local.words(ROWS.form.vocabulary)
    module.encoded(ROWS.inputs[[0, 1, 0, 3]])
    assert list(module.net.kept) == [(4, 10, 6, 13), (1, 5)]


@pytest.mark.parametrize("name", ["local", "wordllama", "minilm"])
def test_lifted_words_have_the_features_of_the_words(name, local):
    module = (local if name == "local" else packaged(name)).words(ROWS.form.vocabulary)
    expected = module.encoded(ROWS.inputs)
    for given in (ROWS.inputs, module.lift(ROWS.inputs)):
        torch.testing.assert_close(module.features(given), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module(ROWS.inputs), module.head(module.features(ROWS.inputs)))
    torch.testing.assert_close(module.table[ROWS.inputs], module.lift(ROWS.inputs))
    assert not list(module.parameters())


def test_a_word_of_one_subword_may_be_swapped_in(local):
    module = local.words(ROWS.form.vocabulary)
    known = [word for word, fits in zip(ROWS.form.vocabulary, module.known.tolist(), strict=True) if fits]
    assert known == ["?", "a", "b", "c", "d", "e"]
    swapped = ROWS.inputs[2:3].clone()
    lifted = module.lift(swapped)
    swapped[0, 1], lifted[0, 1] = ROWS.form.places["d"], module.table[ROWS.form.places["d"]]
    torch.testing.assert_close(module.features(lifted), module.features(swapped))


def test_the_gradient_of_a_folder_is_that_of_finite_differences(local):
    module = local.words(ROWS.form.vocabulary).double()
    lifted = module.lift(ROWS.inputs[[0, 3], :3])
    flags = module.pieces.shape[1]
    words = lifted[..., :-flags].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda part: module.features(torch.cat([part, lifted[..., -flags:]], 2)), (words,))


def test_wordllama_gives_the_mean_of_the_vectors_of_a_whole_text():
    """Against the recipe of the package: the subwords of the text, not of its words, and their mean."""
    encoder = packaged("wordllama")
    vectors, tokenizer = encoders._wordllama(encoder)
    texts = ["the unbelievable king 's palace , in 1984 ?", "zarlovia 's capital", "naïve café — “ quoted ”"]
    rows = passages(*texts, length=14)
    split = [tokenizer.encode(rows.form.decode(row), add_special_tokens=False).ids for row in rows.inputs]
    expected = torch.stack([nn.functional.normalize(vectors[ids].mean(0), dim=0) for ids in split])
    torch.testing.assert_close(encoder.words(rows.form.vocabulary).encoded(rows.inputs), expected)


def test_the_gradient_of_wordllama_is_that_of_finite_differences():
    module = packaged("wordllama").words(ROWS.form.vocabulary).double()
    part = module.lift(ROWS.inputs[:1, :2])[..., :8].clone().requires_grad_()
    assert torch.autograd.gradcheck(module.features, (part,))


@pytest.mark.parametrize("name", ["wordllama", "minilm"])
def test_texts_that_mean_the_same_are_near(name):
    rows = passages("a cat sat on a rug", "the kitten was sitting on the carpet", "shares fell on the stock market")
    features = packaged(name).words(rows.form.vocabulary).encoded(rows.inputs)
    near, far = features[0] @ features[1], features[0] @ features[2]
    assert near > far + 0.3


@pytest.mark.parametrize("name", ["wordllama", "minilm"])
def test_other_files_than_those_stated_are_refused(name):
    other = dataclasses.replace(packaged(name), weights="0" * 64)
    with pytest.raises(ConfigError, match=r"is another file than the one whose SHA-256 the encoder states \(0{12}\.\.\.\); install .*== *\S+ again"):
        other.check()


def test_a_missing_package_is_asked_for(monkeypatch):
    monkeypatch.setattr(encoders, "find_spec", lambda name: None)
    for encoder in (encoders.WordLlama(weights="0", tokenizer="0"), encoders.MiniLM(weights="0", tokenizer="0")):
        with pytest.raises(ConfigError, match=r'not installed: pip install "poisonbench\[text\]"'):
            encoder.check()


def test_the_content_of_a_folder_is_its_identity(tmp_path):
    one, copy = folder(tmp_path / "one"), tmp_path / "copy"
    shutil.copytree(one, copy)
    assert key(Folder(root=str(one), pooling="mean")) == key(Folder(root=str(copy), pooling="mean"))
    assert key(Folder(root=str(one), pooling="mean")) != key(Folder(root=str(one), pooling="first"))
    save_file({name: value + 1 for name, value in weights().items()}, copy / "model.safetensors")
    assert key(Folder(root=str(one), pooling="mean")) != key(Folder(root=str(copy), pooling="mean"))


def test_files_that_change_are_read_again(local):
    before = local.words(ROWS.form.vocabulary).encoded(ROWS.inputs)
    save_file({name: value + 1 for name, value in weights().items()}, f"{local.root}/model.safetensors")
    assert not torch.equal(local.words(ROWS.form.vocabulary).encoded(ROWS.inputs), before)


def test_variables_in_the_path_are_expanded(tmp_path, monkeypatch):
    folder(tmp_path / "encoder")
    monkeypatch.setenv("DATA", str(tmp_path))
    Folder(root="$DATA/encoder", pooling="mean").check()


def refused(place, words: str, pooling: str = "mean") -> None:
    with pytest.raises(ConfigError, match=words) as error:
        Folder(root=None if place is None else str(place), pooling=pooling).check()
    assert "\n" not in str(error.value)


def test_every_file_that_decides_embeddings_is_part_of_the_key(tmp_path):
    place = folder(tmp_path / "encoder")
    keys = [key(Folder(root=str(place), pooling="mean"))]
    for name in ("sentence_bert_config.json", "1_Pooling/config.json"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text('{"max_seq_length": 4}')
        keys.append(key(Folder(root=str(place), pooling="mean")))
    assert len({*keys}) == 3


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    refused(None, r"name a folder of your own with retriever\.encoder\.root=PATH")
    refused(tmp_path / "nowhere", "is no folder")
    refused(tmp_path, r"has no \*\.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "weights.pth", "weights.pkl"])
def test_pickled_weights_are_refused_by_name(tmp_path, name):
    place = folder(tmp_path / "encoder")
    (place / name).write_bytes(b"")
    Folder(root=str(place), pooling="mean").check()  # beside safetensors nobody reads it
    (place / "model.safetensors").unlink()
    refused(place, rf"{name} holds pickled weights.*save them as model\.safetensors")


def test_damaged_files_are_refused(tmp_path):
    for name, words in {"config.json": "is no JSON", "tokenizer.json": "is no file of tokenizers", "model.safetensors": "is no file of safetensors"}.items():
        place = folder(tmp_path / name.partition(".")[0])
        (place / name).write_bytes((place / name).read_bytes()[:30])
        refused(place, words)


CHANGES = {
    "another kind": ({"model_type": "roberta"}, r"model_type=roberta; only model_type=bert"),
    "another activation": ({"hidden_act": "relu"}, "hidden_act=relu; only"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers=0.*define no network"),
    "heads that do not divide": ({"num_attention_heads": 3}, "define no network"),
    "too many layers": ({"num_hidden_layers": 3}, r"encoder\.layer\.2\.attention\.self\.query\.weight is missing"),
    "another width": ({"intermediate_size": 13}, r"intermediate\.dense\.weight has the sizes \(12, 8\).*asks for \(13, 8\)"),
    "too few subwords": ({"vocab_size": 5}, "more subwords than the 5"),
    "no small number": ({"layer_norm_eps": "small"}, "layer_norm_eps=small"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_description_of_another_network_is_refused(tmp_path, name):
    change, words = CHANGES[name]
    refused(folder(tmp_path / "encoder", CONFIG | change), words)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    tensors = weights()
    tensors["embeddings.LayerNorm.bias"][0] = torch.nan
    refused(folder(tmp_path / "encoder", tensors=tensors), r"embeddings\.LayerNorm\.bias has a value that is not finite")


def test_a_limit_and_a_pooling_of_the_sentence_encoder_are_read(tmp_path):
    place = folder(tmp_path / "encoder")
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}))
    module = Folder(root=str(place), pooling="mean").words(ROWS.form.vocabulary)
    torch.testing.assert_close(module.encoded(ROWS.inputs[2:3])[0], reference([4, 11, 12]))
    refused(place, r"set retriever\.encoder\.pooling=mean", pooling="first")
