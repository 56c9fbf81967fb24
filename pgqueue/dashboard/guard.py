"""What every answer carries, and which requests may change something."""

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from pgqueue.dashboard.request import Request

COOKIE = "pgqueue-form"
FIELD = "form_token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)


def new_key() -> str:
    """Return a key for the forms of one browser, which its cookie keeps."""
    return secrets.token_urlsafe(24)


def token_of(key: str) -> str:
    """Return the token of the forms that are made for a key. Whoever has a token alone cannot tell the key."""
    return hashlib.sha256(f"pgqueue form {key}".encode()).hexdigest()


def cookie(key: str, *, secure: bool) -> tuple[str, str]:
    """Return the header that sets the cookie. It is for the whole host: behind a proxy nobody here knows the prefix."""
    flags = "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
    return "Set-Cookie", f"{COOKIE}={key}{flags}"


def refusal(request: Request) -> str | None:
    """Return why a request may change nothing; None if it comes from a form of this dashboard.

    The browser says that it does (`Sec-Fetch-Site`); where it does not say it, the origin is this host. And the form
    has the token of this browser's cookie, which another site can neither read nor guess.
    """
    site = request.headers.get("sec-fetch-site")
    if site is None:
        origin = urlsplit(request.headers.get("origin", ""))
        if not origin.netloc or origin.netloc != request.headers.get("host"):
            return "the request does not say that it comes from this site"
    elif site != "same-origin":
        return "the request comes from another site"
    key = request.cookies.get(COOKIE)
    if not key or not hmac.compare_digest(token_of(key), request.form.get(FIELD, "")):
        return "the form is out of date: load the page again"
    return None
