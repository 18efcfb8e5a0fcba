"""An exported training set that somebody changed."""

import json

import pytest
import torch
from safetensors.torch import save_file

from poisonbench.core.errors import DataError
from poisonbench.core.files import DEPTH, file_digest
from poisonbench.tasks.poisoned import Exported


@pytest.fixture
def told(tmp_path):
    """Write an export of eight rows, and return what its description says."""
    for part in ("train", "test"):
        save_file({"inputs": torch.arange(8 * 48, dtype=torch.uint8).view(8, 3, 4, 4), "labels": torch.arange(8) % 2}, tmp_path / f"{part}.safetensors")
    digests = {part: file_digest(tmp_path / f"{part}.safetensors") for part in ("train", "test")}
    return {"format": 1, "name": "blobs", "class_names": ["a", "b"], "sha256": digests}


def load(folder, store, told):
    (folder / "task.json").write_text(json.dumps(told))
    return Exported(root=str(folder), limit=None, trusted=0.0, public=0.0, split_seed=0).load(store)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"format": 9}, "was exported by another version"),
        ({"sha256": {"train": "0" * 64, "test": "0" * 64}}, "train, test differs from what `export` wrote"),
        ({"class_names": ["a"]}, "out of range"),
        ({"class_names": None}, "contains no training set"),
        ({"more": json.loads("[" * DEPTH + "]" * DEPTH)}, "too deep"),
    ],
)
def test_another_description_is_refused(tmp_path, store, told, wrong, says):
    with pytest.raises(DataError, match=says):
        load(tmp_path, store, told | wrong)
