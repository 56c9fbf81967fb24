"""The registry of an app's tasks, by name."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pgqueue.errors import InvalidOption, InvalidTask, UnknownTask
from pgqueue.jobs.flow import Flow
from pgqueue.tasks.dead_letter_task import check_takes_arguments
from pgqueue.tasks.functions import AllowedFunctions
from pgqueue.tasks.metering import GivenKeys, unregistered_flow
from pgqueue.tasks.spec import TaskSpec


class Tasks:
    """The tasks of one app, by their names and aliases, which are former names.

    `queue_rules`: the rules of the app's queues, by queue. They concern jobs of any task. One of `functions` becomes a
    task when it is enqueued or looked for by its name, and all of them do when all tasks are asked for.
    """

    def __init__(self, queue_rules: Mapping[str, str] = {}, functions: AllowedFunctions | None = None) -> None:
        self.queue_rules = queue_rules
        self._functions = functions
        self._functions_left = functions is not None
        self._specs: dict[str, TaskSpec] = {}
        self._named_by: dict[str, list[str]] = {}  # tasks, by the name of their dead-letter task

    def add(self, spec: TaskSpec) -> None:
        """Register a task. Raises InvalidTask if another function has one of its names, and for a dead-letter task that
        cannot take what its jobs get."""
        for name in (spec.name, *spec.aliases):
            known = self._specs.get(name)
            if known is not None and known.function is not spec.function:
                raise InvalidTask(
                    f"two functions are named task {name!r}: {_where(known.function)} and {_where(spec.function)}; "
                    "give one of them name=…, or take it out of aliases=…"
                )
        self._check_dead_letter_task(spec)
        for name in (spec.name, *spec.aliases):
            self._specs[name] = spec

    def _check_dead_letter_task(self, spec: TaskSpec) -> None:
        """Check a task that others name as their dead-letter task, and the one that this task names."""
        for name in (spec.name, *spec.aliases):
            if name in self._named_by:
                check_takes_arguments(name, spec.coder.signature, self._named_by[name])
                _check_no_keys(spec, self._named_by[name])
        target = spec.dead_letter_task
        if target is None or target in (spec.name, *spec.aliases):
            return
        if target in self._specs:
            check_takes_arguments(target, self._specs[target].coder.signature, [spec.name])
            _check_no_keys(self._specs[target], [spec.name])
        self._named_by.setdefault(target, []).append(spec.name)

    def dead_letter_target(self, spec: TaskSpec, queue: str) -> dict[str, Any] | None:
        """Return what a job of the dead-letter task of a task gets: its task, queue, priority, attempts and flow.

        `queue` is for a task that is registered elsewhere. None where the task has no dead-letter task, or is the one
        that it names.
        """
        name = spec.dead_letter_task
        if name is None or name in (spec.name, *spec.aliases):
            return None
        target = self.get(name)
        found: dict[str, Any] = {"task": name, "queue": queue if target is None else target.queue}
        if target is not None:
            found |= {"priority": target.priority, "max_attempts": target.max_attempts}
        flow = self.flow(target, name, found["queue"], {}, None)
        return found if flow is None else found | {"flow": flow.header()}

    def dead_letter_targets(self, queue: str) -> dict[str, dict[str, Any] | None]:
        """Return the `dead_letter_target` of each name and alias."""
        return {name: self.dead_letter_target(spec, queue) for name, spec in list(self._specs.items())}

    def flow(
        self, spec: TaskSpec | None, task: str, queue: str, values: Mapping[str, Any] | None, keys: GivenKeys | None
    ) -> Flow | None:
        """Return the flow of a job: what the rules of its task and of its queue make of its arguments and given keys.

        None where no rule concerns it; also without `values`, if keys are made of them. Raises InvalidArguments and
        InvalidOption.
        """
        rule = self.queue_rules.get(queue)
        if spec is None:
            if keys is not None:
                return unregistered_flow(task, rule, keys)
        elif spec.metering is not None:
            if values is None and spec.metering.is_keyed:
                return None
            return spec.metering.flow(rule, values or {}, keys)
        elif keys is not None:
            raise InvalidOption(f"task {spec.name} has no rule that takes a key: give it limit=…, ordered=… or fair=…")
        return None if rule is None else Flow((rule,))

    def get(self, name: str) -> TaskSpec | None:
        """Return the task with that name or alias, or None."""
        spec = self._specs.get(name)
        if spec is None and self._functions is not None and (spec := self._functions.named(name)) is not None:
            self.add(spec)
        return spec

    def of_function(self, function: Callable[..., Any]) -> TaskSpec:
        """Return the task that a function without a decorator becomes. Raises InvalidTask if it cannot be one."""
        if self._functions is None:
            raise InvalidTask(f"{function!r:.200} is no task here: give App(functions_from=…) its module")
        spec = self._functions.spec(function)
        known = self._specs.get(spec.name)
        if known is not None and known.function is function:
            return known
        self.add(spec)
        return spec

    def _add_functions(self) -> None:
        """Let all functions of allowed modules be tasks: for whoever asks which tasks there are."""
        if self._functions is not None and self._functions_left:
            for spec in self._functions:
                self._specs.setdefault(spec.name, spec)
            self._functions_left = False  # only now: another thread may ask, and an import may fail and work again

    def __getitem__(self, name: str) -> TaskSpec:
        spec = self.get(name)
        if spec is None:
            known = ", ".join(sorted(self._specs)) or "none"
            raise UnknownTask(f"no task named {name!r} is registered (known: {known})")
        return spec

    def __iter__(self) -> Iterator[TaskSpec]:
        self._add_functions()
        return (spec for name, spec in self._specs.items() if name == spec.name)

    def names(self) -> list[str]:
        """Return the names and aliases of all tasks: jobs with these names run here."""
        self._add_functions()
        return sorted(self._specs)

    def versions(self) -> dict[str, int]:
        """Return the versions of the tasks that are beyond their first one, by name and alias."""
        return {name: spec.version for name, spec in self._specs.items() if spec.version > 1}

    def readable(self, parked: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Return those labels of parked jobs that can be read here, by task."""
        known = ((name, spec, parked[name]) for name, spec in self._specs.items() if name in parked)
        found = {name: [label for label in labels if spec.reads(label)] for name, spec, labels in known}
        return {name: labels for name, labels in found.items() if labels}

    def announced(self) -> list[str]:
        """Return the tasks that a worker announces: names, and `name@version` for each version but the first."""
        more = (f"{name}@{n}" for name, version in self.versions().items() for n in range(2, version + 1))
        return [*self.names(), *sorted(more)]


def _check_no_keys(spec: TaskSpec, named_by: Sequence[str]) -> None:
    """Refuse rules with keys for a dead-letter task: a statement enqueues its jobs, and makes no keys."""
    if spec.metering is not None and spec.metering.is_keyed:
        raise InvalidTask(
            f"task {spec.name} is the dead_letter_task of {', '.join(sorted(named_by))}, and its rules have keys: "
            "give it limits without by, no fair and no ordered"
        )


def _where(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
