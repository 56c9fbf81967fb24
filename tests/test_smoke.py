from typing import Any
import psycopg
from conftest import drain, scalar
from pgqueue import App

def test_smoke(app: App, conn: psycopg.Connection[Any]) -> None:
    @app.task(name="t")
    async def t(n: int) -> int:
        return n
    t.enqueue(3)
    drain(app, conn)
    assert scalar(conn, "select result::int from pgqueue.job") == 3
