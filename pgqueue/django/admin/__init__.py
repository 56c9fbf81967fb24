"""Jobs, dead letters and schedules in the admin of a Django project: `"pgqueue.django.admin"` in INSTALLED_APPS."""
