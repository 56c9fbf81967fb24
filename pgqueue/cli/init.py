"""`pgqueue init`: a file to start from."""

import sys
from keyword import iskeyword
from pathlib import Path
from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.errors import InvalidOption

START = '''"""Jobs of {name}. In one terminal: {dev}

That starts a Postgres of its own (the extra `embedded`), a worker, a scheduler and a dashboard (`dashboard`), and
begins anew when this file changes (`reload`). In another one, copy the line `export PGQUEUE_DSN=…` that it has printed,
enqueue a job and look at it:

    export PGQUEUE_DSN=embedded:…
    pgqueue enqueue {name}.welcome '{{"email": "ann@example.com"}}' -A {name}:app
    pgqueue jobs list -A {name}:app

With a Postgres that runs already, set PGQUEUE_DSN, and then:

    pgqueue migrate && pgqueue work -A {name}:app --with-scheduler
"""

import logging

import pgqueue

app = pgqueue.App()
log = logging.getLogger(__name__)


@app.task(max_attempts=5, timeout=60)
async def welcome(email: str) -> str:
    """Your first task. In your code: welcome.enqueue(email="ann@example.com"), or in a transaction of yours
    welcome.using(connection).enqueue(email="ann@example.com")."""
    log.info("welcome, %s", email)
    return f"welcomed {{email}}"


@app.schedule("0 6 * * *", timezone="UTC")
@app.task
async def every_morning() -> None:
    """Runs once a day, however many schedulers there are."""
    log.info("good morning")
'''


def init(
    file: Annotated[Path, typer.Argument(help="The file to write; its name is that of the module.")] = Path("jobs.py"),
) -> None:
    """Write a file to start from: an app, a task, a schedule, and the commands that run them. It never overwrites."""
    name = file.stem
    if file.suffix != ".py" or not name.isidentifier() or iskeyword(name):
        raise InvalidOption(f"{file} cannot be used: give the name of a Python module, such as jobs.py")
    if name in {"pgqueue", *sys.stdlib_module_names}:
        raise InvalidOption(f"{file} cannot be used: it would stand in the way of the module {name}; give another name")
    if not file.parent.is_dir():
        raise InvalidOption(f"{file} cannot be written: there is no folder {file.parent}")
    dev = f"pgqueue dev -A {name}:app"
    try:
        with file.open("x") as written:
            written.write(START.format(name=name, dev=dev))
    except FileExistsError:
        raise InvalidOption(f"{file} exists and stays as it is: name another file, `pgqueue init other.py`") from None
    except OSError as error:
        raise InvalidOption(f"{file} cannot be written: {error.strerror}") from None
    output.say(f"wrote {file}. In {file.parent.resolve()}: {dev}")
