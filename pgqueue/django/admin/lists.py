"""Lists in the admin that the engine's own statements read: page after page by key, without a COUNT or an OFFSET."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest

from pgqueue.dashboard.filters import DEAD_FIELDS, check_filter
from pgqueue.django.admin.sight import Unseen, sight_of
from pgqueue.errors import PgqueueError
from pgqueue.jobs.job_filter import PHASES
from pgqueue.printable import printable
from pgqueue.queries import Queries, Query

AFTER = "after"  # in the address: the key of the last row of the page before


class Rows(NamedTuple):
    """A page: its rows, the key at which the next one begins, and what the page does not show, in words."""

    rows: Sequence[Any]
    after: object | None = None
    notice: str | None = None


class Chosen:
    """The rows that somebody has ticked, in place of the queryset that an action is given: nothing reads them."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self.keys = keys

    def filter(self, *, pk__in: Sequence[str]) -> Self:
        """Return what Django asks for: the rows with these keys."""
        return type(self)(pk__in)


class KeyedList(ChangeList):
    """A list whose page `model_admin.page(request, asked, after)` returns as Rows."""

    def get_filters_params(self, params: Any = None) -> Any:
        """Return the filters in the address; where a page begins is none."""
        found = super().get_filters_params(params)
        found.pop(AFTER, None)
        return found

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Chosen:
        """Read the filters of the address, and give actions what they choose from."""
        specs, self.has_filters, others, _, self.has_active_filters = self.get_filters(request)
        self.filter_specs = specs
        if not set(others) <= set(DEAD_FIELDS):
            raise IncorrectLookupParameters
        self.has_active_filters = bool(self.get_filters_params())
        self.clear_all_filters_qs = self.get_query_string(new_params=dict.fromkeys(self.get_filters_params()))
        return Chosen()

    def get_results(self, request: HttpRequest) -> None:
        """Read one page. Where the filters cannot be used, the page is empty and a message above it says why."""
        try:
            sight = sight_of(request)
            check_filter(sight.access, sight.redaction, self._asked, self.params)
            page = self.model_admin.page(request, self._asked, self.params.get(AFTER) or None)
        except (Unseen, PgqueueError) as error:
            self.model_admin.message_user(request, str(error), messages.ERROR)
            page = Rows(())
        self.result_list = page.rows
        self.result_count = self.full_result_count = len(page.rows)
        self.show_full_result_count = False
        self.show_admin_actions = bool(page.rows)
        self.can_show_all = self.multi_page = False
        self.paginator = self.model_admin.get_paginator(request, page.rows, max(1, len(page.rows)))
        self.notice = page.notice
        self.newest = self.get_query_string(remove=[AFTER]) if AFTER in self.params else None
        self.next = None if page.after is None else self.get_query_string({AFTER: page.after})

    def _asked(self, name: str) -> str | None:
        """Return one filter: from its own field of the address, or from the field of the search."""
        given = str(self.params.get(name) or "").strip()
        if given:
            return given
        words = self.query.strip()
        return words if words and name == ("id" if words.isdecimal() else "task") else None


class _Filter(admin.SimpleListFilter):
    """A filter of the address. Its value may be one that is not among those offered."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the values offered, with the one that is asked for."""
        offered = list(self.offered(request))
        asked = self.value()
        return [(each, printable(each)) for each in (offered if asked in (None, *offered) else [asked, *offered])]

    def offered(self, request: HttpRequest) -> Sequence[str]:
        """Return the values offered."""
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Leave it to the statement, which has the filter."""
        return queryset


def of_texts(name: str, texts: Sequence[str]) -> type[_Filter]:
    """Return a filter that offers some texts."""
    return type(f"{name}_filter", (_Filter,), {"title": name, "parameter_name": name, "offered": lambda *_: texts})


def of_names(name: str, names: Callable[[Queries], Query[list[str]]]) -> type[_Filter]:
    """Return a filter that offers what a statement finds, if it finds it soon."""

    def offered(_: object, request: HttpRequest) -> Sequence[str]:
        sight = sight_of(request)
        try:
            return sight.read(names(sight.app.queries))
        except Unseen:
            return ()

    return type(f"{name}_filter", (_Filter,), {"title": name, "parameter_name": name, "offered": offered})


StateFilter = of_texts("state", PHASES)
QueueFilter = of_names("queue", lambda queries: queries.names.queues(""))
TaskFilter = of_names("task", lambda queries: queries.names.tasks(""))
