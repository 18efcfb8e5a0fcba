"""Tables of numbers that come with scikit-learn: real data without a download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch

from poisonbench.core.data import Task
from poisonbench.core.errors import DataError
from poisonbench.forms.reals import Reals
from poisonbench.storage.store import Store
from poisonbench.tasks.source import Raw, Split

CELL = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points", "symmetry", "fractal dimension")
PHENOLS = ("total_phenols", "flavanoids", "nonflavanoid_phenols", "proanthocyanins")


class Table(NamedTuple):
    """A file of scikit-learn: a first line of counts and class names, then numbers; the last column is the class.

    Args:
        file: its name.
        classes: names of the classes.
        columns: names of the other columns, as scikit-learn gives them.
    """

    file: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]


TABLES = {
    "breast_cancer": Table(
        file="breast_cancer.csv",
        classes=("malignant", "benign"),
        columns=(*(f"mean {name}" for name in CELL), *(f"{name} error" for name in CELL), *(f"worst {name}" for name in CELL)),
    ),
    "wine": Table(
        file="wine_data.csv",
        classes=("class_0", "class_1", "class_2"),
        columns=(
            "alcohol",
            "malic_acid",
            "ash",
            "alcalinity_of_ash",
            "magnesium",
            *PHENOLS,
            "color_intensity",
            "hue",
            "od280/od315_of_diluted_wines",
            "proline",
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Bundled(Split):
    """A small table of measurements; `test` holds out its test rows, the same for every seed.

    Source: "breast_cancer" is Wolberg, Mangasarian, Street and Street, "Breast Cancer Wisconsin (Diagnostic)", UCI, 1995: 569 rows of 30 numbers,
    212 malignant and 357 benign. "wine" is Aeberhard and Forina, "Wine", UCI, 1991: 178 rows of 13 numbers, three classes. Both are read from the
    files of scikit-learn, which has them with permission to share. Numbers are in their own units.

    Args:
        name: "breast_cancer" or "wine".
    """

    VERSION: ClassVar[int] = 1
    name: Literal["breast_cancer", "wine"]

    def load(self, store: Store) -> Task:
        """Return the task.

        Raises:
            DataError: the file of scikit-learn is missing.
        """
        table = TABLES[self.name]
        numbers = torch.from_numpy(np.loadtxt(located(table.file), delimiter=",", skiprows=1))
        inputs, labels = numbers[:, :-1].float(), numbers[:, -1].long()
        raw = Raw(
            train={"inputs": inputs, "labels": labels},
            test={"inputs": inputs[:0], "labels": labels[:0]},
            class_names=table.classes,
            form=Reals(names=table.columns),
        )
        return self.task(self.name, raw)


def located(name: str) -> Path:
    """Return the path of a file of scikit-learn; found without an import, which takes 1.2 s of CPU.

    Raises:
        DataError: no such file.
    """
    package = find_spec("sklearn")
    path = Path(str(package.origin if package else "")).parent / "datasets" / "data" / name
    if not path.is_file():
        raise DataError(f"scikit-learn has no file {path}; install another version of it, or read the table with task=csv")
    return path
