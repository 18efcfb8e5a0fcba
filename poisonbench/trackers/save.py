"""A finished record goes to the disk, to the published ones if asked, and to a tracker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from poisonbench.config.build import build, fitted
from poisonbench.runner.experiment import Places
from poisonbench.trackers.none import Tracker

if TYPE_CHECKING:
    from poisonbench.storage.record import Record


def leads() -> bool:
    """Tell whether this process speaks for its run: alone, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def tracker_of(tree: Mapping[str, object], trusted: tuple[str, ...]) -> Tracker:
    """Build the tracker that a configuration names."""
    return cast("Tracker", fitted(build(tree["tracker"], trusted, "tracker"), Tracker, "tracker"))


def publish(record: Record, tree: Mapping[str, object], places: Places, tracker: Tracker) -> Path:
    """Write `record`, tell `tracker`, and return where it lies; of several processes of one run, the first does."""
    if not leads():
        return places.results / "records" / f"{record.key}.json"
    path = record.write(places.results / "records")
    if tree["publish"]:
        path = record.write(places.published)
    tracker.log(record, places.results)
    return path
