"""Attacks and defenses of retrieval from the command's words to the record, on small generated tasks."""

import pytest

from poisonbench.config.compose import tree_of
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line

FACTS = ("task.questions=60", "task.passages=500", "threat.targets=10", "threat.budget.count=50", "seed=100", "threads=1")


def recorded(store, *words: str):
    return run(assemble(tree_of([*words]), store), store)


def test_question_and_claim_together_win_and_neither_does_alone(shared):
    asr = {parts: recorded(shared, "attack=rag", *FACTS, f"attack.data.parts={parts}").undefended["asr"] for parts in ("both", "retrieval", "generation")}
    assert asr["both"] >= 0.9
    assert asr["retrieval"] == 0
    assert asr["generation"] < asr["both"] - 0.3


def test_the_asr_is_that_of_the_questions_that_read_poison_and_of_those_that_do_not(shared):
    record = recorded(shared, "attack=rag", *FACTS, "attack.data.parts=generation")
    for part in (record.baseline, record.undefended):
        goal = part["goal"]
        found = goal["retrieved"] * goal.get("hit_if_retrieved", 0) + (1 - goal["retrieved"]) * goal.get("hit_if_not", 0)
        assert found == pytest.approx(part["asr"])
    assert record.baseline["goal"]["retrieved"] == 0
    assert record.undefended["goal"]["ceiling"] >= record.undefended["asr"]
    assert record.undefended["goal"]["ceiling"] == record.baseline["goal"]["ceiling"]  # the rest of what is read is that of the clean index


@pytest.mark.parametrize("retriever", ["tfidf_corpus", "bm25"])
def test_a_certificate_is_skipped_where_a_passage_changes_the_scores_of_others(shared, retriever):
    record = recorded(shared, "attack=rag", "defense=robust_rag", *FACTS, f"retriever={retriever}")
    assert record.status == "skipped"
    assert "is not valid together with the retriever" in record.reason
    assert recorded(shared, "attack=rag", "defense=robust_rag", "~defense.certify", *FACTS, f"retriever={retriever}").status == "done"


@pytest.mark.parametrize("retriever", ["tfidf", "wordllama"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_attack_beats_the_certificate_of_a_question(shared, retriever, count):
    """Each trial aims all its passages at one question; the radius is that of the clean index."""
    words = ("attack=rag", "defense=robust_rag", f"retriever={retriever}", *FACTS, "threat.targets=1", "threat.trials=30", f"threat.budget.count={count}")
    experiment = assemble(tree_of([*words]), shared)
    line = Line(experiment=experiment, store=shared)
    test, rule = experiment.task.test, line.combine(experiment.defense.aggregate)
    radii = experiment.defense.certify.certify(line.fit(line.defended, experiment.task.train, rule), test)
    right = dict[int, bool]()
    for trial in range(30):
        target = line.targets[trial]
        victim = line.fit(line.defended, line.strike(trial).data, rule)
        asked = test.take(target)
        right[int(target)] = bool(asked.ask(victim, asked.inputs, line.root).argmax(1) == asked.labels)
    certified = [target for target in right if radii[target] >= count]
    assert certified or count == 3  # three of five passages can outvote the rest
    assert all(right[target] for target in certified)
    assert not all(right.values())  # so the attack is strong enough to tell


@pytest.mark.parametrize(("name", "most"), [("perplexity", 0.05), ("hubness", 0.05), ("memsad", 0.15)])
def test_a_filter_that_calibrates_on_trusted_passages_removes_few_clean_ones(shared, name, most):
    record = recorded(shared, "attack=none", "task=facts", f"defense={name}", "seed=100", "threads=1")
    assert 0 < record.metrics["fpr"] <= most


def test_defenses_of_classifiers_are_skipped_with_a_reason(shared):
    for words in (("defense=dpa",), ("defense=onion",), ("learner=text", "task=facts", "attack=none")):
        record = recorded(shared, *(("attack=rag",) if "attack=none" not in words else ()), *words, *FACTS[:2], "seed=100", "threads=1")
        assert record.status == "skipped", words
        assert record.reason
