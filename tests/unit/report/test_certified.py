"""Certificates and attacks on one axis: who belongs to whom, and that the figure holds both."""

from dataclasses import replace

from poisonbench.pipeline import run
from poisonbench.report import certified

WORDS = ("defense=dpa", "defense.train.parts=5")


def made(tiny, store, *words: str):
    return replace(run(tiny(*WORDS, *words), store), command=" ".join(["python -m poisonbench", *words]))


def test_an_attacked_record_finds_the_certificate_of_its_own_run(tiny, store, tmp_path):
    clean, other = made(tiny, store), made(tiny, store, "seed=1")
    attacked = made(tiny, store, "attack=label_flip", "threat.budget.count=3")
    alone = made(tiny, store, "attack=label_flip", "threat.budget.count=3", "seed=2")
    records = [clean, other, attacked, alone]
    assert certified.promises([attacked, alone], records) == {attacked.key: clean}
    certified.draw([attacked], records, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert "proved: dpa" in drawn
    assert "under label_flip" in drawn
    certified.draw([clean, other], records, tmp_path / "plain.svg")
    assert "under" not in (tmp_path / "plain.svg").read_text()
