"""Ways to ask a victim: classes, candidate answers, and samples that a judge reads."""

import dataclasses

import pytest
import torch

from poisonbench.core.ask import SCORES, Candidates, Judged
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.goals import Probe
from poisonbench.core.rng import Key

KEY = Key.root(100)


class Similar:
    """A victim without classes: it scores an answer by how many of its tokens the input has."""

    def choose(self, inputs, answers):
        return (inputs[:, None, :, None] == answers[:, :, None, :]).any(2).float().sum(2)


class Echo:
    """A victim that says one of the tokens of its input."""

    def sample(self, inputs, rng):
        places = torch.randint(0, inputs.shape[1], (len(inputs), 1), generator=rng.torch())
        return inputs.gather(1, places)


def rows(ask=SCORES):
    data = Dataset.of(torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([0, 1, 1]), num_classes=2)
    return dataclasses.replace(data, ask=ask)


CANDIDATES = Candidates(table=torch.tensor([[1, 2], [3, 9], [5, 6]]), of=torch.tensor([[0, 1], [0, 1], [1, 2]]))


def test_candidates_are_scored_row_by_row():
    assert CANDIDATES(Similar(), rows().inputs, KEY).tolist() == [[2, 0], [0, 1], [0, 2]]


def test_rows_that_are_taken_keep_their_candidates():
    some = rows(CANDIDATES).take(torch.tensor([2, 0]))
    assert some.ask(Similar(), some.inputs, KEY).tolist() == [[0, 2], [2, 0]]
    assert rows().take(torch.tensor([1])).ask is SCORES


def test_a_probe_is_asked_as_its_test_rows_unless_it_brings_another_way():
    test, hit = rows(CANDIDATES), torch.zeros(1, 2, dtype=torch.bool)
    probe = Probe(rows=torch.tensor([1]), inputs=torch.tensor([[3, 9]]), truth=torch.tensor([1]), hit=hit)
    assert probe.asked(test)(Similar(), probe.inputs, KEY).tolist() == [[0, 2]]
    assert dataclasses.replace(probe, ask=SCORES).asked(test) is SCORES


def test_a_judge_reads_the_mean_of_the_samples():
    def heard(samples):
        said = torch.cat([samples == 1, samples == 2], 1).double()
        return torch.cat([said, 1 - said.sum(1, keepdim=True)], 1)  # the last answer is "none of them"

    table = Judged(judge=heard, draws=400)(Echo(), torch.tensor([[1, 2], [1, 1], [7, 8]]), KEY)
    assert table[1].tolist() == [1, 0, 0]
    assert table[2].tolist() == [0, 0, 1]
    assert 0.4 < float(table[0, 0]) < 0.6
    with pytest.raises(Incompatible, match="Similar makes no samples"):
        Judged(judge=heard, draws=1)(Similar(), rows().inputs, KEY)
    with pytest.raises(ConfigError, match="give 1 or more samples"):
        Judged(judge=heard, draws=0)


def test_the_way_to_ask_is_part_of_the_digest_unless_it_is_by_classes():
    assert rows(CANDIDATES).digest != rows().digest
    other = dataclasses.replace(CANDIDATES, of=CANDIDATES.of.flip(1))
    assert rows(CANDIDATES).digest != rows(other).digest
