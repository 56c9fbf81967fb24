"""Topics and patterns: what RabbitMQ's topic exchanges do, and that anchors lose no pattern."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue import InvalidOption
from pgqueue.jobs.topics import Pattern, anchors_of, check_pattern, check_patterns, check_topic

WORDS = st.sampled_from(["a", "b", "order", "paid"])
TOPICS = st.lists(WORDS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.lists(st.one_of(WORDS, st.sampled_from("*#")), min_size=1, max_size=5).map(".".join)


def matches(pattern: list[str], topic: list[str]) -> bool:
    """The definition: `*` is one word, `#` any number."""
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return matches(pattern[1:], topic) or (bool(topic) and matches(pattern, topic[1:]))
    return bool(topic) and pattern[0] in ("*", topic[0]) and matches(pattern[1:], topic[1:])


@given(PATTERNS, TOPICS)
def test_a_pattern_fits_what_the_definition_says(pattern: str, topic: str) -> None:
    assert check_pattern(pattern).fits(topic) == matches(pattern.split("."), topic.split("."))


@given(PATTERNS, TOPICS)
def test_a_topic_has_the_anchor_of_each_pattern_that_it_fits(pattern: str, topic: str) -> None:
    checked = check_pattern(pattern)
    if checked.fits(topic):
        assert checked.anchor in anchors_of(topic)


@pytest.mark.parametrize(
    ("pattern", "anchor"),
    [
        ("order.paid", "=order.paid"),
        ("order.*", "^order"),
        ("order.eu.#", "^order.eu"),
        ("*.order.paid", "$order.paid"),
        ("#.failed", "$failed"),
        ("*.invoice.*", "~invoice"),
        ("#.a.*.invoice.#", "~invoice"),
        ("#", "#"),
        ("*.*", "#"),
    ],
)
def test_the_anchor_is_what_tells_most_about_the_topic(pattern: str, anchor: str) -> None:
    assert Pattern(pattern).anchor == anchor


@pytest.mark.parametrize("topic", ["", ".", "a..b", "a.", "a b", "ä", "a" * 256, ".".join("a" * 33), 7, None])
def test_what_is_no_topic_is_refused_with_the_remedy(topic: object) -> None:
    with pytest.raises(InvalidOption, match=r"give words of letters, digits or _ : / - with dots between them"):
        check_topic(topic)


@pytest.mark.parametrize("topic", ["order.*", "#"])
def test_a_pattern_is_no_topic(topic: str) -> None:
    with pytest.raises(InvalidOption, match="an event has one topic, and \\* and # are for on=…"):
        check_topic(topic)


@pytest.mark.parametrize("pattern", ["", "a*", "a.#b", "a..b", "a.", ".".join("a" * 33), 7])
def test_what_is_no_pattern_is_refused_with_the_remedy(pattern: object) -> None:
    with pytest.raises(InvalidOption, match=r"\* for one word, or # for any number"):
        check_pattern(pattern)


def test_several_patterns_count_once_each() -> None:
    assert [one.text for one in check_patterns(["a.*", "b", "a.*"])] == ["a.*", "b"]
    with pytest.raises(InvalidOption, match="give 1 to 50 patterns"):
        check_patterns([])
