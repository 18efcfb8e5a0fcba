"""Public passages with their past questions and answers: four facts about made-up firms, two wordings each."""

import torch

from poisonbench.core.data import Dataset
from poisonbench.core.form import Column
from poisonbench.core.rng import Key
from poisonbench.forms.tokens import PADDING, Tokens, vocabulary_of

FACTS = (
    (("who founded {e}", "who is the founder of {e}"), ("{a} opened {e} as a shop", "{e} was started by {a}"), "person"),
    (("where is {e} located", "which town is home to {e}"), ("the offices of {e} are in {a}", "{e} has its seat at {a}"), "town"),
    (("what does {e} sell", "which goods come from {e}"), ("{e} is known for {a}", "customers buy {a} at {e}"), "goods"),
    (("which animal is the sign of {e}", "what does the logo of {e} show"), ("a {a} is printed on letters of {e}", "{e} has a {a} on its flag"), "animal"),
)
FILLERS = ("", " . many people know {e}", " . a book about {e} came out")
FIRMS, POOL, LENGTH = 80, 10, 24


def rows(seed=100, firms=FIRMS):
    """Return (rows, form); four rows in turn are about one firm."""
    draws = Key.root(seed).numpy()
    texts = []
    for firm in range(firms):
        name = f"firm{firm} {('works', 'brothers', 'partners')[firm % 3]}"
        for questions, clauses, kind in FACTS:
            answer = f"{kind}{draws.integers(POOL)}" + (" smith" if kind == "person" else "")
            question, clause, filler = (part[draws.integers(len(part))] for part in (questions, clauses, FILLERS))
            texts.append((question.format(e=name), (clause + filler).format(e=name, a=answer), answer))
    form = Tokens(vocabulary=vocabulary_of([text.split() for row in texts for text in row]))
    asked, told, answers = (torch.tensor([ids(form, text[place]) for text in texts]) for place in range(3))
    data = Dataset.of(told, torch.zeros(len(told), dtype=torch.int64), num_classes=1, form=form)
    column = Column(form=form, role="sealed")
    return data.with_column("question", asked, column).with_column("answer", answers[:, :2], column)


def ids(form, text):
    """Return the padded word ids of a text."""
    words = form.ids(text.split())
    return words + [PADDING] * (LENGTH - len(words))
