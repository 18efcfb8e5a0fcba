"""The pages of the reference say what docstrings and configuration files say."""

import pytest

pytest.importorskip("griffe", reason="`make docs` installs it")

from docs.generate.classes import documented
from docs.generate.entries import entry, own, summary
from docs.generate.markdown import prose
from poisonbench.commands.described import option


def test_an_entry_has_the_words_the_source_and_every_key_with_default_type_and_meaning():
    told = entry(option("attack", "badnets"))
    assert told.startswith("## badnets {#badnets}\n\n```text\nattack=badnets\n```")
    assert "**Source.** Gu, Dolan-Gavitt, Garg" in told
    assert "| `attack.data.size` | `3` | `int` | side of the patch in pixels, 1 or more. |" in told
    assert "| `attack.data.pattern` | `white` | `'white' | 'checkerboard'` |" in told
    assert "`budget.rate=0.05, budget.relabel=True" in told


def test_the_choices_behind_a_name_of_a_type_are_written_out():
    assert documented("attacks.backdoor.badnets.BadNets").fields["position"].kind == "'bottom_right' | 'bottom_left' | 'top_right' | 'top_left' | 'center'"


def test_a_field_that_a_base_class_documents_has_its_meaning():
    assert documented("defenses.certify.dpa.DpaCertificate").fields["change"].meaning


def test_another_name_links_to_the_entry_and_a_variant_lists_what_differs():
    assert "Another name for [badnets](#badnets)." in entry(option("attack", "backdoor"))
    variant = entry(option("threat", "clean_label"))
    assert "The same as [default](#default), with other defaults:" in variant
    assert variant.count("| `threat.") == 1


def test_an_entry_says_what_its_option_brings_and_sets():
    assert "**Brings.** `threat=federated_partial`, `learner=federated`, `net=tiny`" in entry(option("attack", "alie"))
    assert "**Sets.** `net.norm=group`" in entry(option("defense", "dpa"))


def test_an_attack_stands_with_the_family_of_the_class_that_bears_its_name():
    assert own(option("attack", "model_replacement")).target == "attacks.federated.model_replacement.ModelReplacement"
    assert own(option("attack", "federated")).target == "attacks.federated.model_replacement.ModelReplacement"
    assert summary(option("attack", "badnets")) == "Stamp a patch on some training rows and give them the target label."


def test_plain_text_is_not_read_as_markdown_outside_code():
    assert prose("a * b [c] `d * e`") == r"a \* b \[c\] `d * e`"
