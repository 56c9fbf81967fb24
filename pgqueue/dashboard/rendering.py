"""Templates become pages, and files are served: both lie beside this module and are read once."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

from pgqueue.dashboard.formats import FILTERS, safe

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@cache
def environment() -> jinja2.Environment:
    """Return the templates. Everything that is put into one is escaped; a name that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        finalize=safe,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(FILTERS)
    made.globals["version_of"] = version_of
    return made


def render(template: str, values: Mapping[str, Any]) -> bytes:
    """Return a page."""
    return environment().get_template(template).render(values).encode("utf-8", "replace")


@cache
def static_file(name: str) -> tuple[bytes, str] | None:
    """Return a file and its type; None if there is none of this name."""
    kind = _TYPES.get(name.rpartition(".")[2])
    found = {each.name: each for each in files("pgqueue.dashboard").joinpath("static").iterdir()}
    return None if kind is None or name not in found else (found[name].read_bytes(), kind)


@cache
def version_of(name: str) -> str:
    """Return a mark of a file's content: a browser keeps the file until it changes."""
    file = static_file(name)
    return "" if file is None else hashlib.sha256(file[0]).hexdigest()[:12]


def _source(name: str) -> str | None:
    found = files("pgqueue.dashboard").joinpath("templates", name)
    return found.read_text(encoding="utf-8") if found.is_file() else None
