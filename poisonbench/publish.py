"""A finished record goes to the disk, to the published ones if asked, and to a tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from poisonbench.assemble import Places
from poisonbench.build import build

if TYPE_CHECKING:
    from poisonbench.record import Record
    from poisonbench.trackers.none import Tracker


def tracker_of(tree: Mapping[str, object], trusted: tuple[str, ...]) -> Tracker:
    """Build the tracker that a configuration names."""
    return cast("Tracker", build(tree["tracker"], trusted, "tracker"))


def publish(record: Record, tree: Mapping[str, object], places: Places, tracker: Tracker) -> Path:
    """Write `record`, tell `tracker`, and return where it lies."""
    path = record.write(places.results / "records")
    if tree["publish"]:
        path = record.write(places.published)
    tracker.log(record, places.results)
    return path
