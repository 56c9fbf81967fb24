"""Tasks: a registered function, the settings of its jobs, and the coder of its arguments."""

import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, get_args

from pydantic import ValidationError

from pgqueue.codecs import Codec
from pgqueue.config import check_name
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import InvalidOption, InvalidTask
from pgqueue.jobs.event import Event
from pgqueue.jobs.job import MAX_CRASHES
from pgqueue.jobs.limit_rule import rule_name
from pgqueue.jobs.retry import RetryPolicy
from pgqueue.jobs.topics import Pattern
from pgqueue.tasks.coder import ArgumentCoder
from pgqueue.tasks.context import Context
from pgqueue.tasks.inputs import ByReference, has_inputs, left_out, with_inputs
from pgqueue.tasks.metering import Metering, TaskLimits
from pgqueue.tasks.newer import has_names, label_of, unknown_names
from pgqueue.tasks.results import Pages, Results, is_paged
from pgqueue.tasks.rules import Rules
from pgqueue.tasks.schema import json_schema
from pgqueue.tasks.sealing import SEALED, SEALED_EVENT, open_args
from pgqueue.tasks.stand_in import RESULT, RESULTS, check_ended
from pgqueue.tasks.storable import MAX_ARGS_BYTES, MAX_RESULT_BYTES, encode_result
from pgqueue.tasks.versions import (
    VERSION,
    UnknownParameters,
    Upcaster,
    check_versions,
    label_parts,
    parts_of,
    upcast,
    version_of,
)


class StoredArguments(Protocol):
    """A job whose arguments are to be read: a claimed one, or a dead letter."""

    @property
    def task(self) -> str: ...
    @property
    def args(self) -> str: ...
    @property
    def headers(self) -> str | None: ...


class ThreadTimeoutWarning(UserWarning):
    """A `def` task has a `timeout`: nothing can stop a thread from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """The options of `@app.task(…)`, with the app's where the task has none. Durations are seconds.

    `given`: the names of the options that the task itself has. `origins`: where those come from that others gave it.
    """

    queue: str
    priority: int
    max_attempts: int
    retry: RetryPolicy
    retry_on: tuple[type[BaseException], ...] = ()
    no_retry_on: tuple[type[BaseException], ...] = ()
    tags: tuple[str, ...] = ()
    timeout: float | None = None
    soft_timeout: float | None = None
    isolation: str = "thread"
    max_crashes: int = MAX_CRASHES
    dead_letter_task: str | None = None
    retention: int | None = None
    rules: Rules | None = None
    turns: TaskLimits | None = None
    on: tuple[Pattern, ...] = ()
    version: int = 1
    upcasters: Mapping[int, Upcaster] = field(default_factory=dict)
    aliases: Sequence[str] = ()
    max_args_bytes: int = MAX_ARGS_BYTES
    codec: Codec | None = field(default=None, repr=False)
    store_result: bool = True
    result_ttl: float | None = None
    max_result_bytes: int = MAX_RESULT_BYTES
    given: frozenset[str] = frozenset()
    origins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec(TaskSettings):
    """A task: its name, function and settings. `TaskSpec.of` makes one.

    `context_parameter` is the parameter that the worker fills with a Context. `metering`: the rules that concern its
    jobs, None without any. `is_async`: it runs on the event loop and
    not in a thread. The outermost decorator decides: a `def` around an `async def` is called in a thread, and a
    coroutine that it returns is awaited on the event loop.
    """

    name: str
    function: Callable[..., Any]
    coder: ArgumentCoder
    context_parameter: str | None
    is_async: bool
    metering: Metering | None = None

    @classmethod
    def of(cls, name: str, function: Callable[..., Any], settings: TaskSettings) -> "TaskSpec":
        """Return the task that a function becomes. Raises InvalidTask if it cannot be one, and InvalidOption."""
        if not isinstance(settings.aliases, (list, tuple)):
            raise InvalidTask(f"task {name}: aliases={settings.aliases!r} cannot be used: give a list of names")
        for each in (name, *settings.aliases):
            check_name("task", each)
        check_versions(name, settings.version, settings.upcasters)
        if settings.isolation not in ("thread", "process"):
            raise InvalidTask(f"task {name}: isolation={settings.isolation!r} cannot be used: give thread or process")
        parameters, context = _parameters(name, function)
        coder = ArgumentCoder.of(name, parameters, settings.max_args_bytes, settings.codec)
        spec = cls(
            name=name,
            function=function,
            coder=coder,
            metering=None if settings.turns is None else settings.turns.of_task(name, coder.signature),
            context_parameter=context,
            is_async=inspect.iscoroutinefunction(function),
            **{each.name: getattr(settings, each.name) for each in fields(TaskSettings)},
        )
        if spec.rules is not None:
            spec.check_names(spec.rules)
        if "timeout" in spec.given and not spec.can_be_stopped and not _may_return_coroutine(function):
            warnings.warn(
                f"task {name}: a thread cannot be stopped, so its timeout is a soft one: the task must call "
                "ctx.check(), be async def, or have isolation='process'",
                ThreadTimeoutWarning,
                stacklevel=3,
            )
        return spec

    @property
    def event_parameter(self) -> str | None:
        """The parameter that gets the whole event; None without one."""
        parameters = self.coder.signature.parameters
        return next((name for name, each in parameters.items() if each.annotation is Event), None)

    @property
    def paged(self) -> dict[str, Any]:
        """The parameters whose results are read page by page, with their annotations; a child process has no pages."""
        parameters = self.coder.signature.parameters if self.isolation == "thread" else {}
        return {name: each.annotation for name, each in parameters.items() if is_paged(each.annotation)}

    def paged_in(self, headers: str | None) -> list[str]:
        """The names among `paged` for a job with these headers: none where an upcaster gets the results first."""
        if not self.paged or self.version == 1:
            return list(self.paged)
        try:
            return list(self.paged) if version_of(headers) == self.version else []
        except (ValueError, RecursionError):  # headers of SQL: the call of the task says so
            return []

    @property
    def soft_limit(self) -> float | None:
        """Seconds after which `ctx.check()` raises."""
        return self.timeout if self.soft_timeout is None else self.soft_timeout

    @property
    def can_be_stopped(self) -> bool:
        """Whether a running call can be ended from outside: anything but a thread."""
        return self.is_async or self.isolation == "process"

    def retries(self, error: BaseException) -> bool:
        """Whether the task's options allow another attempt after this error."""
        if isinstance(error, self.no_retry_on):
            return False
        return not self.retry_on or isinstance(error, self.retry_on)

    def arguments(self, job: StoredArguments) -> dict[str, Any]:
        """Return the keyword arguments of a job: opened, brought to this version, validated.

        Raises UnknownKey, CannotOpen, ResultsGone, NewerVersion, UnknownParameters; ByReference for a job with inputs
        that does not run; StandInEnded for one that does not run again; what an upcaster raises; pydantic's
        ValidationError.
        """
        text = job.args
        if text.startswith((SEALED, SEALED_EVENT)):
            text = open_args(self.codec, job.task, text)
        inputs = getattr(job, "inputs", None)
        if inputs is not None:
            check_ended(self.codec, inputs)
            text = with_inputs(self.codec, text, inputs)
        elif has_inputs(job.headers):
            raise ByReference(job.task)
        if self.version > 1 or (job.headers is not None and VERSION in job.headers):
            text = upcast(text, job.headers, self.version, self.upcasters)
        pages = getattr(job, "pages", None)
        try:
            if pages is None or inputs is None:
                return self.coder.decode(text)
            return self._with_pages(json.loads(text), pages, left_out(inputs))
        except ValidationError as error:
            version, known_elsewhere = label_parts(job.headers)
            names = unknown_names(self.coder.schema, error) if version == self.version else ()
            label = label_of(version, {*names, *known_elsewhere})
            if not names or label == str(version):
                raise
            raise UnknownParameters(label) from None

    def _with_pages(self, given: dict[str, Any], pages: Pages, names: Set[str]) -> dict[str, Any]:
        """Return the arguments of a job that reads those of these names page by page."""
        later = {name: kind for name, kind in self.paged.items() if name in names}
        rest = json.dumps({name: value for name, value in given.items() if name not in later})
        read: dict[str, Any] = {name: Results.read(pages, name, kind, self.codec) for name, kind in later.items()}
        return self.coder.without(frozenset(later)).decode(rest) | read

    def reads(self, label: str) -> bool:
        """Whether jobs that were parked under this label can be read here: a version, or `1+gift`."""
        version, names = parts_of(label)
        known = [name for name in names if name not in (RESULT, RESULTS)]
        return 0 < version < self.version or (version == self.version and has_names(self.coder.schema, known))

    def call(self, arguments: dict[str, Any], context: Context) -> Any:
        """Call the function; of an async one, the coroutine comes back."""
        if self.context_parameter is not None:
            arguments[self.context_parameter] = context
        return self.function(**arguments)

    def encode_result(self, value: object) -> tuple[str | None, ErrorInfo | None]:
        """Return what the task returned as JSON text, or why it cannot be stored. Never raises."""
        if value is None or not self.store_result:
            return None, None
        return encode_result(value, self.max_result_bytes)

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments, as a job carries them."""
        return json_schema(self.coder.adapter, self.name, inspect.getdoc(self.function))

    def limit_meant(self, name: str | None) -> str | None:
        """Return the rule that RateLimited means: the one it names, or the one that the task's options name last."""
        if isinstance(name, str):
            return rule_name(name)
        return None if self.metering is None else self.metering.last_limit

    def check_priority(self, priority: int | None) -> None:
        """Refuse the priority of a call where jobs run in order: it would let one pass another."""
        if priority is not None and self.metering is not None and self.metering.order is not None:
            raise InvalidOption(
                f"priority={priority} cannot be used: jobs of task {self.name} run in order, so all have the task's "
                f"priority, {self.priority}"
            )

    def rules_of(self, call: Rules | None) -> Rules | None:
        """Return the rules of a call, and those of the task where the call gives none. Raises InvalidOption."""
        if call is None:
            return self.rules
        self.check_names(call)
        return call.with_defaults(self.rules)

    def check_names(self, rules: Rules) -> None:
        """Refuse rules that name an argument the task does not take."""
        signature = self.coder.signature
        unknown = sorted(set(rules.argument_names()) - set(signature.parameters))
        if unknown:
            raise InvalidOption(f"task {self.name} has no parameter {', '.join(unknown)} (it takes {signature})")


def _parameters(task: str, function: Callable[..., Any]) -> tuple[list[inspect.Parameter], str | None]:
    """Return the parameters a caller passes, with annotations evaluated, and the name of the one for the context."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTask(f"task {task}: it yields, so a call would not run it: return a list, or enqueue many jobs")
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception as error:  # annotations are expressions: evaluating one may raise anything
        raise InvalidTask(f"task {task}: its signature cannot be read: {type(error).__name__}: {error}") from error
    if _is_method(function, next(iter(signature.parameters), "")):
        raise InvalidTask(
            f"task {task}: it is a method, and a worker has no object to call it on: make it a function, or a "
            "staticmethod below @app.task"
        )
    contexts: list[inspect.Parameter] = []
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidTask(
                f"task {task}: parameter {str(parameter)!r} has no name to store its value under: arguments are kept "
                "as one JSON object by name, so use ordinary named parameters (a list or dict for many)"
            )
        (contexts if parameter.annotation is Context else parameters).append(parameter)
    if sum(parameter.annotation is Event for parameter in parameters) > 1:
        raise InvalidTask(f"task {task}: one parameter at most is annotated pgqueue.Event: an event makes one job")
    if len(contexts) > 1 or any(Context in get_args(parameter.annotation) for parameter in parameters):
        raise InvalidTask(f"task {task}: one parameter at most is annotated pgqueue.Context, and it is just that")
    return parameters, contexts[0].name if contexts else None


def _may_return_coroutine(function: Callable[..., Any]) -> bool:
    """Whether a `def` wraps an `async def`: it may run that itself, or return its coroutine."""
    return inspect.iscoroutinefunction(inspect.unwrap(function))


def _is_method(function: Callable[..., Any], first: str) -> bool:
    """Whether a function stands in the body of a class and takes the object."""
    outer = getattr(function, "__qualname__", "").rpartition(".")[0]
    return (
        first in ("self", "cls") and outer != "" and not outer.endswith("<locals>") and not inspect.ismethod(function)
    )
