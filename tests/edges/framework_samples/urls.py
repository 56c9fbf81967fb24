"""The urls of the Django project of the docs' examples."""

import orders_django
from django.urls import path

urlpatterns = [path("orders", orders_django.place_order)]
