"""Federated learning: clients train where their rows lie, a server combines what they send.

Shape letters: C clients of a round, P parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from poisonbench.core.attack import Round
from poisonbench.core.audit import audit_round
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Server
from poisonbench.core.errors import ConfigError, Diverged
from poisonbench.core.learner import Combine, Learner, State, Step, Trained, Victim, fit_each, score_each
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.learn.central import Central, NetVictim


class Turn(NamedTuple):
    """One round: its number from 0, and its stream."""

    number: int
    rng: Key


@dataclass(frozen=True, kw_only=True)
class Federated:
    """A server sends its model, clients train on their own rows and send the difference, the server adds what it combines.

    Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks
    from Decentralized Data", AISTATS 2017. Where we differ: contributions are combined by the defense's rule, whose
    null object is the plain mean, so every client counts alike whatever its number of rows: robust rules
    know no weights. Input statistics (mean and deviation a channel) are those of the rows before poisoning. Networks with batch
    normalisation are refused: running statistics are not parameters, and no rule says how to combine them.

    Malicious clients train on their poisoned rows in the rounds of the attack and on their clean rows in all
    others. The attack sees what every client, its own included, would send in good faith.

    Args:
        client: recipe of a client's training in one round; its epochs are local epochs.
        rounds: rounds of the whole training.
        participants: clients drawn for each round; None is all of them.
        algorithm: "fedavg" trains by the recipe of `client`; "fedsgd" takes one step on all rows of a client.
        eta: the server's step size.
        server_momentum: of the server's steps, in [0, 1).
        history_every: rounds from one kept model to the next; the last round is always kept. Curves are made of them, so with many
            rounds and many test rows a sparse history saves most of the time.
    """

    VERSION: ClassVar[int] = 1
    client: Central
    rounds: int
    participants: int | None
    algorithm: Literal["fedavg", "fedsgd"]
    eta: float
    server_momentum: float
    history_every: int = field(default=1, metadata={"spec": "changed"})

    def __post_init__(self) -> None:
        """Refuse recipes that cannot be trained."""
        if min(self.rounds, self.history_every) < 1 or (self.participants is not None and self.participants < 1):
            told = f"rounds={self.rounds}, participants={self.participants}, history_every={self.history_every}"
            raise ConfigError(f"learner: {told}; each needs to be at least 1")
        if not self.eta > 0 or not 0 <= self.server_momentum < 1:
            raise ConfigError(f"learner: eta={self.eta} must be above 0, server_momentum={self.server_momentum} in [0, 1)")

    @property
    def stages(self) -> frozenset[str]:
        """Slots on updates and on the finished model; the rows lie with the clients, where no filter reaches them."""
        return frozenset({"attack.data", "attack.update", "defense.aggregate", "defense.repair", "defense.screen"})

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions."""
        return self.client.runtime

    def with_public(self, public: Dataset, fit: Callable[[Learner, Dataset], Victim]) -> Federated:
        """Return this recipe: it learns nothing from other rows."""
        return self

    def with_step(self, step: Step) -> Federated:
        """Return this recipe with one more step in every client's chain."""
        return dataclasses.replace(self, client=self.client.with_step(step))

    def with_epochs(self, epochs: int) -> Central:
        """Return a client's recipe: a finished model is trained on in one place."""
        return self.client.with_epochs(epochs)

    def check(self, data: Dataset, combine: Combine) -> None:
        """Let the client's recipe refuse inputs, and the rule numbers of clients.

        Raises:
            ConfigError: one client alone, a network with batch normalisation, more participants than clients.
        """
        clients, asked = int(data.owners.max()) + 1, self.participants
        if clients < 2:
            raise ConfigError("learner=federated with one client; set task.clients, such as 20")
        if asked is not None and asked > clients:
            raise ConfigError(f"learner.participants={asked}: there are {clients} clients")
        self.client.check(data, combine)
        if any(isinstance(layer, nn.BatchNorm2d) for layer in self.client.begin(data, Key.root(0)).net.modules()):
            raise ConfigError("learner=federated cannot combine the running statistics of batch normalisation; set net.norm=group")
        present = asked or clients
        combine.aggregate.check(present, min(len(combine.malicious), present))

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> NetVictim:
        """Train for all rounds; the history holds the model after each, or after every `history_every`th counted from the last.

        Raises:
            Diverged: a client's loss, or an update, that is not finite; names the round and the client.
        """
        victim = self.client.begin(combine.clean, rng) if start is None else self.client.restore(Trained.of(start), data)
        names, state = [name for name, _ in victim.net.named_parameters()], dict(victim.state())
        history, facts, speed = list[State](), dict[str, list[float]](), torch.zeros(sum(state[name].numel() for name in names))
        clients, ours = int(data.owners.max()) + 1, set(combine.malicious.tolist())
        for index in track(self.rounds, "rounds"):
            attacked = combine.rounds is None or combine.rounds[0] <= index < combine.rounds[1]
            turn = Turn(index, rng.child(f"round/{index}"))
            present = self._present(clients, turn.rng)
            rows = {client: _of(client, data if attacked or client not in ours else combine.clean) for client in present.tolist()}
            model = self.client.restore(Trained(state=state, facts={}), data)
            updates = self._updates(model, rows, turn, combine)
            malicious = torch.isin(present, combine.malicious)
            if attacked and malicious.any():
                updates = self._crafted(updates, malicious, combine, (turn, _flat(state, names), facts))
            if not updates.isfinite().all():
                wrong = int(present[(~updates.isfinite()).any(1)][0])
                raise Diverged(f"client {wrong} sent an update that is not finite in round {index + 1}")
            server = Server(
                round=index,
                state=_flat(state, names),
                malicious=min(len(combine.malicious), len(present)),
                reference=partial(self._reference, model, turn, combine),
            )
            speed = self.server_momentum * speed + combine.aggregate(updates, server)
            state = _moved(state, names, self.eta * speed)
            if (self.rounds - 1 - index) % self.history_every == 0:
                history.append(state)
        told = {"rounds": self.rounds, "epochs": self.rounds * self.client.epochs, **({"crafted": facts} if facts else {})}
        told |= {"history_every": self.history_every} if self.history_every > 1 else {}
        return self.restore(Trained(state=state, facts=told, history=tuple(history)), data)

    def fit_many(self, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> Sequence[Victim]:
        """Train one victim a part, one after the other."""
        return fit_each(self, parts, combine, rngs, start)

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Ask one victim after the other."""
        return score_each(victims, inputs)

    def restore(self, trained: Trained, like: Dataset) -> NetVictim:
        """Rebuild a victim, its rounds included."""
        return dataclasses.replace(self.client.restore(trained, like), history=trained.history)

    def _present(self, clients: int, rng: Key) -> Tensor:
        everyone = torch.arange(clients)
        return everyone if self.participants is None else rng.child("present").pick(everyone, self.participants)

    def _updates(self, model: NetVictim, rows: Mapping[int, Dataset], turn: Turn, combine: Combine) -> Tensor:
        """Return (U, P), what each of these clients sends in good faith."""
        whole = dataclasses.replace(self.client, epochs=1, batch_size=max(map(len, rows.values())))
        recipe = self.client if self.algorithm == "fedavg" else whole
        rngs = [turn.rng.child(f"client/{client}") for client in rows]
        try:
            trained = recipe.fit_many(list(rows.values()), combine, rngs, model)
        except Diverged as error:
            raise Diverged(f"client {list(rows)[error.member or 0]}, round {turn.number + 1}: {error}") from error
        names = [name for name, _ in model.net.named_parameters()]
        return torch.stack([_flat(victim.state(), names) for victim in trained]) - _flat(model.state(), names)

    def _reference(self, model: NetVictim, turn: Turn, combine: Combine) -> Tensor:
        """Return (P,), what a client with the trusted rows would send."""
        return self._updates(model, {-1: combine.trusted}, turn, combine)[0]

    def _crafted(self, updates: Tensor, malicious: Tensor, combine: Combine, at: tuple[Turn, Tensor, dict[str, list[float]]]) -> Tensor:
        turn, state, facts = at
        visible = torch.ones_like(malicious) if combine.omniscient else malicious
        before = Round(updates=updates, visible=visible, malicious=malicious, state=state, index=turn.number, eta=self.eta)
        after = combine.craft.craft(before, turn.rng.child("craft"))
        audit_round(before, after)
        for name, value in after.facts.items():
            facts.setdefault(name, []).append(float(value))
        return after.updates


def _of(client: int, data: Dataset) -> Dataset:
    return data.take(data.owners == client)


def _flat(state: State, names: Sequence[str]) -> Tensor:
    return torch.cat([state[name].flatten() for name in names])


def _moved(state: State, names: Sequence[str], by: Tensor) -> dict[str, Tensor]:
    moved, at = dict(state), 0
    for name in names:
        size = state[name].numel()
        moved[name] = state[name] + by[at : at + size].view_as(state[name])
        at += size
    return moved
