"""Where the documentation site describes attacks and defenses. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from urllib.parse import urlsplit

from poisonbench.core.errors import ConfigError

PLUGIN = re.compile(r"_target_: (?:attacks|defenses)\.(\w+)\.")
SLOTS = ("certify", "aggregate", "sanitize", "repair", "screen", "train")  # the reference lists a defense of several slots under the first of these


def links(site: str, group: str, names: Iterable[str]) -> dict[str, str]:
    """Return the address of each name that is an option of this project; the parts of a pair such as "badnets+alie" have one each.

    An attack has a heading in the gallery, a defense one in the reference, on the page of its slot.

    Args:
        site: the documentation site as seen from the page, such as "../".
        group: "attack" or "defense".
        names: of attacks or of defenses.

    Raises:
        ConfigError: a site that is no folder and no web address.
    """
    if urlsplit(site).scheme not in ("", "http", "https"):
        raise ConfigError(f"site {site}: give a folder relative to the page, such as ../ , or an address that begins with https://")
    found = {}
    for name in sorted({part for whole in names for part in whole.split("+")}):
        option = files("configs") / group / f"{name}.yaml"
        if re.fullmatch(r"\w+", name) and option.is_file() and (folders := set(PLUGIN.findall(option.read_text(encoding="utf-8")))):
            page = "gallery.html" if group == "attack" else f"reference/defenses/{next((slot for slot in SLOTS if slot in folders), SLOTS[-1])}.html"
            found[name] = f"{site.rstrip('/')}/{page}#{name}"
    return found
