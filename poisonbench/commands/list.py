"""`list [GROUP...] [--json]`: the options of each group. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from poisonbench.commands.usage import Usage
from poisonbench.config.vocabulary import groups, option_meant, options
from poisonbench.core.errors import ConfigError, meant

JSON = "--json"

USAGE = Usage(
    call="list [GROUP...] [--json]",
    does="Show the options of each group.",
    options={"GROUP": "such as attack, defense, task, net or learner; all by default", JSON: "one line of JSON, for programs"},
)


def main(words: Sequence[str]) -> int:
    """Print the options of the named groups, or of all; a group may be named in the plural.

    Raises:
        ConfigError: a group that does not exist.
    """
    known = groups()
    asked = [word if word in known else word.removesuffix("s") for word in words if word != JSON]
    for group, word in zip(asked, [word for word in words if word != JSON], strict=True):
        if group not in known:
            named = option_meant(word)
            raise ConfigError(f"list {word}: no such group; {f'{named} is an option: `describe {word}` explains it' if named else meant(word, known)}")
    listed = {group: options(group) for group in asked or known}
    lines = [json.dumps(listed)] if JSON in words else [f"{group}: {', '.join(names)}" for group, names in listed.items()]
    for line in lines:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return 0
