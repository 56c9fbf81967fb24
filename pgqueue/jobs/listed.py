"""The jobs of a list, and whether the list looked at all jobs."""

from collections.abc import Iterable

from pgqueue.jobs.job import Job


class ListedJobs(list[Job]):
    """The newest jobs that fit a filter, and below which id nobody looked for more.

    `unseen_below` is None where the list is full, or all jobs were looked at. Else pass it as `before` to go on.
    """

    def __init__(self, jobs: Iterable[Job], unseen_below: int | None = None) -> None:
        super().__init__(jobs)
        self.unseen_below = unseen_below

    @property
    def notice(self) -> str | None:
        """The sentence that says so, None if all jobs were looked at."""
        if self.unseen_below is None:
            return None
        below = self.unseen_below
        return f"jobs with ids below {below} were not looked at, and more of them may fit: go on with before={below}"
