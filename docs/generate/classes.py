"""What the docstring and the fields of a class say, read from its file by griffe: nothing is imported or run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, cast

import griffe

from poisonbench.core.plugins import HOME

PACKAGES = ("poisonbench", "attacks", "defenses")


class Field(NamedTuple):
    """The type of a field as it is annotated, and what `Args` says of it; empty where nothing does."""

    kind: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Documented:
    """A class as its file has it.

    Args:
        summary: the first paragraph of its docstring.
        source: the paragraph with the paper, and where the code differs from it; empty where there is none.
        rest: the other paragraphs.
        fields: by name, inherited ones too.
    """

    summary: str
    source: str
    rest: tuple[str, ...]
    fields: dict[str, Field]


@cache
def documented(target: str) -> Documented:
    """Return what a class says of itself.

    Args:
        target: its dotted path.

    Raises:
        KeyError: no such class.
    """
    found = cast("griffe.Class", _modules()[target])
    summary, *paragraphs = _text(found).split("\n\n")
    source = next((paragraph for paragraph in paragraphs if paragraph.startswith("Source:")), "")
    return Documented(
        summary=summary,
        source=source.removeprefix("Source:").strip(),
        rest=tuple(paragraph for paragraph in paragraphs if paragraph != source),
        fields={name: Field(_kind(found, name), meaning) for name, meaning in _meanings(found).items()},
    )


@cache
def _modules() -> griffe.ModulesCollection:
    loader = griffe.GriffeLoader(search_paths=[str(HOME)], docstring_parser="google")
    for package in PACKAGES:
        loader.load(package)
    loader.resolve_aliases()
    return loader.modules_collection


def _text(found: griffe.Class) -> str:
    """Return the docstring without `Args` and the like."""
    sections = found.docstring.parse("google") if found.docstring else []
    return "\n\n".join(section.value for section in sections if isinstance(section, griffe.DocstringSectionText))


def _meanings(found: griffe.Class) -> dict[str, str]:
    """Return what `Args` says of each field, that of the class before that of its bases."""
    stated = {name: meaning for each in reversed([found, *found.mro()]) for name, meaning in _args(each)}
    return {name: stated.get(name, "") for name in (*stated, *(name for name, member in found.all_members.items() if member.is_attribute))}


def _args(found: griffe.Class) -> Iterator[tuple[str, str]]:
    for section in found.docstring.parse("google") if found.docstring else []:
        if isinstance(section, griffe.DocstringSectionParameters):
            yield from ((parameter.name, " ".join(parameter.description.split())) for parameter in section.value)


def _kind(found: griffe.Class, name: str) -> str:
    """Return the annotation of a field, with the names of choices replaced by the choices."""
    member = found.all_members.get(name)
    annotation = getattr(member, "annotation", None)
    if annotation is None:
        return ""
    parts = [annotation] if isinstance(annotation, str) else [_resolved(part) for part in annotation]
    return "".join(parts).replace("Literal[", "").replace("]", "").replace("', '", "' | '") if "Literal[" in "".join(parts) else "".join(parts)


def _resolved(part: str | griffe.Expr) -> str:
    """Return the choices that a name such as `Position` stands for; any other part of an annotation as it is written."""
    if isinstance(part, griffe.ExprName) and part.canonical_path.startswith(PACKAGES):
        value = str(getattr(_modules()[part.canonical_path], "value", ""))
        return value if value.startswith("Literal[") else str(part)
    return str(part)
