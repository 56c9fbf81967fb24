"""Rewriting of SQL templates, for seeded bugs."""

import re
from collections.abc import Sequence
from types import ModuleType


def rewrite(module: ModuleType, names: Sequence[str], *changes: tuple[str, str]) -> None:
    """Change SQL templates. Each change must fit at least once in each of them, whatever the white space."""
    for name in names:
        text = getattr(module, name)
        for old, new in changes:
            pattern = r"\s+".join(re.escape(word) for word in old.split())
            text, count = re.subn(pattern, lambda _, new=new: new, text)
            if not count:
                raise SystemExit(f"the mutant does not fit: {module.__name__}.{name} has no {old!r}")
        setattr(module, name, text)
