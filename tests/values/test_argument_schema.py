"""The JSON schema of a task's arguments."""

import json
from datetime import datetime
from typing import Any

from pgqueue import App
from tests.conftest import drain, scalar
from tests.harness import Conn, insert_job
from tests.values.samples import Order, Renamed, of_kind


def test_the_schema_says_what_a_task_takes() -> None:
    app = App("unused")

    @app.task(name="send")
    def send(order: Order, at: datetime, raw: bytes = b"", extra: Any = None) -> None:
        """Send it."""

    schema = send.json_schema()
    assert (schema["title"], schema["description"]) == ("send", "Send it.")
    assert schema["required"] == ["order", "at"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["at"]["format"] == "date-time"
    assert schema["properties"]["raw"]["format"] == "base64url"
    assert schema["properties"]["order"] == {"$ref": "#/$defs/Order"}
    assert schema["$defs"]["Order"]["properties"]["by"]["enum"] == ["air", "sea"]
    assert json.loads(json.dumps(schema)) == schema


def test_a_schema_has_the_names_that_are_stored_and_either_is_read(app: App, conn: Conn) -> None:
    @app.task(name="t")
    def t(v: Renamed) -> int:
        return v.came

    assert set(t.json_schema()["$defs"]["Renamed"]["properties"]) == {"came", "lines"}
    jobs = [t.enqueue(Renamed.model_validate({"cameCase": 1, "Lines": []})).id]
    jobs += [insert_job(conn, task="t", args='{"v": {"cameCase": 2, "Lines": []}}')]
    assert scalar(conn, "select args from pgqueue.job where id = %s", jobs[0]) == {"v": {"came": 1, "lines": []}}
    drain(app, conn)
    assert [app.get(job).result for job in jobs] == [1, 2]


def test_a_schema_leaves_open_what_json_schema_cannot_say() -> None:
    class Odd:
        @classmethod
        def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
            from pydantic_core import core_schema

            return core_schema.no_info_plain_validator_function(lambda value: value)

    assert of_kind(Odd).json_schema()["properties"] == {"v": {"title": "V"}}
