"""HTTP targets: jobs whose work is one HTTP request, such as a webhook. Needs the extra `http`.

`hooks = http.target(app, "webhook", secrets={…}, sign="default")`, then `hooks.using(conn).enqueue(url, body={…})`.
Requests are signed by the Standard Webhooks specification; `verify` is for those who receive them.
"""

from pgqueue.errors import MissingExtra

try:
    import httpcore as _httpcore  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtra(
        f"pgqueue.http needs httpcore ({error}): pip install 'pgqueue-jobs[http]'", name=error.name
    ) from None

from pgqueue.http.requests import Secret
from pgqueue.http.sending import Sent
from pgqueue.http.signing import new_secret, verify
from pgqueue.http.target import Target, TargetOptions, target

__all__ = ["Secret", "Sent", "Target", "TargetOptions", "new_secret", "target", "verify"]
