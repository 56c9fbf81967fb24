"""Tenants of django-tenants, whose settings are made once in a process: so this has one of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import DEADLINE

ROOT = Path(__file__).parents[3]


@pytest.mark.servers
@pytest.mark.skipif(
    importlib.util.find_spec("django_tenants") is None, reason="pip install django-tenants, which is not there"
)
def test_each_job_runs_in_the_tenant_in_which_it_was_enqueued(empty_dsn: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.edges.django.tenants_alone", empty_dsn, str(tmp_path)],
        capture_output=True, text=True, timeout=DEADLINE, check=False, cwd=ROOT, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all where they belong\n")
