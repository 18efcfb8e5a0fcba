"""Save a finished record: to the results folder, to the published records if asked, and to a tracker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from poisonbench.config.build import build, fitted
from poisonbench.config.setting import Setting
from poisonbench.trackers.none import Tracker

if TYPE_CHECKING:
    from poisonbench.storage.record import Record


def leads() -> bool:
    """Return whether this process reports for its run: the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def tracker_of(setting: Setting) -> Tracker:
    """Build the tracker that a setting names.

    Raises:
        ConfigError: a value that it cannot use.
    """
    return cast("Tracker", fitted(build(setting.tree["tracker"], setting.trusted, "tracker"), Tracker, "tracker"))


def save(record: Record, setting: Setting, tracker: Tracker) -> Path:
    """Write the record, log it to the tracker, and return its path; if several processes share a run, only the first writes."""
    places = setting.places
    if not leads():
        return places.results / "records" / f"{record.key}.json"
    path = record.write(places.results / "records")
    if setting.tree["publish"]:
        path = record.write(places.published)
    tracker.log(record, places.results)
    return path
