from poisonbench.runner.pipeline import run

KEPT = ("learner.history_every=1", "threat.budget.rate=0.2")


def test_the_curve_of_a_victim_is_computed_once(tiny, store):
    first = run(tiny("attack=badnets", *KEPT), store)
    count = len(store.visits)
    second = run(tiny("attack=badnets", "defense=random_drop", *KEPT), store)
    fresh = [visit.made for visit in store.visits[count:] if visit.stage == "curve"]
    assert fresh == [False, False, True]  # baseline, undefended, defended
    assert second.curves["baseline"] == first.curves["baseline"]
    assert second.curves["undefended"] == first.curves["undefended"] != second.curves["defended"]


def test_the_last_point_of_a_curve_is_the_final_figure(tiny, store):
    record = run(tiny("attack=badnets", *KEPT), store)
    for part, figures in (("baseline", record.baseline), ("undefended", record.undefended), ("defended", record.metrics)):
        assert {name: len(curve) for name, curve in record.curves[part].items()} == {"c_acc": 4, "asr": 4}
        assert record.curves[part]["c_acc"][-1] == figures["c_acc"]
        assert record.curves[part]["asr"][-1] == figures["asr"]


def test_two_probes_of_one_victim_have_curves_of_their_own(tiny, store):
    one, other = (run(tiny("attack=badnets", f"attack.data.target={target}", *KEPT), store) for target in (0, 1))
    assert one.curves["baseline"]["c_acc"] == other.curves["baseline"]["c_acc"]
    assert one.curves["undefended"]["asr"] != one.curves["baseline"]["asr"]
    assert "asr" in other.curves["baseline"]
