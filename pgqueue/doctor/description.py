"""What the schema of this release consists of: `schema.json`, which `python -m tests.statements.description` writes
from the migrations."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pgqueue.queries.doctor.schema import Part

PLACE = Path(__file__).with_name("schema.json")


@dataclass(frozen=True, slots=True)
class Description:
    """The version of a schema, and its parts by kind and name."""

    version: str
    parts: dict[str, dict[str, str]]

    @classmethod
    def of(cls, version: str, parts: list[Part]) -> "Description":
        """Return the description of a schema that was read from the catalogue."""
        found: dict[str, dict[str, str]] = {}
        for part in parts:
            found.setdefault(part.kind, {})[part.name] = part.text
        return cls(version, found)

    def as_text(self) -> str:
        """Return it as the file has it."""
        return json.dumps({"version": self.version, "parts": self.parts}, indent=1) + "\n"


@cache
def described() -> Description:
    """Return the description of this release's schema."""
    return Description(**json.loads(PLACE.read_text()))
