"""What a word may hold before a parser sees it: each limit from both sides."""

import pytest

from poisonbench.commands.compose import DEPTH, DIGITS, LETTERS, check_words
from poisonbench.core.errors import ConfigError

NEST = "[" * DEPTH + "]" * DEPTH


@pytest.mark.parametrize("word", ["x" * LETTERS, f"a={NEST},{NEST}", f"a={'9' * DIGITS}", "a=${seed}", "a=$HOME", "a=]]]", f"a={{b: {NEST[1:-1]}}}"])
def test_a_word_at_the_limit_passes(word):
    check_words([word])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("x" * (LETTERS + 1), rf"x\.\.\.: a word of {LETTERS + 1} letters; at most {LETTERS}$"),
        (f"a=[{NEST}]", f"at most {DEPTH} brackets within each other"),
        (f"a={{b: ({NEST[1:-1]})}}", f"at most {DEPTH} brackets within each other"),
        (f"a=]{'(' * (DEPTH + 1)}", f"at most {DEPTH} brackets within each other"),
        (f"a={'9' * (DIGITS + 1)}", f"and {DIGITS} digits"),
        ("a=${now:x}", r"\$\{now:\.\.\.} asks for more than a value"),
        ("a=${ now :x}", "asks for more than a value"),
        ("a=${b${now:x}}", "asks for more than a value"),
    ],
)
def test_a_word_beyond_it_is_refused(word, says):
    with pytest.raises(ConfigError, match=says) as refused:
        check_words(["seed=0", word])
    assert len(str(refused.value)) < 300
