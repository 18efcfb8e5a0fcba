"""The README's first example in fewer epochs, on a seed that no record uses; `.ci/run` runs it as it is."""

from poisonbench.config.compose import tree_of
from poisonbench.runner.experiment import assemble
from poisonbench.runner.pipeline import run


def test_spectral_signatures_undo_a_backdoor_on_digits(store):
    record = run(assemble(tree_of(["attack=backdoor", "defense=spectral", "defense.sanitize.margin=2.5", "seed=100", "learner.epochs=8"]), store), store)
    assert record.undefended["c_acc"] >= 0.95
    assert record.undefended["asr"] >= 0.95
    assert record.metrics["asr"] <= 0.1
    assert record.metrics["c_acc"] >= record.undefended["c_acc"] - 0.02
    assert record.baseline["asr"] <= 0.03
    assert record.metrics["auroc_in_class"] >= 0.95
