"""`--help` of every command: each option says what it is without being given, and in which unit it counts."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pgqueue.cli.commands import cli

ROOT: Any = typer.main.get_command(cli)
SAYS_SO = re.compile(
    r"Default: |^Only |^With --\S+: |May be repeated|Or --at|Give this, |instead of a plan|Any other option"
)
UNITS = re.compile(r"[Ss]econd|where others have 1")


def options(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every option that takes a value, with the words of its command."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from options(inner, (*path, name))
    for one in getattr(command, "params", ()):
        if one.param_type_name == "option" and not one.is_flag and path:
            yield f"{' '.join(path)} {one.opts[0]}", one


def test_every_option_without_a_default_says_what_holds_then() -> None:
    silent = [
        where
        for where, one in options()
        if not one.required and (one.default is None or not one.show_default) and not SAYS_SO.search(one.help or "")
    ]
    assert silent == []


def test_every_option_that_is_a_fraction_names_its_unit() -> None:
    fractions = [(where, one.help) for where, one in options() if one.type_descriptor.annotation is float]
    assert len(fractions) > 10
    assert [where for where, text in fractions if not UNITS.search(text)] == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("work", ["--lease", "[default: 30.0]", "--poll", "[default: 1.0]", "--max-wait", "Default: off."]),
        ("schedule", ["[default: 30.0]", "Default: no port."]),
    ],
)
def test_what_is_shown_has_the_defaults(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    shown = CliRunner().invoke(cli, [command, "--help"]).stdout
    assert [word for word in words if word not in shown] == []
