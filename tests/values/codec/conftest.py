"""Apps with and without a codec, on the database of the test."""

from collections.abc import Iterator

import pytest

from pgqueue import App
from pgqueue.codecs import AESGCM, Codec
from tests.values.codec.leaks import K1, K2, Make


@pytest.fixture
def make(dsn: str) -> Iterator[Make]:
    """Make apps on the test's database."""
    apps: list[App] = []

    def make(codec: Codec | None = None) -> App:
        apps.append(App(dsn, codec=codec))
        return apps[-1]

    yield make
    for app in apps:
        app.close()


@pytest.fixture
def sealing(make: Make) -> App:
    """An app that seals with k2 and opens with k1, too."""
    return make(AESGCM({"k2": K2, "k1": K1}, current="k2"))
