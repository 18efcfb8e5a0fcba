"""Which plugins a proof stays valid with: any other pair is skipped with a reason, before anything is computed."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from defenses.certify.dp_ensemble import DpCertificate
from defenses.certify.dpa import DpaCertificate
from defenses.train.dp_ensemble import DpEnsemble
from defenses.train.dp_sgd import PrivateStep
from defenses.train.dpa import Dpa, Ensemble
from poisonbench.config.build import build
from poisonbench.config.compose import CONFIGS, options, tree_of
from poisonbench.core.defense import AsTrained, Defense, KeepAll, Mended, NoCertificate, Verdict
from poisonbench.core.learner import Around, PlainStep, WithStep
from poisonbench.core.plugins import OWN
from poisonbench.core.proof import ALONE, needs, parts
from poisonbench.runner.check import check
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from tests.conftest import SEARCHING

FEW = ("defense.train.parts=5",)
ALL, ALONE_TOO, MODEL = "uses all training rows", "may change or remove training rows", "acts on the trained model"
VOID = {
    "[spectral,dpa]": (FEW, "certify (DpaCertificate)", "sanitize (SpectralSignatures)", f"that filter {ALL}"),
    "[spectral,finite_aggregation]": (("defense.train.parts=3", "defense.train.spread=2"), "certify (FiniteAggregationCertificate)", "sanitize", ALL),
    "[deep_knn,run_off_election]": (FEW, "certify (RunOffCertificate)", "sanitize (DeepKnn)", ALL),
    "[knn_outlier,hash_bagging]": (FEW, "certify (HashBaggingCertificate)", "sanitize (KnnOutlier)", ALL),
    "[activation_clustering,bagging]": (("defense.train.members=5",), "certify (BaggingCertificate)", "sanitize (ActivationClustering)", ALL),
    "[random_drop,collective]": (FEW, "certify (CollectiveCertificate)", "sanitize (RandomDrop)", ALL),
    "[oracle,dpa]": (FEW, "certify (DpaCertificate)", "sanitize (Oracle)", ALL),
    "[spectral,label_smoothing]": ((), "certify (LabelSmoothingCertificate)", "sanitize (SpectralSignatures)", ALL),
    "[trusted_outlier,label_smoothing]": ((), "certify (LabelSmoothingCertificate)", "sanitize (TrustedOutlier)", f"that filter {ALONE_TOO}"),
    "[trusted_outlier,ss_dpa]": (FEW, "certify (SsDpaCertificate)", "sanitize (TrustedOutlier)", ALONE_TOO),
    "[strip,dpa]": (FEW, "certify (DpaCertificate)", "screen (Strip)", f"that screen {MODEL}"),
    "[strip,randomized_ablation]": ((), "certify (AblationCertificate)", "screen (Strip)", MODEL),
    "[spectral,dp_ensemble]": (("defense.train.members=2",), "certify (DpCertificate)", "sanitize (SpectralSignatures)", ALL),
    "[strip,dp_ensemble]": (("defense.train.members=2",), "certify (DpCertificate)", "screen (Strip)", MODEL),
    "[spectral,dp_sgd]": (("defense.train.step.delta=1e-4",), "train (PrivateStep)", "sanitize (SpectralSignatures)", ALL),
    "[trusted_outlier,dp_sgd,fine_tune]": (("defense.train.step.delta=1e-4",), "train (PrivateStep)", "repair (FineTune)", f"that repair {ALL}"),
}


@pytest.mark.parametrize("names", VOID)
def test_what_voids_a_proof_is_skipped_with_the_reason_before_any_compute(tiny, store, names):
    words, holder, found, why = VOID[names]
    record = run(tiny(f"defense={names}", *words), store)
    assert record.status == "skipped"
    assert record.reason.startswith(f"defense.{holder} is not valid together with defense.{found}")
    assert why in record.reason
    assert ("`~defense.certify`" in record.reason) == holder.startswith("certify")
    assert not store.visits


def test_the_reason_says_what_is_not_valid_why_and_what_to_remove(tiny, store):
    assert run(tiny("defense=[spectral,dpa]", *FEW), store).reason == (
        "defense.certify (DpaCertificate) is not valid together with defense.sanitize (SpectralSignatures), because that filter uses all "
        "training rows. Remove one of them; `~defense.certify` removes the certificate."
    )


STANDS = {
    "[trusted_outlier,dpa]": FEW,
    "[trusted_outlier,dp_sgd]": (
        "net.norm=group",
        "defense.train.step.delta=1e-3",
    ),
    "[dp_sgd,fine_tune]": (
        "net.norm=group",
        "defense.train.step.delta=1e-3",
    ),
    "[dp_sgd,strip]": ("net.norm=group", "defense.train.step.delta=1e-3", "defense.screen.overlays=5"),
    "[spectral,randomized_ablation]": ("defense.train.draws=10", "defense.certify.draws=20"),
}


@pytest.mark.parametrize("names", STANDS)
def test_what_leaves_a_proof_whole_is_run(tiny, shared, names):
    assert run(tiny("attack=backdoor", f"defense={names}", *STANDS[names]), shared).status == "done"


def test_without_the_proof_the_same_pair_is_measured(tiny, shared):
    record = run(tiny("attack=backdoor", "defense=[spectral,dpa]", *FEW, "~defense.certify"), shared)
    assert record.status == "done"
    assert "certified" not in record.metrics


def test_a_sorted_split_tolerates_no_filter_whoever_certifies(tiny, store):
    words = ("defense=[trusted_outlier,ss_dpa]", *FEW, "defense.certify._target_=defenses.certify.dpa.DpaCertificate", "defense.certify.change=flip")
    assert "defense.train (SsDpa) is not valid together with defense.sanitize (TrustedOutlier)" in run(tiny(*words), store).reason


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A filter without declarations."""

    def judge(self, data, means, rng):
        return Verdict(keep=torch.ones(len(data), dtype=torch.bool), suspicion=torch.zeros(len(data)))


@dataclass(frozen=True, kw_only=True)
class Open(Foreign):
    """The same filter, declared to look at each row alone."""

    LOOKS_AT: ClassVar[str] = "each row alone"


@dataclass(frozen=True, kw_only=True)
class Silent:
    """A certifier that does not declare what it tolerates, without a base class."""

    unit = "things"

    def certify(self, victim, test):
        return torch.zeros(len(test), dtype=torch.int64)

    def together(self, victim, test):
        return {}


@dataclass(frozen=True, kw_only=True)
class Derived(NoCertificate):
    """A certifier that does not declare what it tolerates, with a base class."""


@dataclass(frozen=True, kw_only=True)
class Nosy:
    """A repairer that needs the poison mask, which depends on private rows."""

    NEEDS: ClassVar[frozenset[str]] = frozenset({"truth"})

    def repair(self, victim, verdict, means, rng):
        return Mended(victim=victim)


@dataclass(frozen=True, kw_only=True)
class Heir(KeepAll):
    """A filter derived from the one that keeps all rows."""

    def judge(self, data, means, rng):
        return Verdict(keep=torch.ones(len(data), dtype=torch.bool), suspicion=torch.zeros(len(data)))


@dataclass(frozen=True, kw_only=True)
class Mender(AsTrained):
    """A repairer derived from the one that repairs nothing; it needs the poison mask."""

    NEEDS: ClassVar[frozenset[str]] = frozenset({"truth"})


DPA, PRIVATE = Dpa(parts=5, member=None), WithStep(step=PrivateStep(epsilon=3.0, delta=1e-3, max_grad_norm=1.0, accountant="rdp", sampling="poisson"))


@pytest.mark.parametrize(
    ("defense", "status"),
    [
        (Defense(sanitize=Foreign(), train=DPA, certify=DpaCertificate()), "skipped"),
        (Defense(sanitize=Open(), train=DPA, certify=DpaCertificate()), "done"),
        (Defense(sanitize=Open(), train=DPA, certify=Silent()), "skipped"),
        (Defense(sanitize=Open(), train=DPA, certify=Derived()), "skipped"),
        (Defense(sanitize=Foreign(), train=DPA), "done"),
        (Defense(sanitize=Foreign(), train=PRIVATE), "skipped"),
        (Defense(sanitize=Open(), train=PRIVATE), "done"),
        (Defense(train=PRIVATE, repair=Nosy()), "skipped"),
        (Defense(train=PRIVATE, repair=Mender()), "skipped"),
        (Defense(sanitize=Heir(), train=PRIVATE), "skipped"),
    ],
    ids=str,
)
def test_who_says_nothing_is_taken_to_look_at_everything_and_to_tolerate_nothing(tiny, shared, defense, status):
    assert run(tiny("net.norm=group", defense=defense), shared).status == status


def test_a_private_step_of_the_recipe_itself_is_held_to_the_same_rule(tiny, store):
    experiment = tiny("net.norm=group", "defense=spectral")
    private = dataclasses.replace(experiment, learner=experiment.learner.with_step(PRIVATE.step))
    assert "learner (PrivateStep) is not valid together with defense.sanitize (SpectralSignatures)" in run(private, store).reason


def test_other_steps_beside_a_private_one_have_to_act_on_each_row_alone(tiny, store):
    experiment = tiny("net.norm=group", defense=Defense(train=PRIVATE))
    other = dataclasses.replace(experiment, learner=experiment.learner.with_step(PlainStep()))
    assert "defense.train (PrivateStep) is not valid together with the step PlainStep" in run(other, store).reason


def test_a_step_that_is_derived_from_nothing_is_seen_beside_a_private_one(tiny, store):
    methods = {name: method for name, method in vars(PlainStep).items() if not name.startswith("_")}
    loose = dataclasses.make_dataclass("Loose", [], namespace=methods, frozen=True)()
    experiment = tiny("net.norm=group", defense=Defense(train=PRIVATE))
    other = dataclasses.replace(experiment, learner=experiment.learner.with_step(loose))
    assert not isinstance(loose, PlainStep)
    assert "defense.train (PrivateStep) is not valid together with the step Loose" in run(other, store).reason


@dataclass(frozen=True, kw_only=True)
class Outside(PlainStep):
    """The step of an attacker who runs the training."""


def test_nothing_is_proved_of_a_training_that_the_attacker_runs(tiny, store):
    experiment = tiny(defense=Defense(certify=DpaCertificate()))
    ensemble = dataclasses.replace(experiment, learner=DPA(experiment.learner), attack=dataclasses.replace(experiment.attack, train=Outside()))
    assert "the attacker runs the training, so defense.certify (DpaCertificate) proves nothing" in run(ensemble, store).reason


@dataclass(frozen=True, kw_only=True)
class Trimmed(Around):
    """A learner that drops the farthest rows, as a filter does, before another one trains; it has no declarations."""

    def fit(self, data, combine, rng, start=None):
        distances = (rows := data.inputs.flatten(1).float()).sub(rows.mean(0)).norm(dim=1)
        return self.member.fit(data.take(distances <= distances.quantile(0.8)), combine, rng)

    def restore(self, trained, like, combine):
        return self.member.restore(trained, like, combine)


@dataclass(frozen=True, kw_only=True)
class Whole(Around):
    """A learner that passes on all rows unchanged, and declares it."""

    LOOKS_AT: ClassVar[str] = "nothing"

    def fit(self, data, combine, rng, start=None):
        return self.member.fit(data, combine, rng)

    def restore(self, trained, like, combine):
        return self.member.restore(trained, like, combine)


@dataclass(frozen=True, kw_only=True)
class Inherited(Whole, Trimmed):
    """A learner that drops rows, derived from one that declares that it does not."""

    fit = Trimmed.fit


@dataclass(frozen=True, kw_only=True)
class Trimming(Ensemble):
    """An ensemble that drops rows, derived from one that certificates are about."""

    def divided(self, data, rng):
        return super().divided(data.take(torch.arange(len(data) // 2)), rng)


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """The wrap that puts one learner around the result of another wrap, and one inside."""

    wrap: object
    outside: str = "Whole"
    inside: str = "Whole"

    def __call__(self, learner):
        return AROUND[self.outside](member=self.wrap(AROUND[self.inside](member=learner)))


AROUND = {kind.__name__: kind for kind in (Whole, Trimmed, Inherited)}
REPEATED = DpEnsemble(members=2, step=PRIVATE.step)
DP = DpCertificate(alpha=0.2, change="insert", radii=())


@pytest.mark.parametrize(
    ("defense", "reason"),
    [
        (Defense(train=Wrapped(wrap=PRIVATE)), ""),
        (
            Defense(train=Wrapped(wrap=PRIVATE, outside="Trimmed")),
            "(PrivateStep) is not valid together with the learner Trimmed, because that learner uses all",
        ),
        (Defense(train=Wrapped(wrap=PRIVATE, inside="Trimmed")), "(PrivateStep) is not valid together with the learner Trimmed"),
        (Defense(train=Wrapped(wrap=PRIVATE, outside="Inherited")), "(PrivateStep) is not valid together with the learner Inherited"),
        (Defense(train=Wrapped(wrap=DPA), certify=DpaCertificate()), ""),
        (Defense(train=Wrapped(wrap=DPA, inside="Trimmed"), certify=DpaCertificate()), ""),  # a member may do what it likes with its part
        (Defense(train=Wrapped(wrap=DPA, outside="Trimmed"), certify=DpaCertificate()), "(DpaCertificate) is not valid together with the learner Trimmed"),
        (Defense(train=Wrapped(wrap=DPA, outside="Inherited"), certify=DpaCertificate()), "(DpaCertificate) is not valid together with the learner Inherited"),
        (Defense(train=Wrapped(wrap=DPA, outside="Trimmed")), ""),  # nothing is claimed
        (Defense(train=Wrapped(wrap=REPEATED), certify=DP), ""),
        (Defense(train=Wrapped(wrap=REPEATED, outside="Trimmed"), certify=DP), "(DpCertificate) is not valid together with the learner Trimmed"),
        (Defense(train=Wrapped(wrap=REPEATED, inside="Trimmed"), certify=DP), "(PrivateStep) is not valid together with the learner Trimmed"),
        (Defense(train=Wrapped(wrap=REPEATED, outside="Trimmed")), "(PrivateStep) is not valid together with the learner Trimmed"),
    ],
)
def test_a_learner_on_the_way_to_the_proven_training_is_held_to_the_rule(tiny, store, defense, reason):
    experiment = tiny("net.norm=group", "learner.epochs=1", defense=defense)
    if reason:
        record = run(experiment, store)
        assert (record.status, store.visits) == ("skipped", [])
        assert reason in record.reason
    else:
        check(Line(experiment=experiment, store=store))


def test_an_ensemble_that_is_derived_from_a_certified_one_has_to_say_that_it_still_is(tiny, store):
    wrap = dataclasses.make_dataclass("Wrap", [], namespace={"__call__": lambda self, learner: Trimming(member=learner, parts=5)}, frozen=True)()
    record = run(tiny(defense=Defense(train=wrap, certify=DpaCertificate())), store)
    assert record.reason == "defense.certify (DpaCertificate) has nothing to prove: no part of the learner Trimming declares MECHANISM"


@pytest.mark.parametrize(
    "words", [("defense=dpa", *FEW), ("defense=bagging", "defense.train.members=3"), ("defense=hash_bagging", *FEW), ("learner=federated",)]
)
def test_private_members_of_a_committee_and_private_clients_do_not_report_one_epsilon_for_all(tiny, store, words):
    """No accountant adds up what they spend, so such a run is refused, and no record has the epsilon of only one of them."""
    experiment = tiny("net.norm=group", *words)
    private = dataclasses.replace(experiment, learner=experiment.learner.with_step(PRIVATE.step))
    record = run(private, store)
    assert (record.status, store.visits) == ("skipped", [])
    assert "learner (PrivateStep) is not valid together with the learner" in record.reason


@pytest.mark.parametrize("second", [PRIVATE.step, dataclasses.replace(PRIVATE.step, epsilon=1.0)], ids=["equal", "another"])
def test_two_private_steps_are_refused_in_one_sentence(tiny, store, second):
    experiment = tiny("net.norm=group", defense=Defense(train=PRIVATE))
    record = run(dataclasses.replace(experiment, learner=experiment.learner.with_step(second)), store)
    assert (record.status, store.visits) == ("skipped", [])
    assert "the training has two private steps" in record.reason
    assert "remove one of them" in record.reason


@pytest.mark.parametrize("inside", [(Nosy(), Open()), [Nosy(), Open()], {"one": Nosy(), "other": Open()}], ids=["tuple", "list", "mapping"])
def test_needs_are_found_inside_what_holds_several(inside):
    outer = dataclasses.make_dataclass("Inside", [("plugins", object)], frozen=True)(plugins=inside)
    assert needs(outer) == {"truth"}
    assert Open() in list(parts(outer))


@pytest.mark.parametrize("name", [name for name in options("defense") if name != "none"])
def test_what_certificates_are_about_is_declared_by_every_learner_that_has_a_place_for_them(tiny, name):
    """A conformance test: without the declaration a certificate of ours would always be skipped."""
    experiment = tiny(f"defense={name}", *(("task=facts",) if name in SEARCHING else ()))
    learner = experiment.defense.train(experiment.learner)
    assert ("defense.certify" in learner.stages) == ("MECHANISM" in vars(type(learner)))


CERTIFIED = [name for name in options("defense") if "certify:" in (CONFIGS / "defense" / f"{name}.yaml").read_text()]
UNITS = {
    "insert": "inserted",
    "delete": "deleted",
    "flip": "flipped labels",
    "edit": "edited rows",
}


@pytest.mark.parametrize("name", CERTIFIED)
def test_every_certificate_says_what_it_counts_and_what_it_tolerates(name):
    certify = build(tree_of([f"defense={name}"])["defense"], OWN, "defense").certify
    assert certify.unit != NoCertificate().unit
    assert any("TOLERATES" in vars(kind) for kind in type(certify).__mro__ if kind is not NoCertificate)
    assert "screen" not in certify.TOLERATES
    assert hasattr(certify, "alpha") == ("with confidence 1 - alpha" in type(certify).__doc__)  # by this field reports know a randomised proof
    for change, unit in UNITS.items():
        if hasattr(certify, "change") and certify.TOLERATES is not ALONE:
            assert unit in dataclasses.replace(certify, change=change).unit
