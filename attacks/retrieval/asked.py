"""What an attacker learns from past questions and from a retriever like the victim's: where questions lie, and how a text moves towards them.

Shape letters: Q past questions, N rows, L places of a text, W words of a passage, D features, A places of an answer, R passages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.retrieval.hotflip import ROWS
from attacks.retrieval.writing import check_room
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Worded
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.tokens import PADDING


def asked(known: Known) -> Tensor:
    """Return (Q, L), the different past questions of the public rows.

    Raises:
        Incompatible: the task has no past questions.
        ConfigError: the task has no public rows, or none of them has a question.
    """
    if len(known.public) == 0:
        raise ConfigError("this attack learns from past questions of public rows, and there are none; set task.public=0.2")
    if "question" not in known.public.extra:
        raise Incompatible("this attack learns from past questions, and the public rows have none; use a task of retrieval, such as task=facts")
    questions = known.public.extra["question"]
    found: Tensor = questions[(questions != PADDING).any(1)].unique(dim=0)
    if len(found) == 0:
        raise Incompatible("this attack learns from past questions, and the passages of this task have none at any share; use task=facts")
    return found


def encoder(known: Known) -> Worded:
    """Return the encoder of the attacker's surrogate.

    Raises:
        Incompatible: it has no gradient in words.
    """
    module = known.fit(known.rows).module
    if not isinstance(module, Worded):
        raise Incompatible(
            "this attack follows the gradient of an encoder of words, and the surrogate has none; use retriever=tfidf or wordllama, or, where the attack has "
            "that field, attack.data.optimised=false"
        )
    return module


def features(module: Worded, texts: Tensor) -> Tensor:
    """Return (Q, D) features of texts (Q, L)."""
    with torch.no_grad():
        return torch.cat([module.features(some) for some in texts.split(ROWS)])


def answering(known: Known) -> Tensor:
    """Return the words of the answers to past questions, int64, each once; a passage with one of them may support an answer."""
    answers = known.public.extra.get("answer", torch.zeros(0, 1, dtype=torch.int64))
    words: Tensor = answers[answers != PADDING].unique()
    return words


def silent(texts: Dataset, banned: Tensor, words: int) -> Tensor:
    """Return (N', W), the texts without the banned words, repeated up to this number of words; texts of which nothing is left are left out."""
    rows = [text[(text != PADDING) & ~torch.isin(text, banned)] for text in texts.inputs]
    kept = [row.repeat(-(-words // len(row)))[:words] for row in rows if len(row)]
    return torch.stack(kept) if kept else torch.zeros(0, words, dtype=torch.int64)


def clusters(features_QD: Tensor, count: int, rng: Key) -> list[Tensor]:
    """Return the positions of the questions in each cluster, int64, by k-means; as many clusters as questions that differ, at most."""
    from sklearn.cluster import KMeans

    most = min(count, len(features_QD.unique(dim=0)))
    if most < 1:
        return []
    labels = torch.from_numpy(KMeans(most, n_init=10, random_state=rng.seed % 2**32).fit_predict(features_QD.numpy()))
    return [(labels == label).nonzero()[:, 0] for label in range(most)]


def padded(texts: Tensor, length: int) -> Tensor:
    """Return (R, L), the texts (R, W) with padding.

    Raises:
        ConfigError: more words than a row has places.
    """
    check_room(texts.shape[1], length)
    return torch.nn.functional.pad(texts, (0, length - texts.shape[1]))
