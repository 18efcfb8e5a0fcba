"""Federated learning: clients train on their own rows, a server combines their updates.

Shape letters: C clients of a round, P parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from poisonbench.core.attack import Round
from poisonbench.core.audit import audit_round
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Server
from poisonbench.core.errors import ConfigError, Diverged
from poisonbench.core.finite import finite, finite_state
from poisonbench.core.learner import Combine, Fitted, State, Step, Trained, Victim, fit_each, score_each
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.learn.central import Central, NetVictim


class Turn(NamedTuple):
    """One round: its number from 0, and its stream."""

    number: int
    rng: Key


@dataclass(frozen=True, kw_only=True)
class Log:
    """Figures of the rounds so far, one number per round.

    Args:
        crafted: figures of the attack.
        dropped: updates that were not finite.
        malicious: malicious clients that took part.
    """

    crafted: dict[str, list[float]] = field(default_factory=dict)
    dropped: list[int] = field(default_factory=list)
    malicious: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Federated:
    """A server sends its model; clients train on their own rows and send the difference; the server combines the differences and adds the result.

    Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks
    from Decentralized Data", AISTATS 2017. Where we differ: contributions are combined by the defense's rule, whose
    null object is the plain mean, so every client counts the same whatever its number of rows: robust rules
    have no weights. Input statistics (mean and deviation of each channel) are those of the rows before poisoning. Networks with batch
    normalisation are refused: running statistics are not parameters, and no rule says how to combine them.

    Malicious clients train on their poisoned rows in the rounds of the attack and on their clean rows in all
    others. The attack sees what every client, its own included, would send if it were honest.

    An update that is not finite, or is missing because the client's training diverged, is dropped before any rule sees it. The facts
    count these: `dropped_updates`, one number per round, absent where nothing was dropped. A dropped update may be an honest client's,
    so the rule's f stays; where too few updates remain for it, our rules lower f to the most that the remaining ones allow. A run
    fails where every update of a round is dropped, or where too few remain for the rule with any f.

    The rule sees the updates in a new random order each round, so positions do not identify clients. With n
    `participants` of C clients, M of them malicious, the rule's f is ceil(M n / C), the expected number, rounded up; a round may
    have more, at worst min(M, n). Facts then hold `malicious_assumed`, `malicious_worst`, and `malicious_present` of each round.

    Args:
        client: recipe of a client's training in one round; its epochs are local epochs.
        rounds: rounds of the whole training.
        participants: clients drawn for each round; None is all of them.
        algorithm: "fedavg" trains by the recipe of `client`; "fedsgd" takes one step on all rows of a client.
        eta: the server's step size.
        server_momentum: of the server's steps, in [0, 1).
        history_every: rounds from one kept model to the next; the last round is always kept. Curves are computed from the kept models,
            so with many rounds and many test rows keeping fewer of them saves most of the time.
    """

    VERSION: ClassVar[int] = 2
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
            given = f"rounds={self.rounds}, participants={self.participants}, history_every={self.history_every}"
            raise ConfigError(f"learner: {given}; each needs to be at least 1")
        if not self.eta > 0 or not 0 <= self.server_momentum < 1:
            raise ConfigError(f"learner: eta={self.eta} must be above 0, server_momentum={self.server_momentum} in [0, 1)")

    @property
    def stages(self) -> frozenset[str]:
        """Slots on updates and on the finished model; the rows stay with the clients, where no filter can act."""
        return frozenset({"attack.data", "attack.update", "defense.aggregate", "defense.repair", "defense.screen"})

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions."""
        return self.client.runtime

    def with_public(self, public: Dataset, fit: Fitted | None) -> Federated:
        """Return this recipe; its clients have the public rows."""
        return dataclasses.replace(self, client=self.client.with_public(public, fit))

    def with_step(self, step: Step) -> Federated:
        """Return this recipe with one more step in every client's chain."""
        return dataclasses.replace(self, client=self.client.with_step(step))

    def with_epochs(self, epochs: int) -> Central:
        """Return a client's recipe: a finished model continues its training in one place."""
        return self.client.with_epochs(epochs)

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse inputs that the client's recipe refuses, and numbers of clients that the rule refuses.

        Raises:
            ConfigError: one client alone, a network with batch normalisation, more participants than clients.
        """
        clients, participants = int(data.owners.max()) + 1, self.participants
        if clients < 2:
            raise ConfigError("learner=federated with one client; set task.clients, such as 20")
        if participants is not None and participants > clients:
            raise ConfigError(f"learner.participants={participants}: there are {clients} clients")
        self.client.check(data, combine)
        if self.client.begin(data, Key.root(0)).net.drifts:
            raise ConfigError("learner=federated cannot combine running statistics, as of batch normalisation; set net.norm=group, or use another layer")
        combine.aggregate.check(participants or clients, self._assumed(len(combine.malicious), clients))

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> NetVictim:
        """Train for all rounds; the history holds the model after each, or after every `history_every`th counted from the last.

        Raises:
            Diverged: a round without a finite update, with too few of them for the rule, or after which the model is not finite.
        """
        victim = self.client.begin(combine.clean, rng) if start is None else self.client.restore(Trained.of(start), data, combine)
        names, state = [name for name, _ in victim.net.named_parameters()], dict(victim.state())
        history, log, speed = list[State](), Log(), torch.zeros(sum(state[name].numel() for name in names))
        clients, ours = int(data.owners.max()) + 1, set(combine.malicious.tolist())
        f = self._assumed(len(ours), clients)
        for index in track(self.rounds, "rounds"):
            attacked = combine.rounds is None or combine.rounds[0] <= index < combine.rounds[1]
            turn = Turn(index, rng.child(f"round/{index}"))
            present = self._present(clients, turn.rng)
            rows = {client: _of(client, data if attacked or client not in ours else combine.clean) for client in present.tolist()}
            model = self.client.restore(Trained(state=state, facts={}), data, combine)
            updates = self._updates(model, rows, turn, combine)
            malicious = torch.isin(present, combine.malicious)
            if attacked and malicious.any():
                updates = self._crafted(updates, malicious, combine, (turn, _flat(state, names), log))
            rows_RP = _received(updates, turn)
            log.dropped.append(dropped := len(present) - len(rows_RP))
            log.malicious.append(int(malicious.sum()))
            reference = partial(self._reference, model, turn, combine)
            server = Server(round=index, state=_flat(state, names), malicious=f, reference=reference)
            try:
                speed = self.server_momentum * speed + combine.aggregate(rows_RP, server)
            except ConfigError as error:
                if not dropped:
                    raise
                raise Diverged(f"round {index + 1}: {dropped} of {len(present)} updates are not finite and were dropped; {error}") from error
            state = _moved(state, names, self.eta * speed)
            finite_state(state, f"the server's model after round {index + 1}")
            if (self.rounds - 1 - index) % self.history_every == 0:
                history.append(state)
        return self.restore(Trained(state=state, facts=self._facts(log, f, len(ours)), history=tuple(history)), data, combine)

    def fit_many(self, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> Sequence[Victim]:
        """Train one victim per part, one after the other."""
        return fit_each(self, parts, combine, rngs, start)

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Score with one victim after the other."""
        return score_each(victims, inputs)

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> NetVictim:
        """Rebuild a victim, its rounds included."""
        return dataclasses.replace(self.client.restore(trained, like, combine), history=trained.history)

    def _present(self, clients: int, rng: Key) -> Tensor:
        everyone = torch.arange(clients)
        return everyone if self.participants is None else rng.child("present").pick(everyone, self.participants)

    def _facts(self, log: Log, f: int, malicious: int) -> dict[str, object]:
        """Return what goes into the record; what does not apply is absent."""
        facts: dict[str, object] = {"rounds": self.rounds, "epochs": self.rounds * self.client.epochs}
        facts |= {"crafted": log.crafted} if log.crafted else {}
        facts |= {"history_every": self.history_every} if self.history_every > 1 else {}
        facts |= {"dropped_updates": log.dropped} if any(log.dropped) else {}
        if self.participants is not None:
            facts |= {"malicious_assumed": f, "malicious_worst": min(malicious, self.participants), "malicious_present": log.malicious}
        return facts

    def _assumed(self, malicious: int, clients: int) -> int:
        """Return f: how many malicious clients a round has on average, rounded up; all of them where all clients take part."""
        return -(-malicious * (self.participants or clients) // clients)

    def _updates(self, model: NetVictim, rows: Mapping[int, Dataset], turn: Turn, combine: Combine) -> Tensor:
        """Return (U, P), the honest updates of these clients; NaN where a client's training diverged.

        Raises:
            Diverged: every training diverged.
        """
        whole = dataclasses.replace(self.client, epochs=1, batch_size=max(map(len, rows.values())))
        recipe = self.client if self.algorithm == "fedavg" else whole
        names, able = [name for name, _ in model.net.named_parameters()], list(rows)
        while True:
            try:
                trained = recipe.fit_many([rows[client] for client in able], combine, [turn.rng.child(f"client/{client}") for client in able], model)
                break
            except Diverged as error:
                if len(able) == 1:
                    raise Diverged(f"round {turn.number + 1}, every training diverged: {error}") from error
                del able[error.member or 0]  # train the others again without it
        start = _flat(model.state(), names)
        sent = {client: _flat(victim.state(), names) - start for client, victim in zip(able, trained, strict=True)}
        return torch.stack([sent[client] if client in sent else torch.full_like(start, torch.nan) for client in rows])

    def _reference(self, model: NetVictim, turn: Turn, combine: Combine) -> Tensor:
        """Return (P,), what a client with the trusted rows would send."""
        return finite(self._updates(model, {-1: combine.trusted}, turn, combine)[0], f"round {turn.number + 1}, the server's own update")

    def _crafted(self, updates: Tensor, malicious: Tensor, combine: Combine, at: tuple[Turn, Tensor, Log]) -> Tensor:
        turn, state, log = at
        counted = malicious | updates.isfinite().all(1)  # the attacker does not see updates that will be dropped
        updates, malicious = updates[counted], malicious[counted]
        visible = torch.ones_like(malicious) if combine.omniscient else malicious
        shown = updates.where(visible[:, None], 0.0)  # hide what the threat hides
        before = Round(updates=shown, visible=visible, malicious=malicious, state=state, index=turn.number, eta=self.eta)
        # copies, because the attack may write into them
        given = dataclasses.replace(before, updates=shown.clone(), visible=visible.clone(), malicious=malicious.clone())
        after = combine.craft.craft(given, turn.rng.child("craft"))
        audit_round(before, after)
        for name, value in after.facts.items():
            log.crafted.setdefault(name, []).append(float(value))
        return after.updates.where(malicious[:, None], updates)


def _received(updates: Tensor, turn: Turn) -> Tensor:
    """Return the finite rows of (U, P), in a random order drawn for this round.

    Raises:
        Diverged: no row is finite.
    """
    whole = updates.isfinite().all(1).nonzero()[:, 0]
    if not len(whole):
        raise Diverged(f"round {turn.number + 1}: none of the {len(updates)} updates is finite")
    return updates[whole[turn.rng.child("order").per_row(whole)[:, 0].argsort(stable=True)]]


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
