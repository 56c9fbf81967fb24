"""The addresses of the dashboard, for `include("pgqueue.django.urls")`; `reverse("pgqueue:dashboard")` is its first."""

from django.urls import path

from pgqueue.django.views import page

app_name = "pgqueue"
urlpatterns = [path("", page, name="dashboard"), path("<path:below>", page, name="page")]
