"""What may stand around a proof: every pair that voids one is skipped with a reason, before anything is computed."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from defenses.certify.dpa import DpaCertificate
from defenses.train.dp_sgd import PrivateStep
from defenses.train.dpa import Dpa
from poisonbench.build import build
from poisonbench.commands.compose import CONFIGS, options, tree_of
from poisonbench.core.defense import Defense, Mended, NoCertificate, Verdict
from poisonbench.core.learner import PlainStep, WithStep
from poisonbench.core.plugins import OWN
from poisonbench.core.proof import ALONE, needs, parts
from poisonbench.pipeline import run

FEW = ("defense.train.parts=5",)
VOID = {
    "[spectral,dpa]": (FEW, "DpaCertificate proves nothing beside SpectralSignatures, which looks at all rows"),
    "[spectral,finite_aggregation]": (("defense.train.parts=3", "defense.train.spread=2"), "FiniteAggregationCertificate"),
    "[deep_knn,run_off_election]": (FEW, "DeepKnn, which looks at all rows"),
    "[knn_outlier,hash_bagging]": (FEW, "KnnOutlier, which looks at all rows"),
    "[activation_clustering,bagging]": (("defense.train.members=5",), "ActivationClustering, which looks at all rows"),
    "[random_drop,collective]": (FEW, "RandomDrop, which looks at all rows"),
    "[oracle,dpa]": (FEW, "Oracle, which looks at all rows"),
    "[spectral,label_smoothing]": ((), "LabelSmoothingCertificate proves nothing beside SpectralSignatures"),
    "[trusted_outlier,label_smoothing]": ((), "LabelSmoothingCertificate proves nothing beside TrustedOutlier, which looks at each row alone"),
    "[trusted_outlier,ss_dpa]": (FEW, "SsDpaCertificate proves nothing beside TrustedOutlier"),
    "[strip,dpa]": (FEW, "DpaCertificate proves nothing beside Strip, which looks at the model"),
    "[strip,randomized_ablation]": ((), "AblationCertificate proves nothing beside Strip"),
    "[spectral,dp_ensemble]": (("defense.train.members=2",), "DpCertificate proves nothing beside SpectralSignatures"),
    "[strip,dp_ensemble]": (("defense.train.members=2",), "DpCertificate proves nothing beside Strip"),
    "[spectral,dp_sgd]": (("defense.train.step.delta=1e-4",), "PrivateStep proves nothing beside SpectralSignatures, which looks at all rows"),
    "[trusted_outlier,dp_sgd,fine_tune]": (("defense.train.step.delta=1e-4",), "PrivateStep proves nothing beside FineTune, which looks at all rows"),
}


@pytest.mark.parametrize("names", VOID)
def test_what_voids_a_proof_is_skipped_with_the_reason_before_any_compute(tiny, store, names):
    words, reason = VOID[names]
    record = run(tiny(f"defense={names}", *words), store)
    assert record.status == "skipped"
    assert reason in record.reason
    assert not store.visits


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
    assert "SsDpa proves nothing beside TrustedOutlier" in run(tiny(*words), store).reason


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A filter that says nothing about itself."""

    def judge(self, data, means, rng):
        return Verdict(keep=torch.ones(len(data), dtype=torch.bool), suspicion=torch.zeros(len(data)))


@dataclass(frozen=True, kw_only=True)
class Open(Foreign):
    """The same, which looks at each row alone."""

    LOOKS_AT: ClassVar[str] = "each row alone"


@dataclass(frozen=True, kw_only=True)
class Silent:
    """A certifier that says nothing about what it tolerates, and is derived from nothing."""

    unit = "things"

    def certify(self, victim, test):
        return torch.zeros(len(test), dtype=torch.int64)

    def together(self, victim, test):
        return {}


@dataclass(frozen=True, kw_only=True)
class Derived(NoCertificate):
    """A certifier that says nothing about what it tolerates."""


@dataclass(frozen=True, kw_only=True)
class Nosy:
    """A repairer that wants the poison mask, which speaks of private rows."""

    NEEDS: ClassVar[frozenset[str]] = frozenset({"truth"})

    def repair(self, victim, verdict, means, rng):
        return Mended(victim=victim)


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
    ],
    ids=str,
)
def test_who_says_nothing_is_taken_to_look_at_everything_and_to_tolerate_nothing(tiny, shared, defense, status):
    assert run(tiny("net.norm=group", defense=defense), shared).status == status


def test_a_private_step_of_the_recipe_itself_is_held_to_the_same_rule(tiny, store):
    experiment = tiny("net.norm=group", "defense=spectral")
    private = dataclasses.replace(experiment, learner=experiment.learner.with_step(PRIVATE.step))
    assert "PrivateStep proves nothing beside SpectralSignatures" in run(private, store).reason


def test_other_steps_beside_a_private_one_have_to_act_on_each_row_alone(tiny, store):
    experiment = tiny("net.norm=group", defense=Defense(train=PRIVATE))
    other = dataclasses.replace(experiment, learner=experiment.learner.with_step(PlainStep()))
    assert "PrivateStep proves nothing beside PlainStep" in run(other, store).reason


def test_a_step_that_is_derived_from_nothing_is_seen_beside_a_private_one(tiny, store):
    methods = {name: method for name, method in vars(PlainStep).items() if not name.startswith("_")}
    loose = dataclasses.make_dataclass("Loose", [], namespace=methods, frozen=True)()
    experiment = tiny("net.norm=group", defense=Defense(train=PRIVATE))
    other = dataclasses.replace(experiment, learner=experiment.learner.with_step(loose))
    assert not isinstance(loose, PlainStep)
    assert "PrivateStep proves nothing beside Loose" in run(other, store).reason


@dataclass(frozen=True, kw_only=True)
class Outside(PlainStep):
    """What an attacker who runs the training does in each step."""


def test_nothing_is_proved_of_a_training_that_the_attacker_runs(tiny, store):
    experiment = tiny(defense=Defense(certify=DpaCertificate()))
    ensemble = dataclasses.replace(experiment, learner=DPA(experiment.learner), attack=dataclasses.replace(experiment.attack, train=Outside()))
    assert "the attacker runs the training, so DpaCertificate proves nothing" in run(ensemble, store).reason


def test_needs_are_found_inside_tuples():
    inside = dataclasses.make_dataclass("Inside", [("plugins", tuple)], frozen=True)(plugins=(Nosy(), Open()))
    assert needs(inside) == {"truth"}
    assert Open() in list(parts(inside))


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
