"""Alignment: pairs whose picture and caption do not fit each other are dropped.

Shape letters: N rows, E numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from defenses.sanitize.dropping import check_dropping, dropped
from poisonbench.core.abilities import agreement_of
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Finds, Means, Verdict
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.rng import Key
from poisonbench.core.threat import POISON_RATE
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.prompts import CAPTION
from poisonbench.forms.shapes import PICTURE
from poisonbench.forms.tokens import TEXTS


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Drop the pairs whose picture and caption fit each other least: those with the smallest cosine of their embeddings by a judge.

    Source: the filter of Schuhmann et al., "LAION-5B: An open large-scale dataset for training next generation image-text models", NeurIPS 2022,
    which keeps pairs with a cosine above a threshold (0.28 for English) by a CLIP model that was trained on other data. It was made for noise, not
    for poison.

    A generator has no embeddings of both parts. It is asked how much better it makes the picture from its own caption than from other captions
    (`learner=text_to_image`, after Li et al., ICCV 2023), and these gains take the place of the cosines. It sees pictures by the encoder that a cloak
    deceives, so it finds cloaked pictures, in which a person sees nothing wrong.

    Differences: a share of the pairs is dropped, not all below a threshold, because the cosines of a model depend on how it was trained. The judge
    has the recipe of the victim. It is trained on trusted pairs, or on the received ones, with the poison among them.

    Args:
        judge_by: "trusted", a model trained on the trusted pairs; or "own", the undefended victim.
        expected_rate: poisoned rows / training rows to assume, in [0, 1). null: what the threat's budget states (rate or count), which is
            oracle knowledge; with attack=none it is an assumption.
        margin: rows removed, as a multiple of expected_rate * N, 0 or more.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES | TEXTS
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = ((CAPTION, PICTURE),)
    FINDS: ClassVar[Finds] = Finds(
        kind="caption", reads="full", because='"{caption}" fits its picture less than other captions fit theirs', scale="data", settings={"judge_by": "own"}
    )
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
        """Score every pair by minus its cosine, or by minus what its own caption gains.

        Raises:
            Incompatible: the judge is no model of pictures and captions.
            ConfigError: all rows would be dropped.
        """
        judge = means.fit(means.trusted if self.judge_by == "trusted" else data)
        if (fit_N := agreement_of(judge, data)) is None:
            raise Incompatible(
                f"defense=alignment compares pictures with captions, and {type(judge).__name__} cannot; use learner=contrastive or learner=text_to_image"
            )
        return dropped(-fit_N, self.expected_rate, self.margin)
