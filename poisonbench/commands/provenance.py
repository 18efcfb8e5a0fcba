"""`provenance ACTION ...`: sign a folder and check it, follow a row, write a bill of materials, describe a data set."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from poisonbench.commands.usage import Usage
from poisonbench.core.errors import ConfigError, meant
from poisonbench.report.figures import plain

if TYPE_CHECKING:
    from poisonbench.provenance.folder import Checked

CODES = {"fine": 0, "altered": 1, "could not check": 2}
SHOWN = 200  # lines of differences that are printed

USAGE = Usage(
    call="provenance ACTION ..., one of: sign, verify, lineage, bom, croissant",
    does=(
        "Sign the files of a folder with your key and check them later, show the way of a training row, write a bill of materials of a record, or "
        "describe a folder of data in the Croissant format. Exit code of verify and of check=true: 0 fine, 1 altered, 2 could not check."
    ),
    options={
        "sign FOLDER key=PRIVATE.pem": "write FOLDER.sig, the signed list of all files and their SHA-256, which model-signing reads too",
        "verify FOLDER key=PUBLIC.pem": "check the files against the signature; names every file that was changed, added, removed, renamed or swapped",
        "signature=FILE": "of sign and verify: another place of the signature",
        "threads=1": "of sign and verify: how many files are hashed at the same time",
        "lineage RECORD row=ID": "tell the way of a training row through splits, attack and filters; the run needs lineage=true",
        "lineage RECORD file=NAME": "the same for the rows of a file",
        "bom RECORD [out=FILE]": "write RECORD.cdx.json, a CycloneDX 1.6 bill of materials of the model, its data and its software",
        "croissant FOLDER [out=FILE]": "write FOLDER/croissant.json, with the SHA-256 of each file and the columns of tables",
        "croissant FOLDER check=true": "compare the files with the digests in FOLDER/croissant.json",
        "name=, description=, url=": "of bom and croissant: texts about the data set",
        "license=, creator=": "of bom and croissant: the licence of the data, such as CC-BY-4.0, and who made them",
        "version=, date=, citation=": "of croissant: version, such as 1.0.0, date of publication, such as 2026-11-30, and how to cite the data set",
    },
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The words of an action.

    Args:
        action: its name.
        subject: the folder or the record.
        given: the values of its keys.
    """

    action: str
    subject: Path
    given: Mapping[str, str]

    def path(self, key: str, default: Path) -> Path:
        """Return the path that a key gives."""
        return Path(self.given[key]).expanduser() if key in self.given else default

    @property
    def threads(self) -> int:
        """The number of threads, 1 by default.

        Raises:
            ConfigError: no number from 1 on.
        """
        word = self.given.get("threads", "1")
        if not re.fullmatch("[1-9][0-9]{0,2}", word):
            raise ConfigError(f"threads={word}: give a number from 1 to 999")
        return int(word)


def main(words: Sequence[str]) -> int:
    """Run one action and return its exit code.

    Raises:
        ConfigError: wrong words.
        DataError: files that cannot be used.
    """
    name = words[0] if words else ""
    if name not in ACTIONS:
        raise ConfigError(f"provenance {name or 'ACTION'}: no such action; {meant(name, ACTIONS)}; `provenance --help` explains each")
    run, keys, needed = ACTIONS[name]
    plain_words = [word for word in words[1:] if not any(word.startswith(f"{key}=") for key in keys)]
    subject = "RECORD" if name in ("lineage", "bom") else "FOLDER"
    given = {key: word.removeprefix(f"{key}=") for word in words[1:] for key in keys if word.startswith(f"{key}=")}
    twice = [key for key in keys if sum(word.startswith(f"{key}=") for word in words[1:]) > 1]
    if twice:
        raise ConfigError(f"{twice[0]}= is given twice; give it once")
    if unknown := [word.partition("=")[0] for word in plain_words if re.match("[a-z_]+=", word)]:
        raise ConfigError(f"provenance {name} {subject}: {unknown[0]}= is no word of it; {meant(unknown[0], keys)}")
    if len(plain_words) != 1 or "=" in plain_words[0] or not all(given.get(key) for key in needed) or not all(given.values()):
        wanted = " ".join([f"provenance {name} {subject}", *(f"{key}=..." for key in needed)])
        optional = [key for key in keys if key not in needed]
        raise ConfigError(
            f"{shlex.join(['provenance', *words])}: write {wanted}" + (f"; optional: {', '.join(f'{key}=...' for key in optional)}" * bool(optional))
        )
    return run(Asked(action=name, subject=Path(plain_words[0]).expanduser(), given=given))


def _sign(asked: Asked) -> int:
    from poisonbench.provenance.signing import beside, sign

    signature = asked.path("signature", beside(asked.subject))
    count = sign(asked.subject, asked.path("key", Path()), signature, asked.threads)
    _say([f"{signature}: {count} files of {asked.subject} are signed"])
    return 0


def _verify(asked: Asked) -> int:
    from poisonbench.provenance.signing import beside, verify

    checked = verify(asked.subject, asked.path("key", Path()), asked.path("signature", beside(asked.subject)), asked.threads)
    return _told(asked.subject, checked)


def _lineage(asked: Asked) -> int:
    from poisonbench.provenance import lineage
    from poisonbench.storage.record import read

    if len(asked.given.keys() & {"row", "file"}) != 1:
        raise ConfigError("provenance lineage RECORD: give either row=ID or file=NAME")
    record = read(asked.subject)
    table = lineage.read(lineage.path_of(asked.subject), record)
    rows = lineage.row_named(table, asked.given["row"]) if "row" in asked.given else lineage.rows_of_file(table, asked.given["file"])
    _say(lineage.told(table, rows))
    return 0


def _bom(asked: Asked) -> int:
    from poisonbench.provenance import bill
    from poisonbench.storage.record import read

    out = asked.path("out", Path(f"{asked.subject.stem}.cdx.json"))
    told = bill.write(bill.bill(read(asked.subject), asked.given), out)
    _say([f"{out}: written, {told}"])
    return 0


def _croissant(asked: Asked) -> int:
    from poisonbench.provenance import croissant

    out = asked.path("out", asked.subject / croissant.NAME)
    if "check" in asked.given:
        if asked.given["check"] != "true" or asked.given.keys() - {"check", "out"}:
            raise ConfigError("provenance croissant FOLDER check=true [out=FILE]: a check takes no other words")
        return _told(asked.subject, croissant.check(asked.subject, out))
    described = croissant.describe(asked.subject, asked.given, out)
    missing = croissant.write(described, out)
    _say([f"{out}: written", *(f"  {line}" for line in (*described.notes, *missing))])
    return 0


def _told(subject: Path, checked: Checked) -> int:
    """Print what a check found, and return its exit code."""
    _say([f"{subject}: {checked.state}: {checked.sentence}"])
    lines = [*checked.differences.sentences(), *(f"a link or a special file, whose content is not checked: {name}" for name in checked.links)]
    lines += [f"not covered, so not checked: {name}" for name in checked.not_covered]
    _say([f"  {line}" for line in lines[:SHOWN]])
    if len(lines) > SHOWN:
        _say([f"  ... and {len(lines) - SHOWN} more"])
    return CODES[checked.state]


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        Console().print(plain(line), markup=False, highlight=False, soft_wrap=True)


ACTIONS: Mapping[str, tuple[Callable[[Asked], int], tuple[str, ...], tuple[str, ...]]] = {  # with the keys of each, and those that it needs
    "sign": (_sign, ("key", "signature", "threads"), ("key",)),
    "verify": (_verify, ("key", "signature", "threads"), ("key",)),
    "lineage": (_lineage, ("row", "file"), ()),
    "bom": (_bom, ("out", "name", "description", "license", "url", "creator"), ()),
    "croissant": (_croissant, ("out", "check", "name", "description", "url", "license", "creator", "version", "date", "citation"), ()),
}
