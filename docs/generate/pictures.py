"""`python -m docs.generate.pictures [NAME...]`: let each attack of the gallery poison some rows, and draw or print them."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from poisonbench.commands.described import Option
from poisonbench.commands.show import draw, pictured, printed
from poisonbench.config.setting import Setting
from poisonbench.core.files import write_atomically, write_text

FOLDER = Path(__file__).parent.parent / "gallery"
LONGEST = 400  # characters of a printed row


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An entry of the gallery.

    Args:
        name: of the attack.
        words: the experiment whose rows are drawn; empty for an attack without a picture.
        sees: what one sees, in a sentence or two, or why there is no picture.
        like: the attack whose picture shows the same rows; empty for none.
    """

    name: str
    words: str = ""
    sees: str = ""
    like: str = ""

    @property
    def path(self) -> Path:
        """Where the picture lies, or the text for rows that are not pictures."""
        text = FOLDER / f"{self.name}.txt"
        return text if text.is_file() else FOLDER / f"{self.name}.png"

    def draw(self) -> None:
        """Let the attack poison its rows, and show them as `show` shows those of a record; no victim is trained for it."""
        from poisonbench.runner.experiment import assemble  # these need torch, and the page of the gallery does not
        from poisonbench.runner.stages import Line

        with tempfile.TemporaryDirectory() as results:
            setting = Setting.of(shlex.split(self.words), results_dir=results)
            experiment = assemble(setting.tree, setting.store)
            poisoned = Line(experiment=experiment, store=setting.store).struck()
            title = f"{self.name} on {experiment.task.name}"
            if pictured(poisoned.data) is None:
                lines = [line.plain for line in printed(experiment.task, poisoned, title)]
                write_text(FOLDER / f"{self.name}.txt", "".join(f"{line[:LONGEST]}{' ...' if len(line) > LONGEST else ''}\n" for line in lines))
            else:
                write_atomically(FOLDER / f"{self.name}.png", lambda temporary: draw(experiment.task, poisoned, title, temporary))


def pictures() -> Mapping[str, Picture]:
    """Return the entries of the gallery by the name of their attack, as docs/gallery/pictures.yaml lists them."""
    listed = yaml.safe_load((FOLDER / "pictures.yaml").read_text(encoding="utf-8"))
    return {name: Picture(name=name, **entry) for name, entry in listed.items()}


def changes_rows(found: Option) -> bool:
    """Whether an attack changes training rows by a separate method."""
    return any(part.where == "attack.data" and part.target.startswith("attacks.") for part in found.parts)


def main(names: Sequence[str]) -> None:
    """Draw the named pictures, or all."""
    listed = pictures()
    for picture in [listed[name] for name in names] or [each for each in listed.values() if each.words]:
        picture.draw()
        Console().print(f"picture: {picture.path}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:])
