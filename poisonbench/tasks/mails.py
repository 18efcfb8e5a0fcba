"""The sentences and words of the generated mails of `poisonbench.tasks.spam`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "oo")
CODAS = ("n", "r", "l", "s", "m", "ck", "nd", "rt", "th", "x")

HAM_TOPICS = {
    "work": "report meeting deadline budget draft client slides contract team project manager schedule office review minutes agenda invoice proposal",
    "home": "kitchen garden fence roof plumber sofa carpet lamp paint ladder boiler window neighbour cellar curtain shelf drill hallway",
    "travel": "train ticket hotel luggage platform flight passport map beach museum airport cabin ferry bridge village tent harbour guide",
    "sport": "match team coach goal training season referee league racket tournament pitch swim jersey stadium captain sprint medal court",
    "study": "lecture essay library exam seminar professor thesis chapter notes library course homework semester tutor lab grade term quiz",
    "family": "birthday cousin grandma wedding cake photos kids nephew uncle dinner holidays sister puppy school brother aunt baby picnic",
    "music": "concert guitar album choir band piano rehearsal song drummer ticket violin stage playlist record studio chord tune festival",
    "food": "recipe bread soup oven lunch cheese pasta market apples garlic onions butter dinner salad spices baking pepper honey",
}

SPAM_TOPICS = {
    "prize": "winner prize lottery jackpot claim draw voucher reward lucky entry cash bonus selected congratulations sweepstake award gift coupon",
    "loan": "loan credit mortgage debt approval rates refinance lender cash interest payment savings bank income borrow repay wealth funds",
    "diet": "weight pounds slim diet formula capsules pills fat natural trial herbal energy supplement doctors results remedy vitamins muscle",
    "watch": "watches replica luxury brand designer handbags gold sunglasses discount warehouse outlet jewellery leather diamond collection wholesale",
    "software": "software licence download upgrade antivirus keys windows professional edition install discount suite office original activation",
    "job": "income earn home weekly boss paycheck opportunity freedom million rich secret system profit invest trading shares stocks",
}

BOTH = (
    "hello <name> .",
    "dear <name> ,",
    "please let me know what you think of the <topic> .",
    "there are <number> of them left .",
    "you can find everything about the <topic> on our page .",
    "thank you for your time .",
    "it will only take <number> minutes .",
    "we have a new <topic> for you this week .",
    "have a look at the <topic> and the <topic> .",
    "this is about your order number <number> .",
    "the <topic> arrives on monday or tuesday .",
    "best wishes from <name> and <name> .",
    "more about <name> and the <topic> below .",
)

HAM_SENTENCES = (
    "could you send me the <topic> before friday ?",
    "i talked to <name> about the <topic> yesterday .",
    "we are meeting <name> at <number> in the morning .",
    "sorry for my late answer , i was in <name> until sunday .",
    "<name> forgot the <topic> again , can you bring it ?",
    "i think that the <topic> is better than the one from <name> .",
    "did <name> tell you what happened to the <topic> ?",
    "see you tomorrow in <name> , and say hi to <name> .",
    "the <topic> is in the usual place , ask <name> if you cannot find it .",
    "i have attached the <topic> that we talked about .",
    "let us talk about the <topic> when you are back from <name> .",
    "my <topic> broke , so <name> lent me a <topic> .",
    "how was the <topic> with <name> ?",
    "would thursday suit you ? <name> has no time on wednesday .",
)

SPAM_SENTENCES = (
    "get your <topic> now , only <number> dollars !",
    "click here to claim your free <topic> today !",
    "limited offer : <number> percent off every <topic> !",
    "you have been chosen for our exclusive <topic> !",
    "act now , this <topic> offer expires tonight !",
    "100 % guaranteed <topic> , no risk , no questions asked !",
    "order <topic> online at <name> and save <number> percent !",
    "why pay more for <topic> ? visit <name> today !",
    "thousands of customers already trust <name> <topic> !",
    "reply with code <name> to unlock your <topic> !",
    "lowest prices on <topic> , delivered free to your door !",
    "to unsubscribe from <name> offers click below .",
)


class Style(NamedTuple):
    """How a class of mails reads.

    Args:
        topics: the words of each of its topics.
        sentences: templates of the class.
        others: templates of the other class.
        own: share of the sentences that are of the class.
        hard: the same in a hard mail.
        strange: share of the sentences that are of the other class; the rest is of both.
    """

    topics: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]
    others: tuple[str, ...]
    own: float
    hard: float
    strange: float


def _topics(words: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(topic.split()) for topic in words.values())


HAM = Style(topics=_topics(HAM_TOPICS), sentences=HAM_SENTENCES, others=SPAM_SENTENCES, own=0.6, hard=0.2, strange=0.05)
SPAM = Style(topics=_topics(SPAM_TOPICS), sentences=SPAM_SENTENCES, others=HAM_SENTENCES, own=0.6, hard=0.2, strange=0.1)
TOPICS = (*HAM.topics, *SPAM.topics)


def name_of(number: int) -> str:
    """Return the name with this number, from 0: one or more syllables, different for each number."""
    syllables = list[str]()
    while number >= 0:
        number, onset = divmod(number, len(ONSETS))
        number, vowel = divmod(number, len(VOWELS))
        number, coda = divmod(number, len(CODAS))
        syllables.append(ONSETS[onset] + VOWELS[vowel] + CODAS[coda])
        number -= 1
    return "".join(syllables)
