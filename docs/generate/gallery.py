"""The page of pictures: for each attack what it does to training rows, the command, and the way to its reference entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from docs.generate.entries import all_described, summary
from docs.generate.markdown import page, prose
from docs.generate.pictures import Picture, changes_rows, pictures
from docs.generate.reference import FOLDER, addresses
from poisonbench.commands.described import origin
from poisonbench.config.vocabulary import options

INTRO = (
    "Each picture shows eight training rows of the digits: above the original with its label, in the middle the poisoned row with its label, below the "
    "difference. Where the difference is faint, it is multiplied by the number in the title. Texts and rows of a table are printed: what the attack "
    "added is marked `{+so+}`, what it removed `[-so-]`. Attacks that the gallery does not list by themselves are other names: `backdoor`, `text`, "
    "`spam`, `targeted`, `availability`, `instruction` and `federated` each stand for one attack of their family.",
    "The commands use the seed 100. A run prints the path of its record, and `show` draws the rows of that record:",
    "```bash\npython -m poisonbench attack=badnets seed=100 threads=1\npython -m poisonbench show results/local/records/RECORD.json picture.png\n```",
    "`python -m docs.generate.pictures` draws all pictures of this page again, and `python -m docs.generate.pictures badnets` draws one.",
)
UPDATES = (
    "These attacks change no training row. They change the updates that malicious clients send to the server of a federated training, so there is "
    "no picture of them."
)


def page_of_all() -> str:
    """Return the page of the gallery."""
    return page("Gallery of attacks", *INTRO, *_pictured(), "## Attacks without a picture", UPDATES, *_without())


def _pictured() -> Iterator[str]:
    places = addresses()
    for name, picture in pictures().items():
        yield f"## {name} {{#{name}}}"
        yield prose(picture.sees)
        if picture.words:
            yield _shown(picture)
            yield f"```bash\npython -m poisonbench {picture.words}\n```"
        else:
            yield f"The rows look as those of [{picture.like}](#{picture.like})."
        yield _reference(name, places)


def _shown(picture: Picture) -> str:
    """Return the picture, or the printed rows."""
    if picture.path.suffix == ".txt":
        return f"```text\n{picture.path.read_text(encoding='utf-8').rstrip()}\n```"
    return f"![Rows before and after {picture.name}, and their difference](gallery/{picture.name}.png)"


def _without() -> Iterator[str]:
    places = addresses()
    for name in options("attack"):
        found = all_described()["attack", name]
        if name != "none" and not changes_rows(found) and origin(found) is None:
            yield f"### {name} {{#{name}}}"
            yield f"{prose(summary(found))} {_reference(name, places)}"


def _reference(name: str, places: Mapping[tuple[str, str], str]) -> str:
    return f"[Keys and source]({FOLDER}/{places['attack', name]})"
