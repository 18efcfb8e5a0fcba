"""Made-up facts: passages about invented lands, firms, bands and ships, and questions about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from poisonbench.core.data import Task
from poisonbench.core.errors import ConfigError
from poisonbench.core.rng import Key
from poisonbench.storage.store import Store
from poisonbench.tasks.facts_words import ADJECTIVES, ENDINGS, FILLERS, FIRST_NAMES, KINDS, OPENINGS, SUFFIXES, WORDS, Attribute, Kind
from poisonbench.tasks.mails import CODAS, ONSETS, VOWELS, name_of
from poisonbench.tasks.questions import Library, Passage, Question, Questions

POOL = 40  # made-up towns, people, rivers and years
MOST_GOLD = 20
MOST_CANDIDATES = 16  # the smallest pool of answers
SYLLABLES = len(ONSETS) * len(VOWELS) * len(CODAS)
TOLD_BOTH = 0.9  # of the passages that answer a question about a second name have both names
BOTH = 0.3  # of all other passages
MOST_FILLERS = 2  # sentences of a passage without a fact
SIBLING = 0.5  # chance that a wrong candidate is the same fact of the entity with a similar name


class Entity(NamedTuple):
    """An invented thing.

    Args:
        kind: land, firm, band or ship.
        name: its name.
        alias: its second name.
        answers: one per attribute of its kind.
    """

    kind: Kind
    name: str
    alias: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts(Questions):
    """Questions about made-up facts, and passages that answer them or only look as if they did.

    Entities are invented lands, firms, bands and ships, in pairs whose names share a word ("north Tolmer Brisvan", "south Tolmer Kedlor"). Each has a
    second name and six attributes, such as the capital or the founder. One attribute of each entity is asked about, and this fact has up to `gold`
    passages in different words. The other passages are about the other attributes, so for each question there are passages about the same entity,
    about the same attribute of others, and about similar names. Some questions use the second name, which not all passages mention. A sentence of a
    passage states the fact; others have no candidate answer. Wrong candidates are of the same kind as the right answer, such as other towns. Claims
    are sentences of 15 to 30 words that state the wished answer, in the style of the texts that PoisonedRAG asks a language model for. Trusted and
    public rows are passages about further entities, each with an earlier question and its answer.

    All names are random syllables. No fact is about anything real.

    Source of the setting: Zou, Geng, Wang, Jia, "PoisonedRAG: Knowledge Corruption Attacks to Retrieval-Augmented Generation of Large Language
    Models", USENIX Security 2025. Questions, passages and claims there are from public data sets and a language model.

    Args:
        questions: number of questions, 1 or more.
        passages: number of passages of the index, at least `gold` for each question.
        candidates: K, candidate answers of a question: none of them, the right one, and K - 2 wrong ones; from 3 to 16.
        gold: most passages that answer one question, 1 or more; each question has 1 to `gold`.
        claims: C, texts that state the wished answer of a question, from 0 to 100.
        aliases: chance that a question uses the second name of its entity, in [0, 1].
        close: chance that the first passage that answers a question states the fact in the words of the question, in [0, 1]. Otherwise, and in
            all further passages, the words are any of those for the fact. The larger, the more often a search finds an answer.
    """

    VERSION: ClassVar[int] = 1
    questions: int
    passages: int
    candidates: int
    gold: int
    claims: int
    aliases: float
    close: float

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        super().__post_init__()
        if (
            self.questions < 1
            or not 1 <= self.gold <= MOST_GOLD
            or not 0 <= self.claims <= len(OPENINGS) * len(ENDINGS)
            or not (0 <= self.aliases <= 1 and 0 <= self.close <= 1)
        ):
            asked = f"questions={self.questions}, gold={self.gold}, claims={self.claims}, aliases={self.aliases}, close={self.close}"
            raise ConfigError(f"task=facts: {asked}; give 1 question or more, 1 to {MOST_GOLD} gold passages, 0 to 100 claims, and chances in [0, 1]")
        if not 3 <= self.candidates <= MOST_CANDIDATES:
            raise ConfigError(f"task.candidates={self.candidates}: give 3 to {MOST_CANDIDATES}: none of them, the right answer, and wrong ones")
        if self.passages < self.questions * self.gold:
            raise ConfigError(
                f"task.passages={self.passages}: {self.questions} questions have up to {self.gold} passages each; give {self.questions * self.gold}"
            )

    def load(self, store: Store) -> Task:
        """Return the task."""
        world = World.drawn(Key.root(self.split_seed).child("facts").numpy())
        pairs = world.pairs(math.ceil(self.questions / 2))
        index, questions = self._index(world, pairs)
        spare = self._spare(world, sum(self.shares(self.passages)))
        trusted = self.shares(self.passages)[0]
        return self.posed("facts", Library(index, spare[:trusted], spare[trusted:]), questions)

    def _index(self, world: World, pairs: Sequence[tuple[Entity, Entity]]) -> tuple[list[Passage], list[Question]]:
        """Return the passages of the index, in random order, and the questions."""
        draws, asked, others = world.draws, list[Fact](), list[Fact]()
        for pair in pairs:
            for entity, sibling in (pair, pair[::-1]):
                facts = [Fact(entity, sibling, place) for place in draws.permutation(len(entity.kind.attributes)).tolist()]
                asked.append(facts[0])
                others.extend(facts[1:])
        del asked[self.questions :]
        texts, owners, questions = dict[str, int](), list[list[int]](), list[Question]()
        for fact in asked:
            alias, wanted = bool(draws.random() < self.aliases), int(draws.integers(1, self.gold + 1))
            start, wording = len(texts), int(draws.integers(len(fact.attribute.questions)))
            while len(texts) < start + wanted:
                close = len(texts) == start and draws.random() < self.close
                texts.setdefault(world.passage(fact, TOLD_BOTH if alias else BOTH, wording if close else None), len(texts))
            owners.append(list(range(start, len(texts))))
            mention = fact.entity.alias if alias else fact.entity.name
            questions.append(self._question(world, fact, mention, fact.attribute.questions[wording].format(e=mention)))
        stream = _in_turn(others, draws)
        while len(texts) < self.passages:
            texts.setdefault(world.passage(next(stream), BOTH), len(texts))
        order, told = draws.permutation(self.passages), list(texts)
        places = np.argsort(order)  # of each passage in the shuffled index
        moved = [question._replace(gold=tuple(places[gold].tolist())) for question, gold in zip(questions, owners, strict=True)]
        return [Passage(told[place]) for place in order.tolist()], moved

    def _question(self, world: World, fact: Fact, mention: str, text: str) -> Question:
        """Return a question without its gold passages; `mention` is the name that its text uses."""
        draws, attribute = world.draws, fact.attribute
        pool = [answer for answer in world.pools[attribute.pool] if answer != fact.answer]
        wrong = [pool[place] for place in draws.permutation(len(pool))[: self.candidates - 2].tolist()]
        if (near := fact.sibling.answers[fact.place]) not in (*wrong, fact.answer) and draws.random() < SIBLING:
            wrong[0] = near
        order = draws.permutation(len(wrong) + 1).tolist()
        answers = [fact.answer, *wrong]
        wish = answers[1 + int(draws.integers(len(wrong)))]
        shuffled = tuple(answers[place] for place in order)
        return Question(
            text=text,
            answers=shuffled,
            right=order.index(0),
            wish=shuffled.index(wish),
            gold=(),
            claims=tuple(self._claims(world, attribute, mention, wish)),
        )

    def _claims(self, world: World, attribute: Attribute, mention: str, wish: str) -> Iterator[str]:
        """Yield different sentences that state the wished answer; no two have both the same opening and the same ending."""
        openings, endings = (world.draws.permutation(len(parts)).tolist() for parts in (OPENINGS, ENDINGS))
        for number in range(self.claims):
            turn, place = divmod(number, len(openings))
            clause = world.pick(attribute.clauses).format(e=mention, a=wish)
            yield f"{OPENINGS[openings[place]]} {clause} {ENDINGS[endings[(place + turn) % len(endings)]]}"

    def _spare(self, world: World, count: int) -> list[Passage]:
        """Return passages about further entities, each with an earlier question."""
        passages = dict[str, Passage]()
        while len(passages) < count:
            ((one, other),) = world.pairs(1)
            for entity, sibling in ((one, other), (other, one)):
                for place, attribute in enumerate(entity.kind.attributes):
                    alias, fact = bool(world.draws.random() < self.aliases), Fact(entity, sibling, place)
                    text = world.passage(fact, TOLD_BOTH if alias else BOTH)
                    asked = world.pick(attribute.questions).format(e=entity.alias if alias else entity.name)
                    passages.setdefault(text, Passage(text, asked, fact.answer))
        return list(passages.values())[:count]


class Fact(NamedTuple):
    """One attribute of an entity.

    Args:
        entity: what the fact is about.
        sibling: the entity with a similar name.
        place: of the attribute in the kind of the entity.
    """

    entity: Entity
    sibling: Entity
    place: int

    @property
    def attribute(self) -> Attribute:
        """What the fact states."""
        return self.entity.kind.attributes[self.place]

    @property
    def answer(self) -> str:
        """The right answer."""
        return self.entity.answers[self.place]


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Everything that facts are made of.

    Args:
        draws: random numbers, used up in the order of the calls.
        pools: the answers of each kind.
        used: names that exist already.
    """

    draws: np.random.Generator
    pools: Mapping[str, tuple[str, ...]]
    used: set[str]

    @classmethod
    def drawn(cls, draws: np.random.Generator) -> World:
        """Return a world without entities."""
        names = [name_of(number) for number in draws.permutation(SYLLABLES)[: 3 * POOL].tolist()]
        towns = tuple(name + SUFFIXES[int(draws.integers(len(SUFFIXES)))] for name in names[:POOL])
        people = tuple(f"{FIRST_NAMES[int(draws.integers(len(FIRST_NAMES)))]} {name}" for name in names[POOL : 2 * POOL])
        years = tuple(str(1600 + year) for year in draws.permutation(400)[:POOL].tolist())
        return cls(draws=draws, pools={**WORDS, "town": towns, "person": people, "river": tuple(names[2 * POOL :]), "year": years}, used=set())

    def pick(self, choices: Sequence[str]) -> str:
        """Return one of several texts."""
        return choices[int(self.draws.integers(len(choices)))]

    def pairs(self, count: int) -> list[tuple[Entity, Entity]]:
        """Return pairs of new entities of one kind whose names share a word."""
        found = list[tuple[Entity, Entity]]()
        for _ in range(count):
            kind = KINDS[int(self.draws.integers(len(KINDS)))]
            stem = self._word()
            one, other = self.draws.permutation(len(kind.names))[:2].tolist()
            found.append((self._entity(kind, kind.names[one], stem), self._entity(kind, kind.names[other], stem)))
        return found

    def _entity(self, kind: Kind, form: str, stem: str) -> Entity:
        name = form.format(s=f"{stem} {self._word()}")
        alias = f"the {self.pick(ADJECTIVES)} {self.pick(kind.nouns)} of {self._word()} {self._word()}"
        return Entity(kind, name, alias, tuple(self.pick(self.pools[attribute.pool]) for attribute in kind.attributes))

    def _word(self) -> str:
        """Return a new name of two syllables."""
        while (name := name_of(SYLLABLES + int(self.draws.integers(SYLLABLES**2)))) in self.used:
            pass
        self.used.add(name)
        return name

    def passage(self, fact: Fact, both: float, wording: int | None = None) -> str:
        """Return a passage that states a fact; with chance `both` it has the second name of the entity too.

        Args:
            fact: what it states.
            both: the chance.
            wording: number of the question whose words it uses; None: any words.
        """
        entity = fact.entity
        mention = f"{entity.name} , also called {entity.alias} ," if self.draws.random() < both else entity.name
        clauses = fact.attribute.clauses
        sentences = [(self.pick(clauses) if wording is None else clauses[wording]).format(e=mention, a=fact.answer)]
        for place in self.draws.permutation(len(FILLERS))[: int(self.draws.integers(MOST_FILLERS + 1))].tolist():
            sentences.append(FILLERS[place].format(e=entity.name, o=fact.sibling.name))
        return " . ".join(sentences[place] for place in self.draws.permutation(len(sentences)).tolist()).replace(", .", ".") + " ."


def _in_turn(facts: Sequence[Fact], draws: np.random.Generator) -> Iterator[Fact]:
    """Yield facts again and again, each as often as the others, in random order."""
    while True:
        yield from (facts[place] for place in draws.permutation(len(facts)).tolist())
