"""The files of docs/deployment.md: units that systemd reads, manifests, and KEDA's question of the database."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import scalar
from tests.harness import WORKER, Conn, add_worker, insert_job

PAGE = (Path(__file__).parents[2] / "docs/deployment.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


def question() -> str:
    (scaler,) = [found for found in map(yaml.safe_load, blocks("yaml")) if found["kind"] == "ScaledObject"]
    query: str = scaler["spec"]["triggers"][0]["metadata"]["query"]
    return query


def claimed(conn: Conn, job: int) -> None:
    add_worker(conn, worker=WORKER)
    conn.execute(
        "update pgqueue.job_live set state = 'running', attempt = 1, lease = 1, worker_id = %s, claimed_at = now()"
        " where id = %s",
        [WORKER, job],
    )


def test_keda_hears_of_what_is_due_and_runs_and_never_null(conn: Conn) -> None:
    ask: Any = question()
    assert scalar(conn, ask) == 0
    insert_job(conn, task="t")
    insert_job(conn, task="t", queue="elsewhere")
    later = insert_job(conn, task="t")
    conn.execute("update pgqueue.job_live set run_at = now() + interval '1 h' where id = %s", [later])
    assert scalar(conn, ask) == 1
    claimed(conn, insert_job(conn, task="t"))
    assert scalar(conn, ask) == 2


def test_manifests_are_yaml_and_end_as_the_options_say() -> None:
    deployment, scaler = map(yaml.safe_load, blocks("yaml"))
    pod = deployment["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert pod["terminationGracePeriodSeconds"] >= int(command[command.index("--shutdown-timeout") + 1]) + 15
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_the_unit_is_one(tmp_path: Path) -> None:
    (unit,) = blocks("ini")
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    service = parser["Service"]
    timeout = re.search(r"--shutdown-timeout (\d+)", service["ExecStart"])
    assert timeout is not None
    assert int(service["TimeoutStopSec"]) >= int(timeout[1]) + 15
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here, which reads units as systemd does")
    file = tmp_path / "pgqueue-worker@.service"
    file.write_text(unit.replace("/srv/shop/.venv/bin/pgqueue", "/bin/true").replace("User=shop\n", ""))
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
    assert "Unknown" not in done.stderr, done.stderr


def test_the_app_of_the_page_asks_for_a_token_for_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    tokens = iter(["first", "second"])
    client = SimpleNamespace(generate_db_auth_token=lambda **asked: f"{next(tokens)} {asked['DBUsername']}")
    monkeypatch.setitem(sys.modules, "boto3", SimpleNamespace(client=lambda service, **_: client))
    page: dict[str, Any] = {}
    exec(compile(code, "deployment.md", "exec"), page)
    asked = [conninfo_to_dict(page["app"].dsn) for _ in range(2)]
    assert [each["password"] for each in asked] == ["first shop_worker", "second shop_worker"]
    assert asked[0]["host"] == page["HOST"]
