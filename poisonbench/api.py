"""The Python interface: the words of the command line, with your own tensors and network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from poisonbench.config.setting import Setting
from poisonbench.core.errors import ConfigError
from poisonbench.storage.record import Record
from poisonbench.trackers.save import leads, save, tracker_of

if TYPE_CHECKING:
    from torch import nn

    from poisonbench.core.data import Overlap, Task
    from poisonbench.core.form import Form
    from poisonbench.tasks.own import Rows


def own_task(  # noqa: PLR0913  # all but two arguments have a default
    *,
    train: Rows,
    test: Rows | None,
    name: str = "own",
    trusted: float = 0.05,
    public: float = 0.0,
    held_out: float = 0.0,
    duplicates: Overlap = "refuse",
    form: Form | None = None,
    words: Sequence[str] = (),
) -> Task:
    """Make a task of your own rows: tensors, NumPy arrays, data frames, lists of texts, or data sets of (picture, label) such as those of torchvision.

    Args:
        train: inputs and labels, or a data set. Inputs are (N, C, H, W) or (N, H, W) pixels, as uint8 or as floats in 0..1, which are rounded
            to 256 levels; (N, D) floats or a data frame of numbers, which are a table; or N texts. Labels are (N,) integers from 0, or text.
        test: the same for the test rows; None if there are none, as for a task that is only audited.
        name: its name in tables and records.
        trusted: share of the training rows that the defender knows to be clean.
        public: share of the training rows that the attacker cannot change.
        held_out: share of the training rows to test on, where there are no test rows.
        duplicates: "refuse" inputs that are in two splits, or "allow" them; the record then counts them.
        form: of the inputs, such as `poisonbench.forms.tokens.Tokens(vocabulary=...)` for (N, L) int64 token ids; None finds it for all other inputs.
        words: for texts, words that an attacker may use although no row has them, such as a trigger.

    Raises:
        DataError: tensors of a wrong type or shape, or rows that are in two splits.
    """
    from poisonbench.tasks.own import own
    from poisonbench.tasks.source import Split

    split = Split(limit=None, trusted=trusted, public=public, split_seed=0, test=held_out, duplicates=duplicates)
    return own(name, train=train, test=test, split=split, form=form, words=words)


def own_questions(  # noqa: PLR0913  # all but six arguments have a default
    *,
    passages: Sequence[str],
    questions: Sequence[str],
    answers: Sequence[str],
    wrong_answers: Sequence[Sequence[str]],
    gold: Sequence[Sequence[int]],
    claims: Sequence[Sequence[str]],
    name: str = "own",
    trusted: float = 0.1,
    public: float = 0.2,
    duplicates: Overlap = "refuse",
    words: Sequence[str] = (),
) -> Task:
    """Make a task of retrieval of your own passages and questions, for `learner=retrieval` and the attacks that bring it along.

    Args:
        passages: N texts that are searched.
        questions: M texts.
        answers: the right answer of each question.
        wrong_answers: one or more wrong answers of each question; an attacker wants the first one. If some questions have more than others, the
            further ones are left out, and the log says so.
        gold: for each question, the positions in `passages` of those that answer it, one or more.
        claims: for each question, texts that state its first wrong answer, which attacks put into the index; [] if there are none.
        name: its name in tables and records.
        trusted: share of the passages that the defender knows to be clean. Trusted and public passages are drawn from those that answer no question,
            and are not searched.
        public: share of the passages that the attacker cannot change, from which `retriever=tfidf` takes the weights of words.
        duplicates: "refuse" a question that is a passage too, or "allow" it; the record then counts them.
        words: words that an attacker may use although no text has them, besides those of the attacks on retrieval.

    Raises:
        DataError: lists of different lengths, a text without a word, or gold that names no passage.
        ConfigError: shares of trusted and public passages that leave too few.
    """
    from poisonbench.tasks.own_questions import READER, RESERVED, Asked, own_passages

    reader = dataclasses.replace(READER, trusted=trusted, public=public, duplicates=duplicates, words=tuple(dict.fromkeys([*RESERVED, *words])))
    return own_passages(name, passages, Asked(questions, answers, wrong_answers, gold, claims), reader)


def run(
    *words: str,
    task: Task | None = None,
    net: nn.Module | Callable[[], nn.Module] | None = None,
    net_name: str | None = None,
    results_dir: str | None = None,
) -> Record:
    """Run one experiment and write its record.

    Args:
        words: as on the command line, such as "attack=backdoor", "seed=3".
        task: your own task, instead of `task=NAME`. The words `task.clients` and `owners` act on it if it has no clients yet; other
            words about the task are refused.
        net: your own network, or a function that makes one, instead of `net=NAME`.
        net_name: identifies the network in the store, in place of its code and attributes; change it when you change the network.
        results_dir: folder of the record and the store; the default is that of the command line.

    Returns:
        The record; `record.metrics["asr"]` is the defended attack success rate.

    Raises:
        PoisonbenchError: the run is not possible, for the reason in one sentence.
    """
    _check_words(words, task=task is not None, net=net is not None)
    from poisonbench.nets.own import OwnNet
    from poisonbench.provenance.lineage import Lineage
    from poisonbench.runner import pipeline
    from poisonbench.runner.experiment import assemble

    setting = Setting.of(words, results_dir=results_dir)

    def own_net(task: Task) -> OwnNet:
        assert net is not None
        return OwnNet(make=net, shape=tuple(task.train.inputs.shape[1:]), num_classes=task.train.num_classes, name=net_name)

    tracker = tracker_of(setting)
    experiment = assemble(setting.tree, setting.store, task=task, net=None if net is None else own_net)
    lineage = Lineage() if setting.tree["lineage"] else None
    record = dataclasses.replace(pipeline.run(experiment, setting.store, lineage), command=f"poisonbench.run({', '.join(map(repr, words))})")
    save(record, setting, tracker)
    if lineage is not None and leads():
        lineage.write(record, setting.places.results)
    return record


def _check_words(words: Sequence[str], *, task: bool, net: bool) -> None:
    """Refuse words about a task or a network that was passed as an object.

    Raises:
        ConfigError: the first of them.
    """
    for word in words:
        key = word.lstrip("+~").partition("=")[0].partition("@")[0]
        if task and key.partition(".")[0] == "task" and key.split(".")[:2] not in (["task", "clients"], ["task", "owners"]):
            raise ConfigError(f"{word}: it has no effect on a task of your own; use the arguments of own_task(...), or leave task=... out of the call")
        if net and key.partition(".")[0] == "net":
            raise ConfigError(f"{word}: it has no effect on a network of your own; leave the word out, or net=... out of the call")
