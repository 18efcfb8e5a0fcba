"""A language model that is trained in stages: pre-training, instructions, safety, preferences, fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Combine, Fitted, OneByOne, State, Step, Trained, Victim
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key
from poisonbench.core.stages import STAGES, stage_of
from poisonbench.learn.language import Language


@dataclass(frozen=True, kw_only=True)
class Tuned(OneByOne):
    """Train one language model on the rows of one stage after the other; each stage has its own recipe, and stages without rows are left out.

    Source: the order of Ouyang et al., "Training Language Models to Follow Instructions with Human Feedback", NeurIPS 2022, with a preference stage by
    DPO in place of reinforcement learning, and a last stage for the fine-tuning by a user.

    The public rows cannot be poisoned. Where there are some, such as those of a pre-training by somebody else, the model is trained on them first, and the
    store keeps it for all runs with the same rows. The column "stage" of a row names its stage. Answers are read with the temperature of `finetuning`.

    Args:
        pretraining: recipe for texts.
        instruction: recipe for prompts and their responses.
        safety: recipe for refusals and the rows that are trained with them.
        preference: recipe for pairs of a chosen and a rejected response.
        finetuning: recipe of a user's own fine-tuning.
        fitted: the state of the model that was trained on the public rows, once it is.
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"
    pretraining: Language
    instruction: Language
    safety: Language
    preference: Language
    finetuning: Language
    fitted: State = field(default_factory=dict)

    @property
    def members(self) -> Mapping[str, Language]:
        """The recipe of each stage."""
        return {name: getattr(self, name) for name in STAGES}

    @property
    def READS(self) -> frozenset[str] | None:
        """The forms that the network can read."""
        return getattr(self.pretraining.net, "READS", None)

    @property
    def stages(self) -> frozenset[str]:
        """All slots of a training in one place except that of an attacker who runs it."""
        return self.pretraining.stages - {"attack.train"}

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions."""
        return self.pretraining.runtime

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse recipes for different networks, and rows that the recipe of their stage refuses.

        Raises:
            ConfigError: what to change.
        """
        if any(member.net != self.pretraining.net for member in self.members.values()):
            raise ConfigError("learner=tuned: the recipes of the stages name different networks; one model is trained in all stages, so set net alone")
        for name, rows, inner in self._rows(data, combine):
            self.members[name].check(rows, inner)

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return this recipe with the model that was trained on the public rows."""
        members = {name: member.with_public(public, fit) for name, member in self.members.items()}
        if fit is None or len(public) == 0:
            return dataclasses.replace(self, **members)  # type: ignore[arg-type]
        present = {STAGES[number] for number in stage_of(public).unique().tolist()}  # other recipes are left out of the key of the model
        plain = {name: dataclasses.replace(self.members[name if name in present else STAGES[0]], steps=()) for name in STAGES}
        state = dict(fit(dataclasses.replace(self, fitted={}, **plain), public).state())
        return dataclasses.replace(self, fitted=state, **members)  # type: ignore[arg-type]

    def with_step(self, step: Step) -> Self:
        """Return this recipe with one more step in every stage."""
        return dataclasses.replace(self, **{name: member.with_step(step) for name, member in self.members.items()})  # type: ignore[arg-type]

    def with_epochs(self, epochs: int) -> Self:
        """Return this recipe with another number of epochs in every stage."""
        return dataclasses.replace(self, **{name: member.with_epochs(epochs) for name, member in self.members.items()})  # type: ignore[arg-type]

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Victim:
        """Train in all stages that have rows, from the model of the public rows, or from `start`; the models that each stage keeps are kept."""
        victim, facts = start or self._first(data, combine), dict[str, object]()
        epochs, steps, history = dict[str, int](), 0, list[State]()
        for name, rows, inner in self._rows(data, combine):
            trained = self.members[name].fit(rows, inner, rng.child(name), victim)
            victim, facts = trained, facts | dict(trained.facts)
            history += trained.history
            epochs[name], steps = self.members[name].epochs, steps + int(str(trained.facts["steps"]))
        assert victim is not None, "there are rows"
        facts.pop("history_every", None)  # the stages keep models at intervals of their own
        facts |= {"epochs": epochs, "steps": steps}
        return self.restore(Trained(state=victim.state(), facts=facts, history=tuple(history)), data, combine)

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> Victim:
        """Rebuild a victim."""
        return self.finetuning.restore(trained, like, combine)

    def _first(self, like: Dataset, combine: Combine) -> Victim | None:
        return self.restore(Trained(state=self.fitted, facts={}), like, combine) if self.fitted else None

    @staticmethod
    def _rows(data: Dataset, combine: Combine) -> Iterator[tuple[str, Dataset, Combine]]:
        """Yield the name of each stage that has rows, its rows, and `combine` with its clean rows."""
        numbers, clean = stage_of(data), stage_of(combine.clean)
        for number, name in enumerate(STAGES):
            if (mine := numbers == number).any():
                yield name, data.take(mine), dataclasses.replace(combine, clean=combine.clean.take(clean == number))
