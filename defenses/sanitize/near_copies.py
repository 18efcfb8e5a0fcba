"""Near copies: rows that nearly repeat an earlier row.

Shape letters: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.rng import Key
from poisonbench.forms.words import whole_rows


@dataclass(frozen=True, kw_only=True)
class NearCopies:
    """Drop the rows that nearly repeat an earlier row.

    Source: for texts, Broder, "On the Resemblance and Containment of Documents", SEQUENCES 1997 (MinHash, then the exact Jaccard similarity); for
    pictures, the difference hash of Krawetz, "Kind of Like That", 2013, then a comparison of pixels.

    The form of the inputs says what a copy is: for pictures of 28x28 pixels or more, the same picture after a small patch, weak noise or a change of the light,
    and in colour also after JPEG; for smaller ones little more than equal pictures; for texts, nearly the same words; for numbers, an equal row. A
    picture that was moved by a pixel is not found. `poisonbench.forms.copies` has the limits, how they were chosen and what they find.

    Where a row has a response beside its prompt, the words of both count: two responses to one prompt are no copies unless the rows have nearly the same
    words in all.

    Copies are harmful in three ways: a row that is repeated weighs more, a copy with another label contradicts its twin, and a copy of a test row
    makes the test easier than it seems. Of two copies the later one is dropped, which need not be the wrong one. A copy with another label is the most
    suspicious: 1 is added to its likeness.

    For passages of retrieval, `near_duplicate` compares what the retriever compares.
    """

    VERSION: ClassVar[int] = 2
    FINDS: ClassVar[Finds] = Finds(kind="duplicate", reads="none", because="it nearly repeats {twin}")

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Compare every row with all earlier ones."""
        found = data.form.twins(whole_rows(data), rng)
        copies = found.twin >= 0
        contradicts = copies & (data.labels[found.twin.clamp_min(0)] != data.labels)
        return Verdict(keep=~copies, suspicion=found.likeness.float() + contradicts.float(), evidence={"twin": found.twin})
