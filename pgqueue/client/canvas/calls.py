"""Calls of one task: its options, and the jobs that calls become, whole or with arguments that come later."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pgqueue.client.app_parts import AppParts
from pgqueue.client.inserting import new_job
from pgqueue.client.settings import CallSettings, with_options
from pgqueue.errors import InvalidOption
from pgqueue.jobs.job import NewJob
from pgqueue.tasks.spec import TaskSpec


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of a task with the same options."""

    app: AppParts
    spec: TaskSpec
    settings: CallSettings

    def using(self, options: Mapping[str, Any]) -> "Calls":
        """Return calls with more options. Raises InvalidOption, and TypeError for an unknown one."""
        return replace(self, settings=with_options(self.settings, options, self.spec))

    def job(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], later: frozenset[str]) -> NewJob:
        """Return the job of a call. The arguments of the parameters `later` come when it runs: the others are validated
        and encoded as `enqueue` does. Raises InvalidArguments, and InvalidOption for a key that cannot be made yet."""
        spec, settings = self.spec, self.settings
        coder = spec.coder.without(later) if later else spec.coder
        if settings.rules is None and spec.metering is None:
            return new_job(coder.encode(args, kwargs), settings, spec, spec.name, self.app)
        if later:
            self._check_keys(later)
        values: list[dict[str, Any]] = []
        text = coder.encode(args, kwargs, values)
        return new_job(text, settings, spec, spec.name, self.app, values[0])

    def _check_keys(self, later: frozenset[str]) -> None:
        """Refuse keys that are made of arguments that are not known yet."""
        parameters, rules, metering = self.spec.coder.signature.parameters, self.settings.rules, self.spec.metering
        for remedy, names in (
            ("idempotency_key=… or unique_key=…", () if rules is None else rules.made_of(parameters)),
            ("limit_key=…, ordering_key=… or fair_key=…",
             () if metering is None else metering.made_of(parameters, self.settings.keys)),
        ):  # fmt: skip
            missing = sorted(later & set(names))
            if missing:
                raise InvalidOption(
                    f"a key of task {self.spec.name} is made of {', '.join(missing)}, which is the result of another "
                    f"job: give using({remedy})"
                )
