"""Codecs: encryption of the data of jobs, before it is sent to the database. `App(codec=AESGCM({"k1": key}))`."""

import os
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pgqueue.errors import CannotOpen, ConfigError, UnknownKey

_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NONCE = 12  # bytes, random: 2^32 seals with one key are safe


@runtime_checkable
class Codec(Protocol):
    """Seals the data of jobs, and opens it again. One object serves all threads, and the children of a worker.

    `about` is associated data, such as the name of the task: data sealed with one `about` must not open with another.
    Both methods are called on the event loop, so they must not wait for a network.
    """

    def seal(self, plain: bytes, about: bytes) -> str:
        """Return `plain` encrypted, as text of printable ASCII without spaces."""
        ...

    def open(self, sealed: str, about: bytes) -> bytes:
        """Return the data that was sealed. Raises UnknownKey if the key is missing here, otherwise CannotOpen."""
        ...


class AESGCM:
    """AES in Galois/Counter Mode, by the package `cryptography` (the extra `pgqueue-jobs[crypto]`).

    `keys` maps ids to keys of 16, 24 or 32 random bytes. `current` is the id of the key that seals; it may be left out
    if there is one key. The others only open. To rotate, give every process the new key first, then make it current,
    and remove the old key when no data is left that it sealed. Raises ConfigError for keys that cannot be used.
    """

    def __init__(self, keys: Mapping[str, bytes], current: str | None = None) -> None:
        if current is None and len(keys) == 1:
            current = next(iter(keys))
        if current is None or current not in keys:
            raise ConfigError(
                f"current={current!r} is none of the keys ({_names(keys)}): give the id of the key that seals"
            )
        self._ciphers = {name: _cipher(name, key) for name, key in keys.items()}
        self._current = current

    def __repr__(self) -> str:
        return f"AESGCM(keys {_names(self._ciphers)}; current {self._current})"

    def seal(self, plain: bytes, about: bytes) -> str:
        """Return `key id:base64 of nonce, ciphertext and tag`."""
        nonce = os.urandom(_NONCE)
        sealed = nonce + self._ciphers[self._current].encrypt(nonce, plain, about)
        return f"{self._current}:{b64encode(sealed).decode()}"

    def open(self, sealed: str, about: bytes) -> bytes:
        """Return the data that was sealed, with any of the keys."""
        name, _, text = sealed.partition(":")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise UnknownKey(
                f"sealed with key {name!r:.80}, which is not here (there are: {_names(self._ciphers)}): "
                "add it to the codec"
            )
        try:
            data = b64decode(text, validate=True)
            plain: bytes = cipher.decrypt(data[:_NONCE], data[_NONCE:], about)
        except Exception:  # noqa: BLE001 - the errors of cryptography and binascii say no more than this
            raise CannotOpen(
                f"sealed with key {name!r:.80} and does not open: it was altered or moved, or that is another key with "
                "the same id"
            ) from None
        return plain


def _cipher(name: object, key: object) -> Any:
    if not isinstance(name, str) or not _KEY_ID.fullmatch(name):
        raise ConfigError(f"key id {name!r:.80} cannot be used: give 1 to 64 letters, digits or _ . -")
    if not isinstance(key, bytes) or len(key) not in (16, 24, 32):
        raise ConfigError(f"key {name!r} cannot be used: give 16, 24 or 32 random bytes, as secrets.token_bytes(32)")
    try:
        from cryptography.hazmat.primitives.ciphers import aead  # an extra, imported only where it is used
    except ImportError:
        raise ConfigError("AESGCM needs the package cryptography: pip install 'pgqueue-jobs[crypto]'") from None
    return aead.AESGCM(key)


def _names(keys: Mapping[str, object]) -> str:
    return ", ".join(sorted(map(str, keys))) or "none"


def check_codec(codec: object) -> Codec | None:
    """Return a codec, or None. Raises ConfigError for anything else."""
    if codec is not None and not isinstance(codec, Codec):
        raise ConfigError(f"codec={codec!r:.200} cannot be used: give an object with seal() and open()")
    return codec
