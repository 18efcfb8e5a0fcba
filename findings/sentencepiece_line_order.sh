#!/usr/bin/env bash
# Finding: sentencepiece 0.2.3, the unigram trainer, learns other pieces and ids from the same lines in another order; the BPE trainer does not.
#
# Behaviour: both trainers read every line here, and none is sampled (input_sentence_size is 0, its default). With model_type="bpe" the order of the
#   lines changes nothing. With "unigram", the default, most ids change, and some pieces. The number of threads changes no piece and no id
#   here, but it changes the model file: num_threads is stored in it (one byte of a BPE file), and the scores of unigram pieces differ a little.
#   So a checksum of the file says nothing about the pieces.
# Input: 200 lines of 12 words, drawn by a fixed seed from 400 invented words; vocab_size=300; three other orders, and 2 and 8 threads.
# Output seen (Python 3.11):
#   bpe, reversed: 0 new pieces, 0 of 300 ids changed, 0 lines encoded otherwise
#   bpe, sorted: 0 new pieces, 0 of 300 ids changed, 0 lines encoded otherwise
#   bpe, shuffled: 0 new pieces, 0 of 300 ids changed, 0 lines encoded otherwise
#   bpe, 2 threads: 0 ids changed, the file is another
#   bpe, 8 threads: 0 ids changed, the file is another
#   unigram, reversed: 1 new pieces, 177 of 300 ids changed, 200 lines encoded otherwise
#   unigram, sorted: 1 new pieces, 177 of 300 ids changed, 200 lines encoded otherwise
#   unigram, shuffled: 1 new pieces, 176 of 300 ids changed, 200 lines encoded otherwise
#   unigram, 2 threads: 0 ids changed, the file is another
#   unigram, 8 threads: 0 ids changed, the file is another
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.3
"$folder/venv/bin/python" -W ignore - <<'PY'
import io
import random

import sentencepiece

LETTERS = "etaoinshrdlucmfwypvbgkqjxz"
draw = random.Random(0)
WORDS = ["".join(draw.choices(LETTERS, weights=range(26, 0, -1), k=draw.randint(2, 9))) for _ in range(400)]
LINES = [" ".join(draw.choices(WORDS, k=12)) for _ in range(200)]
ORDERS = {"reversed": LINES[::-1], "sorted": sorted(LINES), "shuffled": random.Random(1).sample(LINES, len(LINES))}


def trained(lines, kind, threads=1):
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=file, model_type=kind, vocab_size=300, num_threads=threads, minloglevel=2
    )
    return file.getvalue()


def compared(file, other):
    ours, theirs = (sentencepiece.SentencePieceProcessor(model_proto=model) for model in (file, other))
    pieces, others = ([model.id_to_piece(place) for place in range(len(model))] for model in (ours, theirs))
    new, moved = len(set(others) - set(pieces)), sum(one != two for one, two in zip(pieces, others))
    return new, moved, sum(ours.encode(line) != theirs.encode(line) for line in LINES)


print(f"sentencepiece {sentencepiece.__version__}")
ordered, threaded, changed = {}, {}, {}
for kind in ("bpe", "unigram"):
    first = trained(LINES, kind)
    assert first == trained(LINES, kind)
    for name, lines in ORDERS.items():
        new, moved, other = ordered[kind, name] = compared(first, trained(lines, kind))
        print(f"{kind}, {name}: {new} new pieces, {moved} of 300 ids changed, {other} lines encoded otherwise")
    for threads in (2, 8):
        file = trained(LINES, kind, threads)
        threaded[kind, threads], changed[kind, threads] = compared(first, file), file != first
        print(f"{kind}, {threads} threads: {threaded[kind, threads][1]} ids changed, the file is {'another' if file != first else 'the same'}")
same = all((other > 0) == (kind == "unigram") for (kind, _), (_, _, other) in ordered.items())
same = same and set(threaded.values()) == {(0, 0, 0)} and all(changed.values())
raise SystemExit(0 if same else "changed: the pieces no longer depend on the order, or the file no longer on the threads")
PY
