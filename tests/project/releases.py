"""The last release, as a wheel of its own: built from the commit that was it, and unpacked to be put on PYTHONPATH."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAST_RELEASE = "f06a698"  # schema 0014; give the commit of the newest release here when one is made


def unpacked(folder: Path, commit: str = LAST_RELEASE) -> Path:
    """Build the wheel of a commit and return the folder with what it installs. Skips where git has no such commit."""
    tree = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
    if tree.returncode:
        pytest.skip(f"git has no commit {commit} here (a shallow clone, or no checkout): {tree.stderr.decode()[:200]}")
    with tarfile.open(fileobj=io.BytesIO(tree.stdout)) as packed:
        packed.extractall(folder / "source", filter="data")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "source"]
    done = subprocess.run(build, capture_output=True, text=True, cwd=folder, env=clean(), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed_wheel:
        packed_wheel.extractall(folder / "site")
    return folder / "site"


def clean(**environ: str) -> dict[str, str]:
    """Return the environment of a process that sees nothing of this checkout but what it is given."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PGQUEUE_DSN", "DATABASE_URL")} | environ
