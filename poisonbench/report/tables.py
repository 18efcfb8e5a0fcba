"""Make Markdown tables from records: one line per cell, with the mean and the range over its seeds."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from poisonbench.core.errors import DataError
from poisonbench.report.experiments import belonging, experiment_of
from poisonbench.report.figures import (
    Failures,
    counted,
    goal,
    is_share,
    machine,
    malicious,
    markdown,
    name_of,
    number,
    over_targets,
    radii,
    relation,
    spread_text,
)
from poisonbench.stats import worst
from poisonbench.storage.record import Part, Record, read, words_in

COLUMNS = (
    "task",
    "attack",
    "rate",
    "defense",
    "setting",
    "seeds",
    "clean C-Acc / ASR",
    "undefended C-Acc / ASR",
    "defended C-Acc / ASR",
    "peak C-Acc",
    "TPR",
    "FPR",
    "AUROC within class",
    "more",
)
EXPERIMENT = "+experiment"
NAMED = ("task", "attack", "defense", "seed", "task.root", "threat.budget.rate", "threat.budget.count", EXPERIMENT)
OTHER = re.compile(r"(<!-- (ledger|benchmarks) -->\n).*?(<!-- end -->)", re.DOTALL)
SELECTION = re.compile(r"(<!-- selected:\n(.*?)-->\n).*?(<!-- end -->)", re.DOTALL)
SELECTED = (*COLUMNS[:2], "poison rate", *COLUMNS[3:9], "more")
RADII = (1, 5, 10, 20, 50, 100, 200, 400, 800)  # of certificates, in tables
AT_MOST = "at most "  # before the rate of a budget that is a maximum
BLOCK = re.compile(r"(<!-- (?:records|worst): (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


ABSENT = "the published records are in a clone of poisonbench, not in the installed package"


def published(folder: Path) -> list[Record]:
    """Read every record of a folder, sorted by command.

    Raises:
        DataError: a file that is not a record.
    """
    return sorted((read(path) for path in folder.glob("*.json")), key=lambda record: record.command)


def table(records: Iterable[Record], failures: Failures | None = None, shown: Container[str] | None = None) -> str:
    """Return one Markdown table without its empty columns; every line shows its number of seeds.

    Args:
        records: done or failed.
        failures: the figures of failed seeds; by default computed from these records.
        shown: the figures of goals in the last column; None: all.
    """
    records = list(records)
    rows = [_line(cell, found, failures or Failures.among(records), shown) for cell, found in cells_of(records)]
    used = [place for place in range(len(COLUMNS)) if any(row[place] for row in rows)]
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    return markdown([line[place] for place in used] for line in lines) + mixed(records)


def mixed(records: Iterable[Record]) -> str:
    """Return a note on the cells whose seeds come from different machines; empty if there are none."""
    made = [{machine(record) for record in found} for _, found in cells_of(records)]
    apart = [machines for machines in made if len(machines) > 1]
    if not apart:
        return ""
    share = "all lines" if len(apart) == len(made) else f"{len(apart)} of {len(made)} lines"
    names = (re.sub(r"[^\w ,.=+()@-]", "", place) for place in sorted(set().union(*apart)))  # an untrusted record may contain Markdown
    return f"\nThe seeds of {share} come from different machines, which round differently: {'; '.join(names)}.\n"


def cells_of(records: Iterable[Record]) -> list[tuple[tuple[str, ...], list[Record]]]:
    """Return the records of each (task, attack, rate, defense, setting), which differ only by their seed, in a fixed order.

    An experiment sets more than the words of the command show. If two recipes have the same words, the setting names the experiment.
    """
    alike: dict[tuple[tuple[str, ...], str], list[Record]] = {}
    for record in records:
        alike.setdefault((_cell(record), _recipe(record)), []).append(record)
    recipes = Counter(cell for cell, _ in alike)
    cells = [(cell if recipes[cell] == 1 else (*cell[:-1], _setting(mine[0], but=frozenset(NAMED) - {EXPERIMENT})), mine) for (cell, _), mine in alike.items()]
    return sorted(cells, key=lambda found: _order(found[0]))


def matrix(records: Iterable[Record], failures: Failures | None = None) -> str:
    """Return a Markdown table of defended C-Acc: one row per defense, one column per attack, and the worst case in the last column."""
    records = list(records)
    cells: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        cells.setdefault(name_of(record, "defense"), {}).setdefault(name_of(record, "attack"), []).append(record)
    attacks = sorted({attack for row in cells.values() for attack in row})
    lines = [("defense", *attacks, "worst case"), tuple("---" for _ in range(len(attacks) + 2))]
    for defense, row in sorted(cells.items()):
        figures = {attack: _defended(row[attack], "c_acc", failures or Failures.among(records)) for attack in attacks if attack in row}
        attack, figure = worst({name: float(shown.split()[0]) for name, shown in figures.items()}, largest=False)
        lines.append((defense, *(figures.get(name, "") for name in attacks), f"{figure:.1f} ({attack})"))
    return markdown(lines)


def selected(cells: Iterable[str], records: Iterable[Record], failures: Failures | None = None) -> str:
    """Return one short Markdown table of the cells that are named, in the order given.

    Args:
        cells: a line each, "task | attack | rate | defense | setting", as `table` prints them; the setting without backquotes.
        records: done or failed.
        failures: what a failed seed counts as; by default what these records say.

    Raises:
        DataError: a cell without a record, so that no line of a page stays empty.
    """
    records, shown, lines = list(records), [], [SELECTED, tuple("---" for _ in SELECTED)]
    found = dict(cells_of(records))
    for line in cells:
        cell = tuple(part.strip() for part in line.split("|"))
        if cell not in found:
            raise DataError(f"no record of the cell {line.strip()!r}; give task | attack | rate | defense | setting as in the tables of docs/results.md")
        done = [record for record in found[cell] if record.status == "done"]
        lines.append((*_line(cell, found[cell], failures or Failures.among(records))[:9], "; ".join(_briefly(done))))
        shown += found[cell]
    return markdown(lines) + mixed(shown)


def filled(text: str, records: Sequence[Record], ledger: str = "", benchmarks: str = "") -> str:
    """Return `text` with every block filled from the records that it names.

    `<!-- records: TASK [KEY=A,B ...] --> ... <!-- end -->` gets the table of these records, `<!-- worst: ... -->` the matrix of their
    C-Acc, `<!-- ledger -->` and `<!-- benchmarks -->` the given tables. A comment that begins with
    `<!-- selected:` and names one cell per line is followed by a short table of these cells. Keys are attack, defense (names), learner (class of the recipe,
    such as Federated), experiment (one name, or none for runs that belong to no experiment) and goal: the figures of the attack's goal that the table
    shows. A failed seed counts as a success of the attack and as C-Acc of chance.
    """
    failures, usable = Failures.among(records), [record for record in records if record.status != "skipped"]

    def block(found: re.Match[str]) -> str:
        task, *asked = found[2].split()
        wanted = {"task": [task], **{name: values.split(",") for name, _, values in (word.partition("=") for word in asked)}}
        mine, shown = usable, wanted.pop("goal", None)
        for experiment in wanted.pop("experiment", []):
            mine = [record for record in mine if not experiment_of(record)] if experiment == "none" else belonging(mine, experiment)
        chosen = [record for record in mine if all(_part(record, name) in wanted[name] for name in wanted)]
        drawn = matrix(chosen, failures) if found[1].startswith("<!-- worst") else table(chosen, failures, shown)
        return f"{found[1]}{drawn}{found[3]}"

    others = {"ledger": ledger, "benchmarks": benchmarks}
    text = OTHER.sub(lambda found: f"{found[1]}{others[found[2]]}{found[3]}", text)
    text = SELECTION.sub(lambda found: f"{found[1]}{selected(found[2].splitlines(), usable, failures)}{found[3]}", text)
    return BLOCK.sub(block, text)


def _cell(record: Record) -> tuple[str, ...]:
    budget = cast("Mapping[str, float]", cast("Mapping[str, object]", record.spec["threat"])["budget"])
    rows = cast("Mapping[str, Mapping[str, int]]", record.spec["task"])["rows"]
    share = float(budget["rate"]) if budget.get("count") is None else budget["count"] / max(1, rows["train"])
    rate = f"{AT_MOST if budget.get('at_most') else ''}{100 * share:.3g} %" if name_of(record, "attack") != "none" else ""
    return name_of(record, "task"), name_of(record, "attack"), rate, name_of(record, "defense"), _setting(record)


def _setting(record: Record, but: Container[str] = NAMED) -> str:
    """Return the words of a command except those that set one of these keys; sorted, since their order does not matter."""
    return " ".join(sorted(word for word in words_in(record.command)[3:] if word.partition("=")[0] not in but))


def _recipe(record: Record) -> str:
    """Return what was asked, except the rows and the seed, as text."""
    return json.dumps({part: value for part, value in record.spec.items() if part not in ("task", "seed")}, sort_keys=True, default=str)


def _order(cell: tuple[str, ...]) -> tuple[str, str, float, str, str]:
    task, attack, rate, defense, setting = cell
    return task, attack, float(rate.removeprefix(AT_MOST).removesuffix(" %") or 0), defense, setting


def _line(cell: tuple[str, ...], records: Sequence[Record], failures: Failures, shown: Container[str] | None = None) -> tuple[str, ...]:
    task, attack, rate, defense, setting = cell
    done = [record for record in records if record.status == "done"]
    pairs = [f"{_over(done, part, 'c_acc')} / {_over(done, part, 'asr') or '-'}" for part in ("baseline", "undefended")]
    pairs.append(" / ".join(_defended(records, name, failures) or "-" for name in ("c_acc", "asr")))
    filters = [_over(done, "metrics", name) for name in ("tpr", "fpr")] + [_over(done, "metrics", "auroc_in_class", scale=1.0, digits=3)]
    seeds = str(len(records)) + (f" ({len(records) - len(done)} failed)" if len(done) < len(records) else "")
    return task, attack, rate, defense, f"`{setting}`" if setting else "", seeds, *pairs, _peak(done), *filters, "; ".join(_more(done, shown))


def _peak(records: Sequence[Record]) -> str:
    """Return the largest C-Acc of the defended model over the epochs, in per cent; empty for learners that train in rounds or keep no models."""
    curves = [record.curves.get("defended") for record in records if "rounds" not in record.facts]
    kept = [cast("Sequence[float]", curve["c_acc"]) for curve in curves if isinstance(curve, Mapping) and "c_acc" in curve]
    return spread_text([100 * max(accuracies) for accuracies in kept], 1)


def _more(records: Sequence[Record], shown: Container[str] | None = None) -> Iterator[str]:
    """Yield phrases with the figures that only some defenses and attacks report; of goals, those in `shown`, or all."""
    parts: tuple[Part, ...] = ("undefended", "metrics")
    yield from _cover(records)
    yield from _reached(records)
    lost, least = ([_goals(records, part, name) for part in parts] for name in ("c_acc_lost", "epsilon_lower"))
    yield from (f"C-Acc lost {spread_text([100 * value for value in values], 1)}" for values in lost[:1] if values)
    yield from _counted(records, shown)
    if len(records) == 1 and (ends := over_targets(records[0], records[0].undefended)):
        yield f"95 % interval of the undefended ASR {100 * ends[0]:.1f} to {100 * ends[1]:.1f}, from {records[0].counts.get('trials', 0)} targets"
    screened = [_inside(records, "screen", name, scale) for name, scale in (("c_acc", 100.0), ("asr", 100.0), ("auroc", 1.0))]
    if screened[0]:
        names = "C-Acc / ASR" if screened[1] else "C-Acc"
        yield f"screened {names} {' / '.join(filter(None, screened[:2]))}" + (f", AUROC of the screen {screened[2]}" if screened[2] else "")
    repairs = {"anomaly_index": "anomaly index", "pruned": "pruned channels"}
    yield from (f"{meaning} {figure}" for name, meaning in repairs.items() if (figure := _inside(records, "repair", name, 1.0)))
    yield from _proved(records)
    yield from (f"mean C-Acc of a member {right}" for right in [_over(records, "metrics", "member_c_acc")] if right)
    yield from _spent(records)
    yield from _bounded(records)
    yield from (
        f"{whose}canaries prove an epsilon of at least {spread_text(values, 2)}" for whose, values in zip(("undefended: ", ""), least, strict=True) if values
    )
    yield from sorted({clients for record in records if (clients := malicious(record))})


def _briefly(records: Sequence[Record]) -> Iterator[str]:
    """Yield the figure that matters most for a filter, a certificate and a private training, in words."""
    removed = [_over(records, "metrics", name) for name in ("tpr", "fpr")]
    yield from (f"the filter removes {poison} % of the poison and {clean} % of the clean rows" for poison, clean in [removed] if poison and clean)
    units = " or ".join(sorted({radii(record, seed=len(records) == 1) for record in records if "certified" in record.metrics}))
    yield from (f"median certified radius {radius}, in {units}" for radius in [_over(records, "metrics", "median_radius", scale=1.0)] if radius)
    yield from _spent(records)


def _spent(records: Sequence[Record]) -> Iterator[str]:
    """Yield the epsilon of a private training, with its neighbours and whose draws it holds over."""
    relations = " or ".join(sorted({relation(record, seed=len(records) == 1) for record in records if "epsilon" in record.facts}))
    yield from (f"epsilon {spent} ({relations})" for spent in [_over(records, "facts", "epsilon", scale=1.0, digits=2)] if spent)


def _bounded(records: Sequence[Record]) -> Iterator[str]:
    """Yield the hinge loss on clean rows, and the bound that no attack within the feasible set of a certified filter exceeds."""
    found, most = (_over(records, "facts", name, scale=1.0, digits=3) for name in ("clean_hinge", "hinge_bound"))
    yield from (f"hinge loss on clean rows {found}, at most {most} for any rows inserted within the budget" for _ in [most] if found and most)


def _cover(records: Sequence[Record]) -> Iterator[str]:
    """Yield how many rows only hide the poison, and how many of them a filter removed."""
    counts = [float(count) for record in records if (count := record.counts.get("cover", 0))]
    removed = _over(records, "metrics", "cover_removed")
    yield from (f"{spread_text(counts, 0)} cover rows{f', {removed} % of them removed' if removed else ''}" for _ in counts[:1])


def _reached(records: Sequence[Record]) -> Iterator[str]:
    """Yield how many rows were poisoned where the attacker's reach decides, and what the reach cost."""
    found = [record.counts for record in records if "reachable" in record.counts]
    if not found:
        return

    def over(name: str, scale: float = 1.0, digits: int = 0) -> str:
        return spread_text([scale * float(counts[name]) for counts in found if name in counts], digits)

    yield f"{over('poisoned')} rows poisoned"
    yield from (f"{over('domains')} domains for {over('cents', 0.01, 2)} dollars" for _ in found[:1] if over("domains"))
    yield from (f"{over('reachable')} of {over('attempted')} edits in the snapshot, {over('stale')} pages stale" for _ in found[:1] if over("attempted"))


def _proved(records: Sequence[Record]) -> Iterator[str]:
    """Yield the median radius, certified accuracy and accuracy under one attack, with the unit of the radii."""
    units = " or ".join(sorted({radii(record, seed=len(records) == 1) for record in records if "certified" in record.metrics}))
    found = [f"median radius {radius}" for radius in [_over(records, "metrics", "median_radius", scale=1.0)] if radius]
    found += [f"certified accuracy {', '.join(shares)}" for shares in [list(_certified(records))] if shares]
    together = sorted({int(name) for record in records for name in cast("Mapping[str, float]", record.metrics.get("collective") or {})})
    shares = [f"{_inside(records, 'collective', str(count), 100.0)} at {count}" for count in together]
    found += [f"accuracy under one attack on all test rows {', '.join(shares)}"] if shares else []
    named = [[float(radius) for radius in cast("Mapping[str, float]", record.metrics["never"]).values()] for record in records if "never" in record.metrics]
    if named:
        worst, mean = [min(own) for own in named], [sum(own) / len(own) for own in named]
        found.append(
            f"median radius against a named wrong answer {spread_text(worst, 1)} for the worst class, {spread_text(mean, 1)} for the mean of the classes"
        )
    if found and units:
        yield f"in {units}: {'; '.join(found)}"


def _certified(records: Sequence[Record]) -> Iterator[str]:
    """Yield the certified accuracy at the radii in `RADII`, where it is at least 1 % for some seed."""
    curves = [cast("Sequence[float]", curve) for record in records if isinstance(curve := record.metrics.get("certified"), list | tuple)]
    for radius in RADII if curves else ():
        shares = [100 * curve[radius] if radius < len(curve) else 0.0 for curve in curves]
        if max(shares) >= 1:
            yield f"{spread_text(shares, 1)} at {radius}"


def _counted(records: Sequence[Record], shown: Container[str] | None) -> Iterator[str]:
    """Yield the shares that a goal counts, such as "ham as spam", of the clean, the undefended and the defended model."""
    for kind in sorted(name for name in counted(records, "undefended") if shown is None or name in shown):
        scale = 100 if is_share(kind) else 1
        shares = [spread_text([scale * value for value in _goals(records, part, kind)], 1) for part in ("baseline", "undefended", "metrics")]
        yield f"{kind.replace('_', ' ')} {' / '.join(shares)}"


def _goals(records: Sequence[Record], part: Part, name: str) -> list[float]:
    return [found[name] for record in records if name in (found := goal(record, part))]


def _inside(records: Sequence[Record], part: str, name: str, scale: float) -> str:
    """Return one figure of a part of the metrics, over seeds."""
    parts = [inner for record in records if isinstance(inner := record.metrics.get(part), Mapping)]
    return spread_text([scale * float(inner[name]) for inner in parts if name in inner], 2 if scale == 1.0 else 1)


def _over(records: Sequence[Record], part: str, name: str, *, scale: float = 100.0, digits: int = 1) -> str:
    values = [value for record in records if (value := number(getattr(record, part).get(name))) is not None]
    return spread_text([scale * value for value in values], digits)


def _defended(records: Sequence[Record], name: str, failures: Failures) -> str:
    """Return a figure of the defended models, in per cent; failed seeds count."""
    found = [number({**record.metrics, **failures.figures(record)}.get(name)) for record in records]
    return spread_text([100 * value for value in found if value is not None], 1)


def _part(record: Record, name: str) -> str:
    """Return the value of a record that a block's key is compared with."""
    learner = record.spec["learner"]
    return str(learner["class"]).rpartition(".")[2] if name == "learner" and isinstance(learner, Mapping) else name_of(record, name)
