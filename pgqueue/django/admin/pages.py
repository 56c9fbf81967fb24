"""What the pages of the admin have in common: Django's permissions, lists and rows that nobody edits, and actions."""

from collections.abc import Callable, Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.contrib.admin.options import ShowFacets
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html

from pgqueue.dashboard.filters import Asked
from pgqueue.dashboard.formats import pretty
from pgqueue.django.access import CHANGE
from pgqueue.django.admin.lists import Chosen, KeyedList, Rows
from pgqueue.django.admin.sight import Sight, Unseen, sight_of
from pgqueue.errors import InvalidInput, PgqueueError
from pgqueue.printable import printable
from pgqueue.queries.operations import Operation

LISTED = 100
NOTHING_DONE = "Nothing was done: {}"


class ReasonForm(ActionForm):
    """The form of the actions, with a reason for those that end jobs."""

    reason = forms.CharField(required=False, max_length=500, label="Reason:")


class EnginePage(admin.ModelAdmin):
    """Rows that the engine has, to look at and to act on. Nobody adds, edits or deletes one here."""

    list_per_page = LISTED
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    change_list_template = "pgqueue_admin/change_list.html"
    change_form_template = "pgqueue_admin/change_form.html"
    room = ""  # of the dashboard

    def page(self, request: HttpRequest, asked: Asked, after: str | None) -> Rows:
        """Return one page of the list. Raises Unseen and InvalidOption."""
        raise NotImplementedError

    def row(self, sight: Sight, key: str) -> Any:
        """Return one row, or None. Raises Unseen."""
        raise NotImplementedError

    def get_changelist(self, request: HttpRequest, **_: Any) -> type[KeyedList]:
        """Return the list that the engine's statements read."""
        return KeyedList

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return nothing: no page reads by Django's ORM."""
        return self.model._default_manager.none()

    def get_sortable_by(self, request: HttpRequest) -> Sequence[str]:
        """Sort by nothing else than the key by which pages follow each other."""
        return ()

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Read the row of a page; None for one that is not there, also where the database does not answer."""
        sight = sight_of(request)
        try:
            found = self.row(sight, object_id)
        except InvalidInput:
            return None
        except Unseen as error:
            self.message_user(request, str(error), messages.ERROR)
            return None
        if found is not None:
            found.sight = sight
        return found

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Return False: tasks enqueue jobs."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: retention deletes what has ended."""
        return False

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Whether the index of the admin shows these rows at all."""
        return bool(super().has_module_permission(request) or request.user.has_perm(CHANGE))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this person may look: with Django's permissions to view or change these rows, or the dashboard's."""
        return bool(super().has_view_permission(request, obj) or request.user.has_perm(CHANGE))

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether this person may act on rows. No page of one row has a form: what changes a row is an action."""
        allowed = super().has_change_permission(request, obj) or request.user.has_perm(CHANGE)
        return obj is None and bool(allowed)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Refuse Django's own history, which nothing here writes: operations say who did what."""
        raise PermissionDenied

    def render_change_form(self, request: HttpRequest, context: Any, *given: Any, **more: Any) -> Any:
        """Let the page of a row lead to that of the dashboard, where the project has it."""
        try:
            context["on_dashboard"] = reverse("pgqueue:page", args=[f"{self.room}/{context['object_id']}"])
        except NoReverseMatch:
            context["on_dashboard"] = None
        return super().render_change_form(request, context, *given, **more)

    def act(self, request: HttpRequest, verb: str, do: Callable[[Sight], Sequence[Operation | None]]) -> None:
        """Do what an action asks, and say what came of it. `verb`: as the access of the dashboard names it."""
        sight = sight_of(request)
        if sight.read_only or not sight.access.may(verb):
            raise PermissionDenied
        try:
            operations = do(sight)
        except (Unseen, PgqueueError) as error:
            self.message_user(request, NOTHING_DONE.format(error), messages.ERROR)
            return
        for operation in operations:
            self.message_user(request, *_said(operation))


def ids_of(chosen: Chosen) -> list[int]:
    """Return the ids of the rows that were ticked."""
    return [int(key) for key in chosen.keys if key.isascii() and key.isdecimal() and 0 < int(key) < 2**63]


def reason_of(request: HttpRequest) -> str:
    """Return the reason in the form of the actions that was sent: that of the one above or below the list."""
    return next((text for text in request.POST.getlist("reason") if text.strip()), "").strip()


def as_text(value: Any) -> Any:
    """Return a value of a job in a page: JSON that people read, with nothing in it that acts."""
    return format_html('<pre class="pgqueue">{}</pre>', printable(pretty(value)))


def _said(operation: Operation | None) -> tuple[str, int]:
    if operation is None:
        return "The operation has begun. Its row in pgqueue.operation says how far it is.", messages.INFO
    words = f"{operation.kind}: {operation.done} done, {operation.skipped} skipped (operation {operation.id})."
    if operation.state == "running":
        words += " It goes on."
    elif not operation.done and not operation.skipped:
        words += " Nothing here is in a state that this changes."
    return words, messages.SUCCESS if operation.done else messages.WARNING
