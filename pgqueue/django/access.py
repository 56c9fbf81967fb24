"""Who of a Django project looks at the dashboard, where the project does not say so itself."""

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from pgqueue.dashboard.access import Access

CHANGE, REVEAL = "pgqueue.change_job", "pgqueue.reveal_job"


def staff(request: HttpRequest) -> Access | None:
    """Let active members of staff look. With `pgqueue.change_job` they do everything but show what is hidden, and with
    `pgqueue.reveal_job` they do that; superusers have both. Whoever else comes is answered with 404.

    Raises ImproperlyConfigured where no middleware says who the user is.
    """
    user = getattr(request, "user", None)
    if user is None:
        raise ImproperlyConfigured(
            "pgqueue does not know who looks at its dashboard: add SessionMiddleware and AuthenticationMiddleware of "
            'Django to MIDDLEWARE, or name a function of the request in PGQUEUE["access"]'
        )
    if not (user.is_active and user.is_staff):
        return None
    who = user.get_username()
    verbs = Access.operate(who).verbs if user.has_perm(CHANGE) else frozenset()
    return Access(who, {*verbs, "reveal"} if user.has_perm(REVEAL) else verbs)
