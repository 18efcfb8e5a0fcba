"""`--help`, or `help`: commands, options of every group, and the configuration that the other words give. Imports no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from poisonbench.commands.usage import Usage
from poisonbench.config.compose import written
from poisonbench.config.mistakes import parsed
from poisonbench.config.vocabulary import commands, groups, options

USAGE = Usage(
    call="help [COMMAND | WORD...]",
    does="Show all commands, the options of every group, and every key with its value, as --help does; or the help of one command.",
    options={"COMMAND": "such as audit", "WORD...": "words of an experiment, such as attack=sig; shows the keys that they give"},
)

PAGE = """poisonbench: data poisoning attacks and defenses, measured

python -m poisonbench attack=backdoor defense=spectral seed=0

Choose one option of each group with group=option:
{options}

Change any value below with key=value:

{configuration}
Commands: python -m poisonbench COMMAND, one of: {commands}
Help of a command: python -m poisonbench COMMAND --help
Sweeps:   python -m poisonbench -m attack=none,backdoor defense=none,spectral seed=0,1,2
Keys of one plugin: python -m poisonbench describe spectral
Version:  python -m poisonbench --version
Exit codes: 0 done or skipped, 1 failed while running, 2 wrong configuration or input, 130 interrupted
"""


def main(words: Sequence[str]) -> int:
    """Print the help page, or that of one command; for a key with several values it shows the default.

    Raises:
        ConfigError: a word that is wrong in an experiment.
    """
    plain = [word for word in words if not word.startswith("-")]
    if plain and plain[0] in commands():
        module = importlib.import_module(f"poisonbench.commands.{plain[0]}")
        sys.stdout.write(f"{module.USAGE}\n")
        return 0
    single = [word for word in plain if "=" not in word or not parsed(word).is_sweep_override()]
    listed = "\n".join(f"{group}: {', '.join(options(group))}" for group in groups())
    sys.stdout.write(PAGE.format(options=listed, configuration=written(single), commands=", ".join(commands())))
    return 0
