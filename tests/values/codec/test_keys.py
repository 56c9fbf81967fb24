"""The codec of pgqueue: which keys it takes, what it hides of them, and what it opens."""

import re
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqueue import App, CannotOpen, ConfigError, UnknownKey
from pgqueue.codecs import AESGCM
from tests.values.codec.leaks import K1, K2


@pytest.mark.parametrize(
    ("keys", "current", "said"),
    [
        ({}, None, "current=None is none of the keys (none)"),
        ({"a": K1, "b": K2}, None, "current=None is none of the keys (a, b)"),
        ({"a": K1}, "b", "current='b' is none of the keys (a)"),
        ({"a": K1[:5]}, None, "key 'a' cannot be used: give 16, 24 or 32 random bytes"),
        ({"a": "x" * 32}, None, "key 'a' cannot be used"),
        ({"a:b": K1}, None, "key id 'a:b' cannot be used"),
        ({"": K1}, None, "key id '' cannot be used"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_and_not_shown(keys: Any, current: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        AESGCM(keys, current)
    assert not any(str(key) in str(refused.value) for key in keys.values())


def test_keys_are_not_shown() -> None:
    assert repr(AESGCM({"k1": K1, "k2": K2}, "k2")) == "AESGCM(keys k1, k2; current k2)"
    assert repr(K1) not in repr(vars(AESGCM({"k1": K1})))


@pytest.mark.parametrize("codec", [5, "k1", object(), {"k1": K1}], ids=lambda codec: type(codec).__name__)
def test_what_is_no_codec_is_refused(codec: Any) -> None:
    with pytest.raises(ConfigError, match=r"give an object with seal\(\) and open\(\)"):
        App("unused", codec=codec)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    with pytest.raises(ConfigError, match=r"pip install 'pgqueue-jobs\[crypto\]'"):
        AESGCM({"k1": K1})


@settings(max_examples=50, deadline=None, database=None)
@given(st.binary(), st.binary(), st.binary())
def test_what_was_sealed_opens_and_only_about_the_same_thing(plain: bytes, about: bytes, other: bytes) -> None:
    codec = AESGCM({"k1": K1, "k2": K2}, "k1")
    sealed = codec.seal(plain, about)
    assert re.fullmatch(r"k1:[A-Za-z0-9+/=]+", sealed)
    assert codec.seal(plain, about) != sealed
    assert codec.open(sealed, about) == plain
    if about != other:
        with pytest.raises(CannotOpen):
            codec.open(sealed, other)
    with pytest.raises(CannotOpen):
        codec.open("k2" + sealed[2:], about)
    with pytest.raises(UnknownKey, match=r"key 'k3', which is not here \(there are: k1, k2\)"):
        codec.open("k3" + sealed[2:], about)
