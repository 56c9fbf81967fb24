"""docs/reference/cli.md, from the commands as Typer has them. `python -m tests.project.cli_page` writes it anew."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from pgqueue.cli import cli
from tests.project.house import ROOT

PAGE = ROOT / "docs" / "reference" / "cli.md"
HEAD = """# Command line reference

<!-- made by python -m tests.project.cli_page -->

Made of what `--help` says. `pgqueue COMMAND --help` shows it in a terminal, `--install-completion` completes it there.
Data go to stdout, messages to stderr; with `--json`, where a command has it, data are JSON.
"""
OF_ALL = ("--help", "--install-completion", "--show-completion")


def page() -> str:
    """Return the page with the commands of today."""
    return "\n".join(
        [
            HEAD,
            *(line for words, command in _commands("pgqueue", get_command(cli)) for line in _section(words, command)),
        ]
    )


def _commands(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _commands(f"{words} {name}", inner)


def _section(words: str, command: Any) -> list[str]:
    shown = [one for one in command.params if not getattr(one, "hidden", False) and not set(one.opts) & set(OF_ALL)]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    level = "##" + "#" * min(words.count(" ") - 1, 1) if " " in words else "##"
    lines = [f"{level} `{words}`", ""]
    if not hasattr(command, "commands"):
        usage = [words, *(_name_of(one) for one in arguments), *(["[OPTIONS]"] if len(shown) > len(arguments) else [])]
        lines += ["```text", " ".join(usage), "```", ""]
    lines += [_prose(command.help), ""]
    if shown:
        lines += ["| argument or option | meaning |", "|---|---|", *(_row(one) for one in shown), ""]
    return lines


def _prose(text: str | None) -> str:
    # Typer breaks help into paragraphs at \b and \f; a page needs neither.
    return re.sub(r"(?m)^\x08$\n?", "", inspect.cleandoc(text or "").split("\f")[0]).strip()


def _name_of(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name = f"{name}…" if argument.nargs == -1 else name
    return name if argument.required else f"[{name}]"


def _row(one: Any) -> str:
    if one.param_type_name == "argument":
        name = f"`{_name_of(one)}`"
    else:
        value = "" if one.is_flag or one.count else f" {one.metavar or one.name.upper()}"
        ways = [", ".join(f"`{way}{value}`" for way in ways) for ways in (one.opts, one.secondary_opts) if ways]
        name = " / ".join(ways)
    said = " ".join((one.help or "").split())
    facts = [said] if said else []
    if one.required and one.param_type_name == "option":
        facts.append("Required.")
    if getattr(one, "multiple", False) and "repeated" not in said:
        facts.append("May be repeated.")
    if one.envvar:
        facts.append(f"Environment: `{one.envvar}`.")
    if one.default not in (None, False, True, (), []) and not callable(one.default) and "Default:" not in said:
        facts.append(f"Default: `{getattr(one.default, 'value', one.default)}`.")
    meaning = " ".join(facts)
    return f"| {name} | {meaning} |".replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
