"""Poison in the formats of other projects, as packs. Nothing in their files is executed.

Shape letters: R changed rows, M test rows, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from poisonbench import arrays
from poisonbench.core.data import Dataset, Task
from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.manifest import row_digests
from poisonbench.decoders import picture, reading
from poisonbench.packs import Pack, form_of
from poisonbench.pickled import BYTES, Picture
from poisonbench.pickles import read

PICKLES = ("poisons.pickle", "base_indices.pickle", "target.pickle")
TRAIN, TEST = "bd_train_dataset", "bd_test_dataset"  # folders of BackdoorBench
TORCH = "attack_result.pt"
NUMBERS = range(2**63)  # what a tensor of int64 contains
ARRAYS = "poison.npz"


class Poison(NamedTuple):
    """What all formats contain.

    Args:
        ids: (R,) int64 numbers of the training rows that are replaced.
        inputs: (R, C, H, W) uint8.
        labels: (R,) int64.
        probed: (M,) int64 numbers of test rows.
        probe_inputs: (M, C, H, W) uint8.
        wished: (M,) int64, the answer that the attacker wants for each.
        aimed: the test rows are targets.
    """

    ids: Tensor
    inputs: Tensor
    labels: Tensor
    probed: Tensor
    probe_inputs: Tensor
    wished: Tensor
    aimed: bool


def published(folder: Path, task: Task, target: int | None) -> Pack:
    """Return the poison in a folder as a pack for a task.

    Args:
        folder: with the three pickles of the poisoning benchmark, the two folders of BackdoorBench, or poison.npz (see `poisonbench.arrays`).
        task: the task whose rows were poisoned.
        target: the target label of a backdoor, which BackdoorBench does not write beside its pictures.

    Raises:
        DataError: no such files, damaged ones, or rows that are not those of the task.
        ConfigError: a target label is missing, or not needed.
    """
    if all((folder / name).is_file() for name in PICKLES):
        if target is not None:
            raise ConfigError(f"target={target}: the pickles in {folder} contain the labels; leave target= out")
        return packed(from_pickles(folder, task), task, {"format": "poisoning-benchmark", "folder": folder.name})
    if (folder / TRAIN).is_dir() and (folder / TEST).is_dir():
        if target is None or not 0 <= target < task.train.num_classes:
            known = f"target=0 to target={task.train.num_classes - 1}"
            raise ConfigError(f"{folder}: BackdoorBench writes the target label only into {TORCH}, which is not read; name it with {known}")
        return packed(from_folders(folder, task, target), task, {"format": "BackdoorBench", "folder": folder.name, "target": target})
    if (folder / ARRAYS).is_file():
        if target is not None:
            raise ConfigError(f"target={target}: {folder / ARRAYS} contains the labels; leave target= out")
        return packed(from_arrays(folder / ARRAYS, task), task, {"format": "arrays", "folder": folder.name})
    more = f"; {TORCH} is a file of torch that names classes, which is not read" if (folder / TORCH).exists() else ""
    raise DataError(f"{folder} contains neither {', '.join(PICKLES)} (poisoning benchmark) nor {TRAIN}/ and {TEST}/ (BackdoorBench) nor {ARRAYS}{more}")


def packed(poison: Poison, task: Task, told: Mapping[str, object]) -> Pack:
    """Return poison as a pack, if it fits the task.

    Raises:
        DataError: rows that the task does not have, labels that are no classes, or inputs of another shape.
    """
    kinds, train, test = task.train.num_classes, task.train, task.test
    for name, numbers, rows, inputs in (("training", poison.ids, train, poison.inputs), ("test", poison.probed, test, poison.probe_inputs)):
        if len({*numbers.tolist()}) < len(numbers) or (missing := [number for number in numbers.tolist() if number not in {*rows.ids.tolist()}]):
            which = f"row {missing[0]} is not one" if len({*numbers.tolist()}) == len(numbers) else "a row is named twice"
            raise DataError(f"the poison names {len(numbers)} {name} rows of {task.name}, and {which}; use the whole task, with task.trusted=0 task.public=0")
        if inputs.shape[1:] != rows.inputs.shape[1:] or inputs.dtype != rows.inputs.dtype:
            shapes = f"{tuple(inputs.shape[1:])}, those of {task.name} {rows.inputs.dtype} of shape {tuple(rows.inputs.shape[1:])}"
            raise DataError(f"poisoned pictures are {inputs.dtype} of shape {shapes}; choose the task that was poisoned")
    labels = torch.cat([poison.labels, poison.wished])
    if (strange := labels[(labels < 0) | (labels >= kinds)]).numel():
        raise DataError(f"the poison has the label {int(strange[0])}, and {task.name} has {kinds} classes; choose the task that was poisoned")
    if not len(poison.ids) or not len(poison.probed):
        raise DataError(f"the poison has {len(poison.ids)} training rows and {len(poison.probed)} test rows; both are needed")
    places, probed = (_places(numbers, rows) for numbers, rows in ((poison.ids, train), (poison.probed, test)))
    wrong = poison.wished != test.labels[probed]  # a right answer is no success of an attack
    if poison.aimed and not wrong.all():
        raise DataError(f"the poison wants the answer {int(poison.wished[0])} for a test row of {task.name} with this label; choose the task that was poisoned")
    if not wrong.any():
        raise DataError(f"the poison wants the right answer for each of its test rows of {task.name}; choose the task that was poisoned")
    edited = train.take(places).edit(torch.arange(len(places)), inputs=poison.inputs, labels=poison.labels)
    return Pack(
        ids=poison.ids,
        before=row_digests(train.take(places)),
        edited={name: column for name, column in edited.columns.items() if name not in ("ids", "owners")},
        cover=torch.zeros(len(places), dtype=torch.bool),
        probed=poison.probed[wrong],
        probed_before=row_digests(test.take(probed[wrong])),
        probe_inputs=poison.probe_inputs[wrong],
        hit=F.one_hot(poison.wished[wrong], kinds).bool(),
        aimed=torch.full((int(wrong.sum()),), poison.aimed),
        form=form_of(train),
        told=MappingProxyType({**told, "task": task.name}),
    )


def _places(numbers: Tensor, rows: Dataset) -> Tensor:
    known = {number: place for place, number in enumerate(rows.ids.tolist())}
    return torch.tensor([known[number] for number in numbers.tolist()], dtype=torch.int64)


def from_pickles(folder: Path, task: Task) -> Poison:
    """Return the poison of one setup of the poisoning benchmark (Schwarzschild et al., ICML 2021).

    `poisons.pickle` is a list of (picture, label), `base_indices.pickle` the numbers of the training rows that they replace, and `target.pickle` is
    (picture, label) of a test row, for a backdoor followed by a patch (C, S, S) of values in [0, 1] and its place [x, y].

    Raises:
        DataError: anything else, or a target that is not a test row of the task.
    """
    poisons, bases, target = (_pickled(folder / name) for name in PICKLES)
    pairs = [pair for pair in poisons if _is_pair(pair)] if isinstance(poisons, list | tuple) else []
    if not pairs or len(pairs) != len(poisons):  # type: ignore[arg-type]  # a list, if there are pairs
        raise DataError(f"{folder / PICKLES[0]} is not a list of pictures with labels")
    if sum(len(image.data) for image, _ in pairs) > BYTES or len({image.pixels.shape for image, _ in pairs}) > 1:
        raise DataError(f"{folder / PICKLES[0]}: its pictures have different sizes, or too many bytes together")
    numbers = bases.tolist() if isinstance(bases, np.ndarray) and bases.shape == (len(pairs),) else bases
    if not isinstance(numbers, list | tuple) or not all(type(number) is int and number in NUMBERS for number in numbers) or len(numbers) != len(pairs):
        raise DataError(f"{folder / PICKLES[1]} does not contain one row number for each of the {len(pairs)} poisoned pictures")
    if not isinstance(target, list | tuple) or len(target) not in (2, 4) or not _is_pair(target[:2]):
        raise DataError(f"{folder / PICKLES[2]} is not a picture with a label, and for a backdoor a patch with its place")
    labels, shown = [label for _, label in pairs], torch.from_numpy(target[0].pixels.copy())
    if len({*labels}) > 1:
        raise DataError(
            f"{folder / PICKLES[0]} has poison with {len({*labels})} labels; the benchmark has one, which is the answer that is wanted for the target"
        )
    row = _shown(shown, target[1], task.test, folder / PICKLES[2])
    probe = task.test.inputs[row].clone() if len(target) == 2 else _patched(task.test.inputs[row], tuple(target[2:]), folder / PICKLES[2])
    return Poison(
        ids=torch.tensor(numbers, dtype=torch.int64),
        inputs=torch.from_numpy(np.stack([image.pixels for image, _ in pairs])),
        labels=torch.tensor(labels, dtype=torch.int64),
        probed=task.test.ids[row][None],
        probe_inputs=probe[None],
        wished=torch.tensor(labels[:1], dtype=torch.int64),
        aimed=True,
    )


def _pickled(path: Path) -> object:
    if path.stat().st_size > BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes; at most {BYTES:,} are read")
    return read(path.read_bytes(), path)


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], Picture) and type(pair[1]) is int and pair[1] in NUMBERS


def _shown(target: Tensor, label: int, test: Dataset, path: Path) -> int:
    """Return the position of the test row that a picture shows; a level of grey may be lost by rounding.

    Raises:
        DataError: no row, or several.
    """
    rows = (test.labels == label).nonzero()[:, 0]
    near = rows
    if len(rows) and target.shape == test.inputs.shape[1:] and test.inputs.dtype == torch.uint8:
        near = rows[(test.inputs[rows].int() - target.int()).abs().flatten(1).amax(1) <= 1]
    else:
        near = rows[:0]
    if len(near) != 1:
        raise DataError(f"{path}: {len(near) or 'no'} test rows with the label {label} show its picture; choose the task that was poisoned")
    return int(near[0])


def _patched(row: Tensor, backdoor: tuple[object, ...], path: Path) -> Tensor:
    """Return a test row with the patch of a backdoor.

    Raises:
        DataError: no patch of fractions, or one that does not fit.
    """
    match backdoor:
        case (np.ndarray() as patch, [int(left), int(top)] | (int(left), int(top))) if patch.dtype.kind == "f" and patch.ndim == 3:
            channels, height, width = patch.shape
            fits = channels == row.shape[0] and 0 <= top <= row.shape[1] - height and 0 <= left <= row.shape[2] - width
            if fits and patch.size and bool(((patch >= 0) & (patch <= 1)).all()):
                stamped = row.clone()
                stamped[:, top : top + height, left : left + width] = torch.from_numpy((patch * 255).astype(np.uint8))  # rounds down, as the benchmark does
                return stamped
    raise DataError(f"{path}: the patch is no array (C, S, S) of values in [0, 1] with a place [x, y] inside the picture")


def from_folders(folder: Path, task: Task, target: int) -> Poison:
    """Return the poison that BackdoorBench writes as pictures: bd_train_dataset/LABEL/NUMBER.png and bd_test_dataset/LABEL/NUMBER.png.

    LABEL is the label before the attack, NUMBER that of the row.

    Raises:
        DataError: a file of another name, a picture that cannot be read, or a label that is not that of the row.
    """
    channels = task.train.inputs.shape[1] if task.train.inputs.ndim == 4 else 0
    if channels not in (1, 3):
        raise DataError(f"{folder} contains pictures, and the inputs of {task.name} are none; choose the task that was poisoned")
    train, test = (_pictures(folder / name, rows, "L" if channels == 1 else "RGB") for name, rows in ((TRAIN, task.train), (TEST, task.test)))
    wished = torch.full_like(test[0], target)
    return Poison(ids=train[0], inputs=train[1], labels=torch.full_like(train[0], target), probed=test[0], probe_inputs=test[1], wished=wished, aimed=False)


def from_arrays(path: Path, task: Task) -> Poison:
    """Return the poison in a file of arrays; see `poisonbench.arrays.read`."""
    found = arrays.read(path, task)
    return Poison(
        ids=found["indices"],
        inputs=found["x"],
        labels=found["y"],
        probed=found["indices_test"],
        probe_inputs=found["x_test"],
        wished=found["y_test"],
        aimed=False,
    )


def _pictures(folder: Path, rows: Dataset, mode: str) -> tuple[Tensor, Tensor]:
    """Return the numbers of the rows and their pictures (R, C, H, W)."""
    labels = dict(zip(rows.ids.tolist(), rows.labels.tolist(), strict=True))
    images, numbers = list[Tensor](), list[int]()
    decode: Callable[[Path], object] = lambda path: picture(path.read_bytes(), "L" if mode == "L" else "RGB", str(path))  # noqa: E731
    for path in sorted(folder.glob("*/*.png")):
        if not (path.stem.isascii() and path.stem.isdigit() and path.parent.name.isascii() and path.parent.name.isdigit()):
            raise DataError(f"{path}: the name is no LABEL/NUMBER.png; give the folder as BackdoorBench wrote it")
        number = int(path.stem)
        if labels.get(number, -1) != int(path.parent.name):
            raise DataError(f"{path}: row {number} of this task does not have the label {path.parent.name}; choose the task that was poisoned")
        with reading(path, "an image", "fetch it again"):
            pixels = np.asarray(decode(path), dtype=np.uint8)
        numbers.append(number)
        images.append(torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).copy()))
    if not images or len({image.shape for image in images}) > 1:
        raise DataError(f"{folder} contains {'pictures of several sizes' if images else 'no LABEL/NUMBER.png'}; give the folder as BackdoorBench wrote it")
    return torch.tensor(numbers, dtype=torch.int64), torch.stack(images)
