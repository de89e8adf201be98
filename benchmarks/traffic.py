"""Made-up traffic of tenants, as streams of token ids: harmless work that shifts, and attempts to copy a model.

A language has words by Zipf's law, topics that prefer some of them, and words that tend to follow others. A tenant has
a kind of work, topics, a size and habits of its own, all drawn from a seed, and changes: its topics come and go, its
volume grows, shrinks and jumps, answers get longer or shorter, templates get new versions, documents and repositories
are added, and a few tenants begin to ask for logprobs.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

VOCABULARY: Final = 32_000
COMMON: Final = 300
MOST_PROMPT: Final = 1500
Tokens = npt.NDArray[np.int64]


class Request(NamedTuple):
    """When in its day (0 to 1), and what a client asks for and gets."""

    at: float
    prompt: Tokens
    output_tokens: int
    probing: bool = False


class Language:
    """Text of a made-up language."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        weights = 1 / (np.arange(VOCABULARY) + 2.7) ** 1.05
        self._steps = np.cumsum(weights / weights.sum())
        topical = 1 / (np.arange(COMMON) + 1.5)
        self._topical_steps = np.cumsum(topical / topical.sum())

    def topic(self) -> Tokens:
        """The words that a topic prefers, the most frequent first."""
        return self._rng.integers(200, VOCABULARY, COMMON)

    def text(self, topic: Tokens, tokens: int) -> Tokens:
        """Words of the topic and common ones; a third follow from the word before."""
        rng = self._rng
        words = np.searchsorted(self._steps, rng.random(tokens)).clip(0, VOCABULARY - 1)
        own = rng.random(tokens) < 0.45
        words[own] = topic[np.searchsorted(self._topical_steps, rng.random(int(own.sum()))).clip(0, COMMON - 1)]
        follows = np.flatnonzero(rng.random(tokens - 1) < 0.35) + 1 if tokens > 1 else np.zeros(0, int)
        words[follows] = (words[follows - 1] * 7919 + 104_729 * rng.integers(1, 4, len(follows))) % VOCABULARY
        return words


class Work(abc.ABC):
    """What the kinds of harmless work have in common: a volume that varies by day, and topics that come and go."""

    weekend: float = 0.5
    spread: float = 0.25
    night: float = 0.15

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.language = Language(self.rng)
        self.topics = [self.language.topic() for _ in range(8)]
        self.weights = self.rng.dirichlet(np.full(8, 0.8))
        self.requests = float(np.exp(self.rng.uniform(np.log(25), np.log(90))))
        self.trend = float(self.rng.normal(0, 0.015))
        self.busy_hour = float(self.rng.uniform(9, 20))
        self.wordiness = 1.0
        self.curious = 0.0

    @abc.abstractmethod
    def begin(self) -> None:
        """Called once, after what all have in common is drawn."""

    def day(self, number: int, times: float = 1.0) -> list[Request]:
        """The requests of a day, `times` as many as usual, in their order."""
        rng = self.rng
        self.shift()
        mean = self.requests * np.exp(self.trend * number) * (self.weekend if number % 7 in (5, 6) else 1.0)
        wanted = int(times * mean * np.exp(rng.normal(0, self.spread)))
        found: list[Request] = []
        while len(found) < wanted:
            found += self.session(self._begin_at())
        return sorted(map(self._changed, found[:wanted]), key=lambda request: request.at)

    def _changed(self, request: Request) -> Request:
        probing = request.probing or (self.curious > 0 and bool(self.rng.random() < self.curious))
        return request._replace(output_tokens=max(1, int(request.output_tokens * self.wordiness)), probing=probing)

    def _begin_at(self) -> float:
        if self.rng.random() < self.night:
            return float(self.rng.random())
        return float(np.clip(self.rng.normal(self.busy_hour, 3) / 24, 0, 0.97))

    def shift(self) -> None:
        """Drift from one day to the next."""
        rng = self.rng
        self.weights = np.clip(self.weights * np.exp(rng.normal(0, 0.15, len(self.weights))), 1e-3, None)
        if rng.random() < 0.1:
            i = int(rng.integers(len(self.topics)))
            self.topics[i] = self.language.topic()
        self.weights /= self.weights.sum()
        if rng.random() < 0.02:  # more users, or fewer
            self.requests *= float(np.exp(rng.normal(0, 0.5)))
        if rng.random() < 0.01:  # longer or shorter answers
            self.wordiness *= float(np.exp(rng.normal(0, 0.5)))
        if rng.random() < 0.004:  # somebody wants to know how sure the model is
            self.curious = 0.3 if self.curious == 0 else 0.0

    def any_topic(self) -> Tokens:
        return self.topics[int(self.rng.choice(len(self.topics), p=self.weights))]

    @abc.abstractmethod
    def session(self, at: float) -> list[Request]:
        """Requests of one sitting that begins at this part of the day."""

    def between(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high))


class Chat(Work):
    """Conversations: each request repeats what was said before."""

    def begin(self) -> None:
        self.system = self.language.text(self.any_topic(), self.between(40, 200))
        self.probing = 0.02 if self.rng.random() < 0.1 else 0.0

    def shift(self) -> None:
        super().shift()
        if self.rng.random() < 0.07:
            changed = self.between(5, 30)
            self.system = np.concatenate((self.system[:-changed], self.language.text(self.any_topic(), changed)))

    def session(self, at: float) -> list[Request]:
        topic, said = self.any_topic(), self.system
        found = []
        for turn in range(min(12, int(self.rng.geometric(0.35)))):
            said = np.concatenate((said, self.language.text(topic, self.between(8, 60))))
            output = self.between(30, 200)
            probing = bool(self.rng.random() < self.probing)
            found.append(Request(min(0.999, at + turn / 700), said[-MOST_PROMPT:], output, probing))
            said = np.concatenate((said, self.language.text(topic, output)))
        return found


class Retrieval(Work):
    """Questions about documents, with the documents."""

    def begin(self) -> None:
        self.template = self.language.text(self.any_topic(), 60)
        self.documents = [self._document() for _ in range(300)]
        self.asked: list[Tokens] = []

    def _document(self, topic: Tokens | None = None) -> Tokens:
        return self.language.text(self.any_topic() if topic is None else topic, self.between(80, 160))

    def shift(self) -> None:
        super().shift()
        self.documents += [self._document() for _ in range(6)]
        if self.rng.random() < 0.04:  # a new source
            topic = self.language.topic()
            self.documents += [self._document(topic) for _ in range(60)]

    def session(self, at: float) -> list[Request]:
        if self.asked and self.rng.random() < 0.1:
            prompt = self.asked[self.between(0, len(self.asked))]
        else:
            rank = self.rng.random(4) ** 2
            chunks = [self.documents[int(r * len(self.documents))] for r in rank]
            question = self.language.text(self.any_topic(), self.between(8, 25))
            prompt = np.concatenate((self.template, *chunks, question))
            self.asked = [*self.asked[-50:], prompt]
        return [Request(at, prompt, self.between(30, 200))]


class Classification(Work):
    """Batches of items, each after the same instructions."""

    weekend = 0.8
    spread = 0.6
    night = 0.02

    def begin(self) -> None:
        self.template = self.language.text(self.any_topic(), self.between(80, 150))
        self.probing = self.rng.random() < 0.4
        self.requests *= 1.5

    def shift(self) -> None:
        super().shift()
        if self.rng.random() < 0.05:  # another task
            self.template = self.language.text(self.language.topic(), self.between(80, 150))

    def day(self, number: int, times: float = 1.0) -> list[Request]:
        return super().day(number, times * (0.05 if self.rng.random() < 0.2 else 1.0))

    def session(self, at: float) -> list[Request]:
        topic = self.any_topic()
        found = []
        for i in range(self.between(5, 40)):
            item = self.language.text(topic, self.between(20, 120))
            prompt = np.concatenate((self.template, item))
            found += [Request(min(0.999, at + i / 20_000), prompt, self.between(1, 4), self.probing)] * (
                2 if self.rng.random() < 0.05 else 1
            )
        return found


class CodingAgent(Work):
    """Tasks in repositories: many steps with files and growing notes, hardly any at the weekend."""

    weekend = 0.15
    spread = 0.45

    def begin(self) -> None:
        self.system = self.language.text(self.any_topic(), 200)
        self.repositories = [self._repository() for _ in range(3)]

    def _repository(self) -> tuple[Tokens, list[Tokens]]:
        names = self.language.topic()
        return names, [self.language.text(names, self.between(80, 240)) for _ in range(40)]

    def shift(self) -> None:
        super().shift()
        if self.rng.random() < 0.06:
            self.repositories[self.between(0, 3)] = self._repository()
        for names, files in self.repositories:  # edits
            for i in self.rng.integers(0, len(files), 3):
                files[i] = np.concatenate((files[i][:-30], self.language.text(names, 30)))

    def session(self, at: float) -> list[Request]:
        names, files = self.repositories[min(2, int(self.rng.geometric(0.55)) - 1)]
        notes = self.language.text(names, self.between(20, 80))
        found = []
        for step in range(self.between(4, 20)):
            shown = files[int(self.rng.random() ** 2 * len(files))]
            prompt = np.concatenate((self.system, shown, notes[-700:]))
            output = self.between(20, 250)
            found.append(Request(min(0.999, at + step / 1500), prompt[-MOST_PROMPT:], output))
            notes = np.concatenate((notes, self.language.text(names, min(output, 120))))
        return found


KINDS: Final[dict[str, type[Work]]] = {
    "chat": Chat,
    "retrieval": Retrieval,
    "classification": Classification,
    "coding agent": CodingAgent,
}


def harmless(kind: str, seed: int) -> Work:
    """A tenant that does this kind of work."""
    work = KINDS[kind](seed)
    work.begin()
    return work


# -- extraction


def random_queries(work: Work) -> Iterator[Request]:
    """Tokens drawn from the whole vocabulary."""
    rng = work.rng
    while True:
        yield Request(0, rng.integers(0, VOCABULARY, work.between(8, 64)), work.between(64, 256))


def dictionary_sweep(work: Work) -> Iterator[Request]:
    """The same short question about one word after the other."""
    question = work.language.text(work.any_topic(), work.between(6, 15))
    word = work.between(0, VOCABULARY)
    while True:
        word = (word + work.between(1, 5)) % VOCABULARY
        words = np.append(work.rng.integers(0, VOCABULARY, work.between(0, 3)), word)
        yield Request(0, np.concatenate((question, words)), work.between(30, 150))


def logprob_harvest(work: Work) -> Iterator[Request]:
    """Ordinary text, of which the probabilities of the next tokens are asked for."""
    while True:
        topic = work.any_topic() if work.rng.random() < 0.5 else work.language.topic()
        yield Request(0, work.language.text(topic, work.between(10, 50)), work.between(1, 5), True)


def paraphrase_sweep(work: Work) -> Iterator[Request]:
    """Questions from the tenant's own topics, each in many variants."""
    rng = work.rng
    seeds = [work.language.text(work.any_topic(), work.between(15, 40)) for _ in range(30)]
    while True:
        for seed in seeds:
            for _ in range(20):
                variant = seed.copy()
                places = np.flatnonzero(rng.random(len(seed)) < 0.25)
                variant[places] = work.language.text(work.any_topic(), max(1, len(places)))[: len(places)]
                cut = work.between(0, len(seed))
                variant = np.concatenate((variant[cut:], variant[:cut])) if rng.random() < 0.5 else variant
                yield Request(0, variant, work.between(50, 250))


PURE: Final[dict[str, Callable[[Work], Iterator[Request]]]] = {
    "random queries": random_queries,
    "dictionary sweep": dictionary_sweep,
    "logprob harvest": logprob_harvest,
    "paraphrase sweep": paraphrase_sweep,
}
MIXED: Final = "mixed 10:1"
"""One extraction query for ten harmless requests, of which there are up to eight times as many as usual."""
ATTACKS: Final = (*PURE, MIXED)


def spread(queries: Iterator[Request], number: int, rng: np.random.Generator) -> list[Request]:
    """So many of them, spread over a day that begins at some hour."""
    begin = float(rng.uniform(0, 0.5))
    times = np.sort(rng.uniform(begin, min(0.999, begin + float(rng.uniform(0.1, 0.5))), number))
    return [next(queries)._replace(at=float(at)) for at in times]
