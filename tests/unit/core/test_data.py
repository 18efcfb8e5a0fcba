import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import DataError


def small() -> Dataset:
    inputs = torch.arange(4 * 2 * 2, dtype=torch.uint8).reshape(4, 1, 2, 2)
    return Dataset.of(inputs, torch.tensor([0, 1, 2, 0]), num_classes=3)


def test_edit_returns_new_values_and_leaves_the_old_ones():
    data = small()
    digest = data.digest
    edited = data.edit(torch.tensor([1]), inputs=torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), labels=torch.tensor([2]))
    assert edited.inputs[1].unique().tolist() == [255]
    assert edited.labels.tolist() == [0, 2, 2, 0]
    assert data.labels.tolist() == [0, 1, 2, 0]
    assert Dataset.of(data.inputs, data.labels, num_classes=3).digest == digest


def test_take_and_append_treat_every_column_alike():
    data = small()
    with_captions = data.with_columns({**data.columns, "captions": torch.tensor([[1], [2], [3], [4]])})
    picked = with_captions.take(torch.tensor([2, 0]))
    assert picked.columns["captions"].tolist() == [[3], [1]]
    assert picked.ids.tolist() == [2, 0]
    assert picked.append(picked).columns["captions"].tolist() == [[3], [1], [3], [1]]


def test_the_digest_sees_every_column_and_the_number_of_classes():
    data = small()
    others = [
        data.edit(torch.tensor([0]), labels=torch.tensor([1])),
        data.edit(torch.tensor([0]), inputs=torch.ones(1, 1, 2, 2, dtype=torch.uint8)),
        data.edit(torch.tensor([0]), owners=torch.tensor([1])),
        data.with_columns({**data.columns, "more": torch.zeros(4)}),
        Dataset.of(data.inputs, data.labels, num_classes=4),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 6


@pytest.mark.parametrize(
    ("inputs", "labels", "says"),
    [
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 3]), "label 3 in row 1 is out of range; 3 classes allow 0 to 2"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, -1]), "label -1 in row 1"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]), "2 inputs, labels of shape"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0.0, 1.0]), "give integers"),
        (torch.tensor([[0.0], [float("nan")]]), torch.tensor([0, 1]), "row 1 holds a value that is not finite"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([[0], [1]]), "give one label per row"),
    ],
)
def test_bad_tensors_are_refused_in_words(inputs, labels, says):
    with pytest.raises(DataError, match=says):
        Dataset.of(inputs, labels, num_classes=3)
