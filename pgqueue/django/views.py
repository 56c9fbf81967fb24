"""The one view: a request of Django goes in, the dashboard's answer comes out, under WSGI and ASGI alike."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from pgqueue.dashboard.asgi import checked
from pgqueue.dashboard.dashboard import EVENTS, plain
from pgqueue.dashboard.request import MOST_BODY, Request, Response, read_query
from pgqueue.django.mounted import mounted


# The forms of the dashboard have a token of their own, and are taken from this site alone. Django's check would refuse
# them, for they have none of its tokens.
@csrf_exempt
def page(request: HttpRequest, below: str = "", **_: object) -> HttpResponse:
    """Answer with the page that lies below the path of `include`, or do what a form asks. What that path captures is
    not for the dashboard."""
    here = mounted()
    access = checked(here.access(request))
    length = str(request.META.get("CONTENT_LENGTH") or "0")
    if length.isdecimal() and int(length) > MOST_BODY:
        return _response(plain(413, "the form is too big"), request)
    asked = _request(request, below)
    if access is not None and asked.path == EVENTS:
        return _response(plain(404, "this server sends no events: ask again"), request)
    return _response(here.dashboard.answer(asked, access), request)


def _request(request: HttpRequest, below: str) -> Request:
    """Return a request of Django as the dashboard knows requests. Without the last slash of the path of `include`
    nothing is below it, not even the first page, which is how the dashboard learns of it.
    The host is the one that Django takes it for: a proxy may have said it."""
    root = request.path.removesuffix(below)
    return Request(
        request.method,
        f"/{below}" if root.endswith("/") else below,
        read_query(request.META.get("QUERY_STRING", "")),
        {name.lower(): value for name, value in request.headers.items()} | {"host": request.get_host()},
        request.body,
        request.META,
        root.rstrip("/"),
        request.is_secure(),
    )


def _response(answer: Response, request: HttpRequest) -> HttpResponse:
    response = HttpResponse(b"" if request.method == "HEAD" else answer.body, status=answer.status)
    for name, value in answer.headers:
        if name == "Set-Cookie":
            response.cookies.load(value)
        else:
            response[name] = value
    response["Content-Length"] = str(len(answer.body))
    return response
