#!/usr/bin/env bash
# Finding: tokenizers 0.23.3, WordPieceTrainer, gives words other ids at each training on the same texts, and sometimes splits words otherwise.
#
# Behaviour: training has no random step and no seed, and BpeTrainer gives one table of ids. With a prefix for the inner parts of words
#   ("##" in WordPiece) or with a suffix for their ends, the table of ids changes from one training to the next within one process.
#   If pairs are equally frequent, other pairs are merged too, so that one text has several splits. Issue 1794 of huggingface/tokenizers, from
#   2025, is open; the proposed change 2066 names the order of a hash map as the reason. TOKENIZERS_PARALLELISM=false does not help.
# Input: three copies of one line of nine words, and one line of twelve words without a repetition; 50 trainings each, in one process.
# Output seen (Python 3.11); the 17 and the 24 are others in each run:
#   BPE: 50 trainings, 1 tables of ids, 1 set of entries
#   BPE with suffix: 50 trainings, 17 tables of ids, 1 set of entries
#   WordPiece: 50 trainings, 24 tables of ids, 1 set of entries
#   BPE, words that occur once: 50 trainings, 1 splits of one text
#   WordPiece, words that occur once: 50 trainings, 2 splits of one text
#     [UNK] to t ##h ##e to ##k ##e ##n ##i ##z ##e ##r ##s [UNK]
#     [UNK] to th ##e to ##k ##e ##n ##i ##z ##e ##r ##s [UNK]
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
TOKENIZERS_PARALLELISM=false "$folder/venv/bin/python" -W ignore - <<'PY'
import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

REPEATED = ["low lower lowest new newer newest wide wider widest"] * 3
ONCE = ["wel come to the tok en izers libr ary of all texts"]
ASKED = "welcome to the tokenizers library"
BPE = dict(model=models.BPE, trainer=trainers.BpeTrainer)
KINDS = {
    "BPE": BPE,
    "BPE with suffix": BPE | {"end_of_word_suffix": "</w>"},
    "WordPiece": dict(model=models.WordPiece, trainer=trainers.WordPieceTrainer),
}


def trained(texts, size, model, trainer, **marks):
    tokenizer = Tokenizer(model(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    recipe = trainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False, **marks)
    tokenizer.train_from_iterator(texts, recipe)
    return tokenizer


print(f"tokenizers {tokenizers.__version__}")
tables = {}
for kind, recipe in KINDS.items():
    found = [trained(REPEATED, 30, **recipe) for _ in range(50)]
    tables[kind] = len({tuple(sorted(tokenizer.get_vocab().items())) for tokenizer in found})
    words = len({frozenset(tokenizer.get_vocab()) for tokenizer in found})
    print(f"{kind}: 50 trainings, {tables[kind]} tables of ids, {words} set of entries")
splits = {}
for kind in ("BPE", "WordPiece"):
    splits[kind] = {" ".join(trained(ONCE, 45, **KINDS[kind]).encode(ASKED).tokens) for _ in range(50)}
    print(f"{kind}, words that occur once: 50 trainings, {len(splits[kind])} splits of one text")
for split in sorted(splits["WordPiece"])[:2]:
    print(f"  {split}")
same = tables["BPE"] == 1 and min(tables["BPE with suffix"], tables["WordPiece"]) > 1
same = same and len(splits["BPE"]) == 1 and len(splits["WordPiece"]) > 1
raise SystemExit(0 if same else "changed: training gives the same table each time now, or BPE does not any more")
PY
