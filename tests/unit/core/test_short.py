"""Filters on a victim that is trained for a few epochs."""

import torch

from defenses.sanitize.deep_knn import DeepKnn
from defenses.sanitize.spectral import SpectralSignatures
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.rng import Key
from poisonbench.core.short import ShortVictim, served

SPECTRAL = SpectralSignatures(expected_rate=0.05, score="paper", classes="suspected", margin=1.5, keep_at_least=0.0)
KNN = DeepKnn(neighbours=3)


class Inputs:
    """A victim whose features are its inputs."""

    def features(self, inputs, layer="penultimate"):
        return inputs


def test_a_filter_that_reads_a_short_victim_trains_from_scratch_for_so_many_epochs():
    asked = []

    def tune(victim, data, *, epochs, draw=0):
        asked.append((victim, len(data), epochs, draw))
        return Inputs()

    inputs = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [0.05]])
    data = Dataset.of(inputs, torch.tensor([0, 0, 0, 1, 1, 1, 1]), num_classes=2)
    means = Means(trusted=data.take(torch.arange(0)), fit=None, tune=tune, truth=torch.zeros(0, dtype=torch.bool))
    verdict = served(KNN, 4).judge(data, means, Key.root(100))
    assert asked == [(None, 7, 4, 0)]
    assert verdict.keep.tolist() == [True] * 6 + [False]
    assert int(verdict.evidence["guess"][6]) == 0


def test_other_filters_keep_the_full_victim():
    assert served(SPECTRAL, 4) is SPECTRAL
    assert served(KNN, 4) == ShortVictim(filter=KNN, epochs=4)
