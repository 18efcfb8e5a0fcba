"""Alignment: pairs whose picture and caption do not fit each other are dropped.

Shape letters: N rows, E numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from defenses.sanitize.dropping import check_dropping, dropped
from poisonbench.core.abilities import Paired
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means, Verdict
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.prompts import CAPTION


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Drop the pairs with the smallest cosine between the picture and its caption, by the embeddings of a judge.

    Source: the filter of Schuhmann et al., "LAION-5B: An open large-scale dataset for training next generation image-text models", NeurIPS 2022,
    which keeps pairs with a cosine above a threshold (0.28 for English) by a CLIP model that was trained on other data. It was made for noise, not
    for poison.

    Differences: a share of the pairs is dropped, not all below a threshold, because the cosines of a model depend on how it was trained. The judge
    has the recipe of the victim. It is trained on trusted pairs, or on the received ones, with the poison among them.

    Args:
        judge_by: "trusted", a model trained on the trusted pairs; or "own", the undefended victim.
        expected_rate: poisoned rows / training rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is
            oracle knowledge; with attack=none it is an assumption.
        margin: rows removed, as a multiple of expected_rate * N, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    COLUMNS: ClassVar[tuple[str, ...]] = (CAPTION,)
    judge_by: Literal["trusted", "own"]
    expected_rate: float | None = field(metadata={"fact": POISON_RATE})
    margin: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if self.judge_by not in ("trusted", "own"):
            raise ConfigError(f"defense.sanitize.judge_by={self.judge_by}: choose trusted or own")
        check_dropping(self.expected_rate, self.margin)

    @property
    def NEEDS(self) -> frozenset[str]:
        """Trusted pairs, if the judge is trained on them."""
        return frozenset({"trusted"}) if self.judge_by == "trusted" else frozenset()

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict:
        """Score every pair by minus its cosine.

        Raises:
            Incompatible: the judge is no model of pictures and captions.
            ConfigError: all rows would be dropped.
        """
        judge = means.fit(means.trusted if self.judge_by == "trusted" else data)
        if not isinstance(judge, Paired):
            raise Incompatible(
                f"defense=alignment compares pictures with captions, and {type(judge).__name__} has no embeddings of both; use learner=contrastive"
            )
        pictures_NE, captions_NE = judge.embedded(data)
        return dropped(-(pictures_NE * captions_NE).sum(1), self.expected_rate, self.margin)
