"""The dashboard: pages for people, mounted into your own app or served by `pgqueue web`. Needs the extra `dashboard`.

`api.mount("/jobs", pgqueue.dashboard.asgi(app, access=access))` for Starlette, FastAPI and others, `wsgi(…)` for Flask
and others. `access(request)` says who looks, and what they may do: an `Access`, or None, which is answered with 404.
"""

from pgqueue.errors import MissingExtra

try:
    import jinja2 as _jinja2
except ModuleNotFoundError as error:
    raise MissingExtra(
        f"pgqueue.dashboard needs jinja2 ({error}): pip install 'pgqueue-jobs[dashboard]'", name=error.name
    ) from None

from pgqueue.dashboard.access import VERBS, Access, Hidden
from pgqueue.dashboard.asgi import asgi
from pgqueue.dashboard.redaction import Redact
from pgqueue.dashboard.request import Request
from pgqueue.dashboard.settings import DashboardOptions
from pgqueue.dashboard.wsgi import wsgi

__all__ = ["VERBS", "Access", "DashboardOptions", "Hidden", "Redact", "Request", "asgi", "wsgi"]
del _jinja2
