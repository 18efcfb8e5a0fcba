"""`python -m tests.reliability [--demand WORD]`: run the reliability tests, and write their outcome to docs/reliability.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.reliability import intervals

HOME = Path(__file__).parent.parent.parent
PAGE = HOME / "docs" / "reliability.md"
BEGIN, END = "<!-- outcome -->\n", "<!-- end -->"
SWEEP, DISK, HOSTILE, FUZZ, ORACLES, WORDS = (f"tests/reliability/test_{name}.py" for name in ("sweep", "disk", "hostile", "fuzz", "oracles", "command_line"))
PROOFS = "tests/reliability/test_proofs.py"
LEASE, PAGE_TESTS = "tests/unit/storage/test_lease.py", "tests/unit/report/test_leaderboard.py"
CERTIFY, RULES, FILTERS = (f"tests/unit/defenses/{name}.py" for name in ("test_certificates", "test_aggregate", "test_filters"))

PARALLEL = ("-n", "auto", "--dist", "worksteal")  # whoever is done takes tests from the others
BRUTE = (
    *(
        f"{CERTIFY}::test_{name}"
        for name in (
            "no_attack_within_the_radius_changes_an_answer",
            "the_certificate_of_a_run_off_is_seldom_below_the_true_radius",
            "no_insertion_of_r_rows_beats_the_certificate_at_r",
            "a_flipped_label_reaches_as_many_members_as_the_certificate_counts",
            "an_edited_row_counts_twice",
            "bagging_holds_against_every_number_of_rows_and_no_further",
        )
    ),
    "tests/unit/defenses/test_dpa.py::test_the_radius_equals_brute_force_over_every_change_of_votes_ties_included",
    "tests/unit/defenses/test_dpa.py::test_a_change_of_one_row_leaves_all_other_members_bit_identical",
    "tests/unit/defenses/test_dpa.py::test_no_insertion_of_r_rows_beats_the_certificate_at_r",
    "tests/unit/defenses/test_label_smoothing.py::test_no_flips_within_the_radius_take_the_majority_away",
    "tests/unit/defenses/test_dp_ensemble.py::test_no_event_of_one_step_falls_below_the_floor",
    "tests/unit/defenses/test_randomized_ablation.py::test_the_radius_is_that_of_counting_every_ablation",
    "tests/unit/defenses/test_randomized_ablation.py::test_no_change_within_the_radius_turns_an_answer",
)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        what: happens.
        passes: what passing means.
        push: tests that run with every change, by file or node.
        demand: tests that run when they are asked for.
    """

    what: str
    passes: str
    push: tuple[str, ...]
    demand: tuple[str, ...] = ()


STATS = "tests/unit/test_stats.py"
INTERVALS = "intervals and ranks compared with simulation at 3, 5 and 10 seeds, and leaderboards of 8, 15 and 30 equal cells"
MUTATION = (
    "deliberate mistakes in the code (mutants) of metrics, stats, store, audit, certificates and aggregation rules; needs `pip install -e .[dev,mutation]`"
)

ROWS = (
    Row(
        "a sweep of 12 cells is killed by SIGKILL, then the same command runs again: 6 kills; 1,000 on demand",
        "no damaged file, no lost or duplicated record; the store is byte for byte that of a sweep without kills",
        (f"{SWEEP}::test_a_sweep_killed_six_times_goes_on_as_if_nothing_had_happened",),
        (f"{SWEEP}::test_a_sweep_killed_a_thousand_times_goes_on_as_if_nothing_had_happened",),
    ),
    Row(
        "4 processes request the same 20 values from one store; on demand 16 request 500, four of them killed",
        "each value is computed once and found by all; no lease remains",
        (f"{LEASE}::test_four_processes_make_every_value_once", f"{LEASE}::test_a_killed_process_keeps_nobody_waiting"),
        (f"{LEASE}::test_sixteen_processes_four_of_which_are_killed_lose_no_value",),
    ),
    Row(
        "cells that exceed a memory limit, are killed for memory, segfault, exit, hang, or have a loss that is not finite; 20 orders on demand",
        "every cell ends as a record, the failed ones with their reason; the other cells are done",
        (f"{SWEEP}::test_six_casualties_end_none_of_the_others",),
        (f"{SWEEP}::test_casualties_in_any_order_end_none_of_the_others",),
    ),
    Row(
        "a Ray cluster of two nodes on one machine, one of them killed during a sweep",
        "every cell is done",
        ("tests/unit/sweep/test_engine.py",),
        ("tests/reliability/test_ray.py",),
    ),
    Row(
        "a disk that becomes full at 3 points of a run, and during two commands; 40 points on demand",
        "one error sentence, the old file is undamaged, the same command continues later",
        (DISK,),
        (f"{DISK}::test_a_disk_that_is_full_anywhere_on_the_way_loses_nothing",),
    ),
    Row(
        "6 random pairs of attack and defense in two processes with another order, PYTHONHASHSEED, locale and time zone; every pair and 5 seeds on demand",
        "equal result digests",
        ("tests/reliability/test_repeat.py::test_six_pairs_give_the_same_digest_in_two_fresh_processes",),
        ("tests/reliability/test_repeat.py::test_every_pair_gives_the_same_digest_in_two_fresh_processes",),
    ),
    Row(
        "hostile command lines, pictures and records; flipped bits in the store",
        "one error sentence, exit code 2, nothing written, no code run, no network connection",
        (
            HOSTILE,
            "tests/unit/test_decoders.py",
            "tests/unit/config/test_compose.py",
            f"{WORDS}::test_a_mistake_is_one_sentence_and_leaves_nothing_behind",
            "tests/unit/config/test_rerun.py::test_a_record_runs_no_code_of_its_own_and_asks_no_network",
        ),
    ),
    Row(
        "17 file readers and the command line parser, on 50 damaged inputs each; on 100,000 each on demand",
        "a value, or one error sentence; never another error",
        tuple(f"{FUZZ}::test_any_{name}" for name in ("bytes_are_a_value_or_one_sentence", "words_are_a_configuration_or_one_sentence")),
        tuple(
            f"{FUZZ}::test_any_{name}_a_hundred_thousand_times" for name in ("bytes_are_a_value_or_one_sentence", "words_are_a_configuration_or_one_sentence")
        ),
    ),
    Row(
        "random values anywhere in 300 records whose digests are correct; in 100,000 on demand",
        "a leaderboard, or one error sentence; never another error",
        (f"{FUZZ}::test_any_records_are_a_leaderboard_or_one_sentence",),
        (f"{FUZZ}::test_any_records_are_a_leaderboard_or_one_sentence_a_hundred_thousand_times",),
    ),
    Row(
        "HTML, CSV formulas and terminal escapes in the text of records and in file names",
        "they stay plain text; the page needs no network",
        (
            *(f"{PAGE_TESTS}::test_{name}" for name in ("no_text_of_a_record_is_more_than_text", "the_page_asks_nobody_for_anything")),
            *(f"{PAGE_TESTS}::test_a_browser_{name}" for name in ("shows_every_cell_without_a_complaint", "shows_why_a_cell_failed")),
            "tests/unit/commands/test_audit.py::test_names_of_files_are_text_and_nothing_else",
        ),
    ),
    Row(
        "certificates compared with brute force, 500 instances each, ties included; 20,000 on demand",
        "the radius is never above the true radius; equal to it where the theorem is tight",
        BRUTE,
        (f"{CERTIFY}::test_no_attack_within_the_radius_changes_an_answer_in_many_instances",),
    ),
    Row(
        "changed rows before a filter that looks at each row separately, then a certificate: 100 instances of each pair; 5,000 on demand",
        "no certificate is violated; behind a filter that looks at all rows, each one is",
        (PROOFS,),
        (f"{PROOFS}::test_no_change_of_rows_before_a_filter_beats_a_certificate_in_five_thousand_instances",),
    ),
    Row(
        "aggregation rules compared with ByzFL, filters with numpy and scikit-learn, epsilon with Google's accountant, 10 to 50 cases each; 5,000 on demand",
        "equal",
        (ORACLES, RULES, FILTERS, "tests/unit/defenses/test_dp_sgd.py"),
        (f"{ORACLES}::test_an_oracle_agrees_in_five_thousand_cases",),
    ),
    Row(
        INTERVALS,
        "coverage of at least 93 %; at most 5 % of the leaderboards separate any two cells",
        (STATS,),
        tuple(
            f"{STATS}::test_{name}" for name in ("the_interval_covers_at_least_93_per_cent_in_many_samples", "equal_cells_are_seldom_separated_in_many_boards")
        ),
    ),
    Row(MUTATION, "a test fails for at least 85 % of the mutants", ()),
)


@dataclass(frozen=True)
class Case:
    """A test that ran.

    Args:
        node: its file and name, without parameters.
        seconds: with its fixtures.
        status: "passed", "failed" or "skipped".
    """

    node: str
    seconds: float
    status: str

    def belongs(self, nodes: tuple[str, ...]) -> bool:
        """Tell whether it is one of `nodes`: tests, files or folders."""
        file = self.node.partition("::")[0]
        return any(node in (self.node, file) or file.startswith(f"{node}/") for node in nodes)


def cases(nodes: tuple[str, ...], mark: str, *words: str) -> list[Case]:
    """Run tests and return what became of each."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        told = ["-q", "-W", "error", "-m", mark, f"--junitxml={report}", "-o", "junit_family=xunit1", *words, *nodes]
        subprocess.run([sys.executable, "-m", "pytest", *told], cwd=HOME, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
        suite = next(ET.parse(report).getroot().iter("testsuite"))  # we wrote it ourselves a moment ago
    return [_case(found) for found in suite.iter("testcase")]


def _case(found: ET.Element) -> Case:
    wrong = found.find("failure") is not None or found.find("error") is not None
    status = "failed" if wrong else "skipped" if found.find("skipped") is not None else "passed"
    return Case(node=f"{found.get('file')}::{str(found.get('name')).partition('[')[0]}", seconds=float(found.get("time", "0")), status=status)


def outcome(ran: list[Case]) -> str:
    """Tell how many passed, in how many seconds."""
    count = Counter(case.status for case in ran)
    told = [f"{count['passed']} passed"]
    told += [f"**{count['failed']} failed**"] if count["failed"] else []
    told += [f"{count['skipped']} skipped"] if count["skipped"] else []
    return ", ".join([*told, f"{sum(case.seconds for case in ran):.0f} s"])


def mutation() -> str:
    """Run the tests against deliberate mistakes, and say how many they detected; what no test reaches counts as undetected."""
    subprocess.run(["mutmut", "run", "--max-children", "1"], cwd=HOME, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    subprocess.run(["mutmut", "export-cicd-stats"], cwd=HOME, check=True)
    found = json.loads((HOME / "mutants" / "mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    noticed, all_of_them = found["killed"] + found["timeout"] + found["suspicious"] + found["segfault"], found["total"] - found["skipped"]
    return f"{noticed} of {all_of_them} detected, {100 * noticed / all_of_them:.1f} %"


def main() -> int:
    """Write the page; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability")
    parser.add_argument(
        "--demand", metavar="WORD", help="run only what is run on demand, in the lines with this word; everything else stays as it was told last"
    )
    word = parser.parse_args().demand
    told, commit = told_before(), subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HOME, capture_output=True, text=True, check=False).stdout.strip()
    lines = ["| what happens | what passing means | with every change | on demand |", "| --- | --- | --- | --- |"]
    start = time.monotonic()
    everything = tuple(node for row in ROWS for node in row.push) if word is None else ()
    pushed = cases(everything, "not slow and not gpu and not paper", *PARALLEL) if everything else []
    took = time.monotonic() - start
    for row in ROWS:
        push, demand = told.get(row.what, ("not run" if row.push else "-", "not run" if row.demand or row.what == MUTATION else "-"))
        if word is None:
            push = outcome([case for case in pushed if case.belongs(row.push)]) if row.push else "-"
        elif word in row.what and (row.demand or row.what == MUTATION):
            demand = f"{mutation() if row.what == MUTATION else outcome(cases(row.demand, 'slow'))} (at {commit})"
        lines.append(f"| {row.what} | {row.passes} | {push} | {demand} |")
    machine = f"Python {platform.python_version()} on {os.cpu_count()} cores, commit {commit}"
    where = f"{machine}; the tests of every change took {took:.0f} s, with one process for each core" if word is None else told_where()
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    table = "\n".join(lines)
    PAGE.write_text(f"{head}{BEGIN}{where}.\n\n{table}\n{END}{tail}", encoding="utf-8")
    if word is not None and word in INTERVALS:
        intervals.write()
    return int(" failed**" in table)


def told_before() -> dict[str, tuple[str, str]]:
    """Return the last two cells of each line of the page."""
    lines = [[cell.strip() for cell in line.strip("|\n ").split(" | ")] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {cells[0]: (cells[2], cells[3]) for cells in lines if len(cells) == 4}


def told_where() -> str:
    """Return where the tests of every change were last run."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(".\n")[0]


if __name__ == "__main__":
    sys.exit(main())
