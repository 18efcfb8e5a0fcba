"""Tasks of some classes of a data set."""

import pytest
import torch

from poisonbench.core.errors import ConfigError
from poisonbench.tasks.source import Raw


def digits() -> Raw:
    labels = torch.tensor([7, 0, 1, 7, 5, 1])
    pixels = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 2, 2).contiguous()
    rows = {"inputs": pixels, "labels": labels}
    return Raw(train=rows, test=rows, class_names=tuple("0123456789"), row_names=tuple("abcdef"))


def test_kept_classes_are_numbered_in_the_order_given():
    raw = digits().only((7, 1))
    assert raw.class_names == ("7", "1")
    assert raw.row_names == ("a", "c", "d", "f")
    for rows in (raw.train, raw.test):
        assert rows["labels"].tolist() == [0, 1, 0, 1]
        assert rows["inputs"][:, 0, 0, 0].tolist() == [0, 2, 3, 5]


def test_no_classes_named_keeps_all():
    raw = digits()
    assert raw.only(None) is raw


@pytest.mark.parametrize("classes", [(1,), (1, 1), (1, 10), (-1, 3)])
def test_classes_that_make_no_task_are_refused(classes):
    with pytest.raises(ConfigError, match=r"two or more different labels from 0 to 9"):
        digits().only(classes)
