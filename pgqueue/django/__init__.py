"""The dashboard in a Django project: `path("jobs/", include("pgqueue.django.urls"))`. Needs the extra `django`.

The setting `PGQUEUE = {"app": "shop.tasks:app"}` names the app. `"pgqueue.django"` in INSTALLED_APPS gives the project
the permissions that the dashboard asks for; without it superusers alone change anything.
"""
