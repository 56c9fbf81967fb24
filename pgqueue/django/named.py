"""What the settings of a Django project name as `module:name`."""

import importlib
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from pgqueue.app import App

SETTING = "PGQUEUE"


def named_app(named: object, where: str) -> App:
    """Return the app that a setting names; `where` is that setting. Raises ImproperlyConfigured."""
    app = found(named, where)
    if not isinstance(app, App):
        raise ImproperlyConfigured(f"{where} is a {type(app).__name__}, and not a pgqueue.App")
    return app


def found(named: Any, where: str) -> Any:
    """Return what a setting names as `module:name`; what is no text is the thing itself.

    Settings are read before models can be imported, so text is the way to name what imports models.
    """
    if not isinstance(named, str):
        return named
    module, colon, name = named.partition(":")
    if not module or not colon or not name.isidentifier():
        raise ImproperlyConfigured(f"{where} = {named!r:.200} cannot be used: write module:name")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ImproperlyConfigured(f"{where} = {named!r}: there is no module {error.name}") from None
    if not hasattr(found, name):
        raise ImproperlyConfigured(f"{where} = {named!r}: {module} has no {name}")
    return getattr(found, name)
