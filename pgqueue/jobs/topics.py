"""Topics of published events, and patterns of topics, as RabbitMQ's topic exchanges have them.

A topic is words with dots between them, such as `order.paid`. In a pattern `*` stands for one word and `#` for any
number of words, also none.
"""

import re
from dataclasses import dataclass

from pgqueue.errors import InvalidOption

LONGEST = 255  # characters
MOST_WORDS = 32
MOST_PATTERNS = 50  # of one task
_WORD = r"[A-Za-z0-9_:/-]+"
_TOPIC = re.compile(rf"{_WORD}(?:\.{_WORD})*")
_PATTERN_WORD = re.compile(rf"[*#]|{_WORD}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern, and the two forms in which the database finds it.

    `anchor` is a part that a fitting topic has: the topic itself (`=order.paid`), its beginning (`^order`), its end
    (`$failed`), one of its words (`~vat`), or nothing (`#`). A topic has a few anchors, so an index on them finds the
    few patterns that may fit, however many there are. `expression` then decides: a regular expression over the topic
    with a dot before each word.
    """

    text: str

    @property
    def is_topic(self) -> bool:
        """Whether it is one topic, without `*` and `#`."""
        return not {"*", "#"} & set(self._words)

    @property
    def anchor(self) -> str:
        """A part that each fitting topic has."""
        words = self._words
        literal = [word not in "*#" for word in words]
        if all(literal):
            return f"={self.text}"
        if literal[0]:
            return "^" + ".".join(words[: literal.index(False)])
        if literal[-1]:
            return "$" + ".".join(words[len(words) - literal[::-1].index(False) :])
        return f"~{max(words, key=lambda word: 0 if word in '*#' else len(word))}" if any(literal) else "#"

    @property
    def expression(self) -> str:
        """A regular expression for Python and Postgres alike."""
        parts = {"*": r"\.[^.]+", "#": r"(?:\.[^.]+)*"}
        return "^" + "".join(parts.get(word, rf"\.{word}") for word in self._words) + "$"

    def fits(self, topic: str) -> bool:
        """Whether a topic fits."""
        return re.search(self.expression, f".{topic}") is not None

    @property
    def _words(self) -> list[str]:
        words: list[str] = []
        for word in self.text.split("."):
            if word != "#" or words[-1:] != ["#"]:  # two of them mean what one does
                words.append(word)
        return words


def anchors_of(topic: str) -> list[str]:
    """Return the anchors of a topic: a pattern that it fits has one of them. `publish` in SQL makes the same."""
    words = topic.split(".")
    found = [f"={topic}", "#"]
    for at, word in enumerate(words):
        found += [f"^{'.'.join(words[: at + 1])}", f"${'.'.join(words[at:])}", f"~{word}"]
    return found


def check_topic(topic: object) -> str:
    """Return a topic. Raises InvalidOption for anything else, also for a pattern."""
    if isinstance(topic, str) and len(topic) <= LONGEST and _TOPIC.fullmatch(topic) and topic.count(".") < MOST_WORDS:
        return topic
    if isinstance(topic, str) and {"*", "#"} & set(topic):
        raise InvalidOption(f"topic {topic!r:.300} cannot be used: an event has one topic, and * and # are for on=…")
    raise InvalidOption(
        f"topic {topic!r:.300} cannot be used: give words of letters, digits or _ : / - with dots between them, such "
        f"as 'order.paid'; at most {LONGEST} characters and {MOST_WORDS} words"
    )


def check_pattern(pattern: object) -> Pattern:
    """Return a pattern of topics. Raises InvalidOption for anything else."""
    words = pattern.split(".") if isinstance(pattern, str) else []
    if (
        not words
        or len(words) > MOST_WORDS
        or len(str(pattern)) > LONGEST
        or not all(map(_PATTERN_WORD.fullmatch, words))
    ):
        raise InvalidOption(
            f"pattern {pattern!r:.300} cannot be used: give words with dots between them, such as 'order.*'; each is a "
            f"word of a topic, * for one word, or # for any number; at most {LONGEST} characters and {MOST_WORDS} words"
        )
    return Pattern(str(pattern))


def check_patterns(given: object) -> tuple[Pattern, ...]:
    """Return one pattern or several, each once. Raises InvalidOption."""
    several = given if isinstance(given, (list, tuple)) else [given]
    if not 1 <= len(several) <= MOST_PATTERNS:
        raise InvalidOption(f"on={given!r:.100} cannot be used: give 1 to {MOST_PATTERNS} patterns, such as 'order.*'")
    return tuple(dict.fromkeys(check_pattern(one) for one in several))
