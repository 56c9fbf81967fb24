"""The results of a group that a running job reads page by page, on a connection of pgqueue's own."""

from pgqueue.client.app_parts import AppParts
from pgqueue.client.steps import OWN_CONNECTION, StepRunner, Steps, verb
from pgqueue.tasks.results import ResultPage


class ResultPages:
    """Reads the results of arguments of one job."""

    def __init__(self, app: AppParts, job_id: int) -> None:
        self._app = app
        self._job_id = job_id
        self._runner = StepRunner(app, OWN_CONNECTION)

    @verb
    def page(self, argument: str, after: int) -> Steps[ResultPage | None]:
        """Return the next results of an argument behind a place; None at the end."""
        found: ResultPage | None = yield self._app.queries.workflows.results_page(self._job_id, argument, after)
        return found

    apage = page.twin

    @verb
    def members(self, argument: str) -> Steps[int | None]:
        """Return how many results all pages have; None where the group has not succeeded."""
        found: int | None = yield self._app.queries.workflows.results_members(self._job_id, argument)
        return found

    amembers = members.twin
