"""Rules and filters against other libraries: ByzFL, ART, scikit-learn and plain numpy. Times are compared only if the decisions agree.

Shape letters: R rows, P parameters, D features.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._options import Options
from benchmarks._timing import in_turns
from poisonbench.core.defense import Server
from poisonbench.core.errors import ConfigError, PoisonbenchError
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.core.rng import Key
from poisonbench.report.benchmarks import Comparison

Floats = NDArray[np.float32] | NDArray[np.float64]
Work = Callable[[], object]

CLASSES, DIMS, SIZE, RATE = 10, 10, 0.35, 0.05
STEPS, SMOOTHING = 3, 1e-6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One piece of our work, and the peers that do the same.

    Args:
        work: what is done.
        ours: the name of our implementation.
        run: our implementation.
        peers: the other implementations, by name.
        agree: whether the outputs of ours and of a peer are the same decision.
    """

    work: str
    ours: str
    run: Work
    peers: Mapping[str, Work]
    agree: Callable[[object, object], bool]


def measure(
    options: Options, *, clients: int = 50, parameters: int = 200_000, classes: tuple[tuple[int, int], ...] = ((200, 512), (5_000, 512)), repeats: int = 5
) -> Iterator[Comparison]:
    """Yield one comparison for each rule or filter and peer.

    Raises:
        ConfigError: a peer is not installed.
        PoisonbenchError: the decision of a peer differs.
    """
    byzfl, signatures, activations = (
        peer("byzfl"),
        peer("art.defences.detector.poison.spectral_signature_defense").SpectralSignatureDefense.spectral_signature_scores,
        peer("art.defences.detector.poison.activation_defence").cluster_activations,
    )
    adopt_own_packages()
    yield from compared(rules(byzfl, clients, parameters), repeats)
    for rows, dims in classes:
        parts = planted(rows, dims)
        yield from compared(filters(parts, signatures, activations), repeats)


def peer(module: str) -> ModuleType:
    """Return a module of a peer.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"benchmark peers: {error.name} is not installed; the peers come with pip install -c constraints.txt -e '.[peers]'") from error


def compared(cases: Iterator[Case], repeats: int) -> Iterator[Comparison]:
    """Yield one comparison for each case and peer.

    Raises:
        PoisonbenchError: the decision of a peer differs.
    """
    for case in cases:
        decided = case.run()
        for name, run in case.peers.items():
            if not case.agree(decided, run()):
                raise PoisonbenchError(f"{case.work}: {name} and {case.ours} decide differently, so their times cannot be compared")
            costs = in_turns(case.run, run, repeats=repeats, warm_up=False)
            yield Comparison(
                work=case.work,
                ours=case.ours,
                alternative=name,
                unit="s",
                ours_cost=costs.ours,
                alternative_cost=costs.alternative,
                facts=costs.cpu,
            )


def rules(byzfl: ModuleType, clients: int, parameters: int) -> Iterator[Case]:
    """Yield the rules that combine updates. ByzFL uses the n - f - 1 nearest, Krum's paper n - f - 2, so ByzFL gets f + 1 for the paper's f."""
    updates = torch.randn(clients, parameters, generator=Key.root(100).torch())
    array, f = updates.numpy(), clients // 5
    middle = array.mean(0)
    shifted = array - middle  # ByzFL's geometric median begins at zero, ours at the mean
    server = Server(round=0, state=torch.zeros(parameters), malicious=f, reference=lambda: torch.zeros(parameters))

    def case(name: str, arguments: Mapping[str, object], theirs: Callable[[object], object], peers: Mapping[str, Work], start: Floats | None = None) -> Case:
        module, _, kind = name.partition(".")
        rule = getattr(importlib.import_module(f"defenses.aggregate.{module}"), kind)(**arguments)
        given = array if start is None else shifted
        return Case(
            work=f"{module}, {clients} updates of {parameters} parameters",
            ours=f"defense={module}",
            run=lambda: rule(updates, server),
            peers={"ByzFL, numpy": lambda: _moved(theirs(given), start), "ByzFL, torch": lambda: _moved(theirs(torch.from_numpy(given)), start), **peers},
            agree=_close,
        )

    kept = clients - f - 1
    yield case("trimmed_mean.TrimmedMean", {"malicious": f}, byzfl.TrMean(f), {"numpy.sort": lambda: np.sort(array, axis=0)[f : clients - f].mean(0)})
    yield case("median.Median", {}, byzfl.Median(), {"numpy.median": lambda: np.median(array, axis=0)})
    steps = {"steps": STEPS, "smoothing": SMOOTHING}
    weiszfeld = byzfl.GeometricMedian(nu=SMOOTHING, T=STEPS)
    yield case("geometric_median.GeometricMedian", steps, weiszfeld, {"numpy, float32": lambda: geometric_median(array)}, middle)
    for name, arguments, theirs, chosen in (
        ("krum.Krum", {"malicious": f, "variant": "paper"}, byzfl.Krum(f + 1), 1),
        ("multi_krum.MultiKrum", {"malicious": f, "kept": kept}, byzfl.MultiKrum(f + 1), kept),
    ):
        doubles = {f"numpy, {kind}, rows not centred": lambda kind=kind, chosen=chosen: krum(array.astype(kind), f, chosen) for kind in ("float32", "float64")}
        yield case(name, arguments, theirs, doubles)


def _moved(found: object, start: Floats | None) -> object:
    return found if start is None else np.asarray(found) + start


def _close(ours: object, theirs: object) -> bool:
    return bool(np.allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-4, atol=1e-5))


def geometric_median(rows_RP: Floats) -> Floats:
    """Return the (P,) result of Weiszfeld's algorithm after `STEPS` steps from the mean."""
    centre = rows_RP.mean(0)
    for _ in range(STEPS):
        weights = 1 / np.maximum(np.linalg.norm(rows_RP - centre, axis=1), SMOOTHING)
        centre = weights @ rows_RP / weights.sum()
    return np.asarray(centre)


def krum(rows_RP: Floats, f: int, chosen: int) -> Floats:
    """Return (P,), the mean of the rows with the lowest Krum scores."""
    gram = rows_RP @ rows_RP.T
    sizes = gram.diagonal()
    nearest = np.sort(sizes[:, None] + sizes - 2 * gram, axis=1)[:, 1 : len(rows_RP) - f - 1]
    found: Floats = rows_RP[np.argsort(nearest.sum(1))[:chosen]].mean(0)
    return found


def planted(rows: int, dims: int) -> list[Tensor]:
    """Return (R, D) features of each class, a tenth of which are shifted."""
    features = torch.randn(CLASSES, rows, dims, generator=Key.root(100).torch()) + torch.arange(CLASSES)[:, None, None]
    features[:, : rows // 10] += 6 * torch.randn(CLASSES, 1, dims, generator=Key.root(101).torch())
    return list(features)


def filters(parts: list[Tensor], signatures: Callable[[Floats], Floats], activations: Callable[..., tuple[object, object]]) -> Iterator[Case]:
    """Yield the filters; a decision is which rows of each class are removed."""
    arrays = [part.numpy() for part in parts]
    sizes = f"{sum(map(len, parts))} x {parts[0].shape[1]} features, {len(parts)} classes"
    signature = importlib.import_module("defenses.sanitize.spectral").signature
    for centre, peers in (
        (True, {"numpy.linalg.svd a class": lambda: [top(squared_projections(part)) for part in arrays]}),
        (False, {"ART": lambda: [top(signatures(part)[:, 0]) for part in arrays]}),
    ):
        yield Case(
            work=f"spectral signatures, {'centred' if centre else 'uncentred'} scores, {sizes}",
            ours="defense=spectral",
            run=lambda centre=centre: [top(signature(part, centre=centre)[0].numpy()) for part in parts],  # type: ignore[misc]
            peers=peers,
            agree=_same,
        )
    clustering = importlib.import_module("defenses.sanitize.activation_clustering")
    for rule, peers in (
        ("relative_size", {"ART": lambda: _art(arrays, activations)}),
        ("silhouette", {"scikit-learn as backdoor-toolbox calls it": lambda: [clustered(part) for part in arrays]}),
    ):
        filter_ = clustering.ActivationClustering(reduction="pca", dims=DIMS, rule=rule, size=SIZE, silhouette=0.1, reclassified=1.0)

        def run(suspects: Callable[[object], bool] = filter_.poisoned) -> object:
            found = [clustering.split(clustering.reduced(part, "pca", DIMS, Key.root(100)), Key.root(100)) for part in parts]
            return [clusters.smaller.numpy() & suspects(clusters) for clusters in found]

        yield Case(work=f"activation clustering, {rule}, {sizes}", ours=f"defense=activation_clustering, rule={rule}", run=run, peers=peers, agree=_same)


def _same(ours: object, theirs: object) -> bool:
    return bool(np.array_equal(np.asarray(ours), np.asarray(theirs)))


def top(scores: Floats) -> NDArray[np.bool_]:
    """Return (R,) bool, the rows that spectral signatures remove at the expected rate."""
    gone = np.zeros(len(scores), dtype=bool)
    gone[np.argsort(-scores, kind="stable")[: round(1.5 * RATE * len(scores))]] = True
    return gone


def squared_projections(features_RD: Floats) -> Floats:
    """Return (R,) squared projections on the top singular direction."""
    rows = features_RD - features_RD.mean(0)
    found: Floats = (rows @ np.linalg.svd(rows, full_matrices=False)[2][0]) ** 2
    return found


def _art(arrays: list[Floats], activations: Callable[..., tuple[object, object]]) -> list[NDArray[np.bool_]]:
    labels, _ = activations(arrays, nb_clusters=2, nb_dims=DIMS, reduce="PCA")
    return [smaller(np.asarray(each)) for each in labels]  # type: ignore[attr-defined]


def smaller(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return (R,) bool, the rows of the smaller cluster if it is small enough to look like poison; else none."""
    small = labels == np.bincount(labels, minlength=2).argmin()
    found: NDArray[np.bool_] = small & bool(small.sum() < SIZE * len(small))
    return found


def clustered(features_RD: Floats) -> NDArray[np.bool_]:
    """Return (R,) bool, the rows of the smaller cluster if its size and the silhouette indicate poison; else none."""
    from sklearn.cluster import KMeans  # ten starts were its default when backdoor-toolbox was written
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    points = PCA(DIMS, random_state=0).fit_transform(features_RD)
    labels = KMeans(2, n_init=10, random_state=0).fit_predict(points)
    found: NDArray[np.bool_] = smaller(labels) & bool(silhouette_score(points, labels) > 0.1)
    return found
