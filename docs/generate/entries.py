"""The entry of one option in the reference: what it does, its source, its keys, and what else it chooses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import cast

import yaml

from docs.generate.classes import Documented, Field, documented
from docs.generate.markdown import code, prose, table
from poisonbench.commands.described import COSTS, Option, OptionKey, Part, allowed, cost, option, origin
from poisonbench.config.vocabulary import groups, options
from poisonbench.core.plugins import HOME
from poisonbench.report.tables import published
from poisonbench.storage.record import Record

HEAD = ("key", "default", "type", "meaning")


@cache
def all_described() -> Mapping[tuple[str, str], Option]:
    """Return what each option of each group is made of, by group and name.

    Hydra takes 0.3 s for each of some 120 compositions, so all cores share them.
    """
    named = [(group, name) for group in groups() for name in options(group)]
    with ProcessPoolExecutor() as pool:
        return dict(zip(named, pool.map(option, *zip(*named, strict=True), chunksize=8), strict=True))


@cache
def records() -> Sequence[Record]:
    """Return the committed records, from which costs are taken."""
    return published(HOME / "results" / "records")


def entry(found: Option) -> str:
    """Return the entry of an option as Markdown."""
    return "\n\n".join(block for block in (f"## {found.name} {{#{found.name}}}", *_blocks(found)) if block)


def summary(found: Option) -> str:
    """Return one sentence on an option: the one of its class, or the comment of its file."""
    if not found.parts or found.group == "threat":
        return found.note or "Nothing."
    return documented(own(found).target).summary


def own(found: Option) -> Part:
    """Return the part that an option is named for: the one whose module bears its name or that of its base, else the last outermost one."""
    named = [part for name in (found.name, found.base) for part in found.parts if part.target.split(".")[-2] == name]
    outer = [part for part in found.parts if not any(part.where.startswith(f"{other.where}.") for other in found.parts)]
    return (named or outer[-1:])[0]


def _blocks(found: Option) -> Iterator[str]:
    yield f"```text\n{found.words}\n```"
    yield prose(found.note)
    if base := origin(found):
        yield _like(found, base)
    else:
        for part in found.parts:
            yield _part(found, part)
        if not found.parts and found.group != "experiment":
            yield "It changes nothing."
    yield _chosen(found)
    if found.group in COSTS and found.name != "none":
        yield f"**Cost.** {_cost(found)}"


def _like(found: Option, base: Option) -> str:
    """Return what an option changes in the one that it starts from."""
    usual = {setting.name: setting for part in base.parts for setting in part.settings}
    changed = [(part, setting) for part in found.parts for setting in part.settings if usual.get(setting.name) != setting]
    link = f"[{base.name}](#{base.name})"
    if not changed:
        return f"Another name for {link}."
    return f"The same as {link}, with other defaults:\n\n" + table(HEAD, [_row(setting, documented(part.target)) for part, setting in changed])


def _part(found: Option, part: Part) -> str:
    """Return what a class says, and its keys."""
    known = documented(part.target)
    head = f"### {code(part.where)}: {part.target.rpartition('.')[2]}" if len(found.parts) > 1 else ""
    source = f"**Source.** {prose(known.source)}" if known.source else ""
    keys = table(HEAD, [_row(setting, known) for setting in part.settings]) if part.settings else ""
    return "\n\n".join(block for block in (head, f"**{prose(known.summary)}**", source, *map(prose, known.rest), f"Class: {code(part.target)}", keys) if block)


def _row(setting: OptionKey, known: Documented) -> tuple[str, str, str, str]:
    field = known.fields.get(setting.name.rpartition(".")[2], Field("", ""))
    return code(setting.name), _default(setting), code(field.kind) if field.kind else "", prose(field.meaning)


def _default(setting: OptionKey) -> str:
    if setting.follows and isinstance(setting.value, Mapping):
        return f"that of {code(setting.follows)}"
    value = code(yaml.safe_dump(setting.value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip() or "''")
    return f"{value}, from {code(setting.follows)}" if setting.follows else value


def _chosen(found: Option) -> str:
    """Return what else an option chooses, sets and sweeps, and what its attacker may do."""
    lines = []
    if found.brings:
        lines.append(f"**Brings.** {', '.join(code(f'{group}={name}') for group, name in found.brings.items())}; a word on the command line wins.")
    if found.sets:
        lines.append(f"**Sets.** {', '.join(code(f'{key}={_plain(value)}') for key, value in found.sets.items())}")
    if found.group == "attack":
        lines.append(f"**Its attacker may do.** {code(allowed(cast('Mapping[str, object]', found.tree['threat'])))}")
    if found.swept:
        lines.append("**Sweeps.**\n\n" + table(("key", "values"), [(code(key), code(values)) for key, values in found.swept.items()]))
    return "\n\n".join(lines)


def _plain(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _cost(found: Option) -> str:
    seconds = cost(records(), found.group, found.tree[found.group])
    return prose(f"Median time of its steps in the committed records: {seconds}.") if seconds[-1] == "s" else "No committed record of it alone."
