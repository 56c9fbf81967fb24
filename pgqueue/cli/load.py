"""Loading the app that `-A module:attr` names."""

import importlib
import sys
import traceback
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pgqueue.app import App
from pgqueue.config import find_app
from pgqueue.errors import ConfigError, PgqueueError

_OURS = Path(__file__).parents[1]


def load_app(reference: str | None, dsn: str | None) -> App:
    """Import the app that `module:attr` names, or `module` alone if it holds one app; of a package without any, its
    module `celery` may hold it, as with Celery. `dsn` overrides the app's own."""
    reference = find_app(reference)
    if not reference:
        raise ConfigError("no app named: pass -A module:attr (for example -A shop:app), or set PGQUEUE_APP")
    module_name, _, attribute = reference.partition(":")
    module = _import(module_name)
    app = _as_app(getattr(module, attribute, None)) if attribute else _only_app(module)
    apps = _references(module)
    if app is None and (further := _module_celery(module)) is not None:
        app = None if attribute or apps else _only_app(further)
        apps |= _references(further)
    if app is None:
        hint = f"try {' or '.join(apps)}" if apps else f"there is none in {module_name}"
        raise ConfigError(f"-A {reference}: that is no pgqueue.App: {hint}")
    if dsn:
        app.dsn = dsn
    if not app.name:
        app.name = next(name for name, value in apps.items() if _as_app(value) is app)
    return app


def load_app_quietly(reference: str | None, dsn: str | None) -> App:
    """Load an app for a short command: what written for Celery means nothing here, `work`, `schedule` and
    `check-celery` say."""
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"pgqueue\.celery\.")
    return load_app(reference, dsn)


def app_or_default(reference: str | None, dsn: str | None, schema: str) -> App:
    """Return the app that is named; if none is named, one that knows only the database."""
    return load_app_quietly(reference, dsn) if find_app(reference) else App(dsn, schema=schema)


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(
                f"-A {name}: no module named {error.name!r} in {here} or among the installed packages"
            ) from None
        raise _import_failed(name, error) from error
    except Exception as error:  # importing runs the user's code, which may raise any error
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: Exception) -> ConfigError:
    frames = list(traceback.extract_tb(error.__traceback__))
    if isinstance(error, PgqueueError):  # a bad option: the user's line is the cause
        frames = [frame for frame in frames if not _is_ours(frame.filename)]
        if not frames and isinstance(error, ConfigError):  # of the settings of a framework, which the error names
            return error
    at = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return ConfigError(f"-A {name}: importing it failed with {type(error).__name__}: {error}{at}")


def _is_ours(file: str) -> bool:
    return file.startswith("<frozen importlib") or file == importlib.__file__ or Path(file).is_relative_to(_OURS)


def _module_celery(package: ModuleType) -> ModuleType | None:
    """Import the module `celery` of a package, in which projects for Celery have their app; None where there is
    none."""
    name = f"{package.__name__}.celery"
    return _import(name) if hasattr(package, "__path__") and find_spec(name) is not None else None


def _references(module: ModuleType) -> dict[str, object]:
    """Return the apps of a module by what names them for `-A`."""
    return {f"{module.__name__}:{name}": value for name, value in vars(module).items() if _is_app(value)}


def _only_app(module: ModuleType) -> App | None:
    found = {id(value): value for value in vars(module).values() if _is_app(value)}
    return _as_app(found.popitem()[1]) if len(found) == 1 else None


def _is_app(value: object) -> bool:
    return isinstance(value, App) or _is_adapter(value)


def _is_adapter(value: object) -> bool:
    """Whether an object stands over an app in the words of another library, as `pgqueue.celery.Celery` does."""
    return hasattr(type(value), "__pgqueue_app__")


def _as_app(value: Any) -> App | None:
    """Return the app that an object is, or over which it stands; None for any other object."""
    return value.__pgqueue_app__() if _is_adapter(value) else value if isinstance(value, App) else None
