"""The addresses of the Django site of the tests: a page of the site, and the dashboard under a prefix of two parts."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse("the shop")


urlpatterns = [
    path("", home),
    path("tenants/<slug:tenant>/jobs/", include("pgqueue.django.urls", namespace="tenants")),
    path("staff/jobs/", include("pgqueue.django.urls")),
]
