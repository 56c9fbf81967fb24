"""Tasks: registered functions, how their arguments become JSON, and back."""

import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, get_args

import pydantic_core
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError, with_config
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from typing_extensions import TypedDict

from pgqueue.codecs import Codec
from pgqueue.config import check_name
from pgqueue.error_info import ErrorInfo, storable_text
from pgqueue.errors import InvalidArguments, InvalidOption, InvalidTask
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.retry import RetryPolicy
from pgqueue.tasks.annotations import Hazards, hazards_of, json_schema, stored_defaults, together
from pgqueue.tasks.context import Context
from pgqueue.tasks.many_calls import ManyCalls
from pgqueue.tasks.rules import CallOptions, Rules, named
from pgqueue.tasks.sealing import SEALED, open_args, seal_args
from pgqueue.tasks.storable import MAX_ARGS_BYTES, MAX_BYTES, WRITE, encode_result, hidden_problems, unserialisable
from pgqueue.tasks.versions import Upcaster, check_versions, upcast

OPTIONS = ("queue", "priority", "run_at", "delay", "max_attempts", "tags", *CallOptions.__annotations__)
_READ = ConfigDict(extra="forbid", val_json_bytes="base64", ser_json_bytes="base64")


class ThreadTimeoutWarning(UserWarning):
    """A `def` task has a `timeout`: nothing can stop a thread from outside."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A registered function and the defaults of its jobs."""

    name: str
    function: Callable[..., Any]
    queue: str
    priority: int
    max_attempts: int
    retry: RetryPolicy
    retry_on: tuple[type[BaseException], ...]
    no_retry_on: tuple[type[BaseException], ...]
    tags: tuple[str, ...] = ()
    timeout: float | None = None
    soft_timeout: float | None = None
    isolation: str = "thread"
    max_crashes: int = 5
    retention: int | None = None
    rules: Rules | None = None
    version: int = 1
    upcasters: Mapping[int, Upcaster] = field(default_factory=dict)
    aliases: Sequence[str] = ()
    max_args_bytes: int = MAX_ARGS_BYTES
    codec: Codec | None = field(default=None, repr=False)
    store_result: bool = True
    result_ttl: float | None = None
    max_result_bytes: int = MAX_BYTES
    signature: inspect.Signature = field(init=False)
    context_parameter: str | None = field(init=False)
    defaults: dict[str, Any] = field(init=False)
    stored_defaults: dict[str, Any] | None = field(init=False, default=None)  # as JSON has them; when first wanted
    is_async: bool = field(init=False)  # whether it runs on the event loop and not in a thread
    adapter: TypeAdapter[dict[str, Any]] = field(init=False)
    serializer: pydantic_core.SchemaSerializer = field(init=False)
    many: ManyCalls = field(init=False)
    positional: tuple[str, ...] = field(init=False)
    room: Hazards | None = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.aliases, (list, tuple)):
            raise InvalidTask(f"task {self.name}: aliases={self.aliases!r} cannot be used: give a list of names")
        for name in (self.name, *self.aliases):
            check_name("task", name)
        check_versions(self.name, self.version, self.upcasters)
        parameters, context = _parameters(self.name, self.function)
        object.__setattr__(self, "context_parameter", context)
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(inspect.unwrap(self.function)))
        object.__setattr__(self, "signature", inspect.Signature(parameters))
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        object.__setattr__(self, "defaults", defaults)
        adapter, room = _adapter(self.name, parameters)
        object.__setattr__(self, "adapter", adapter)
        object.__setattr__(self, "room", room)
        if self.rules is not None:
            self.check_names(self.rules)
        if self.isolation not in ("thread", "process"):
            raise InvalidTask(f"task {self.name}: isolation={self.isolation!r} cannot be used: give thread or process")
        if self.timeout is not None and not self.can_be_stopped:
            warnings.warn(
                f"task {self.name}: a thread cannot be stopped, so its timeout is a soft one: the task must call "
                "ctx.check(), be async def, or have isolation='process'",
                ThreadTimeoutWarning,
                stacklevel=4,
            )
        serializer = pydantic_core.SchemaSerializer(adapter.core_schema, WRITE)
        object.__setattr__(self, "serializer", serializer)
        object.__setattr__(self, "many", ManyCalls(adapter.core_schema, self.max_args_bytes, room))
        if self.many.hidden:
            raise InvalidTask(
                f"task {self.name}: parameter {self.many.hidden[0]!r} has an alias, or is excluded: arguments are "
                "stored under the names of their parameters"
            )
        positional = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        object.__setattr__(self, "positional", positional)

    @property
    def soft_limit(self) -> float | None:
        """Seconds after which `ctx.check()` raises."""
        return self.timeout if self.soft_timeout is None else self.soft_timeout

    @property
    def can_be_stopped(self) -> bool:
        """Whether a running call can be ended from outside: anything but a thread."""
        return self.is_async or self.isolation == "process"

    def retries(self, error: BaseException) -> bool:
        """Whether the policy wants another attempt after this error."""
        if isinstance(error, self.no_retry_on):
            return False
        return not self.retry_on or isinstance(error, self.retry_on)

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], keep: list[dict[str, Any]] | None = None) -> str:
        """Return the arguments of one call as JSON text by name, validated against the signature.

        To `keep`, if given, they are added as the function will get them: with its own defaults.
        """
        named = self._named(args, kwargs)
        if named is None:
            named = self._bound(args, kwargs)
        try:
            valid = self.adapter.validator.validate_python(named)
            # What has been validated as a plain type gives no warnings; to ask for them doubles the cost.
            text = self.serializer.to_json(valid, by_alias=False, warnings=True if self.many.plain else "error")
        except ValidationError as error:
            self._bound(args, kwargs)  # a call that does not fit the signature is told so
            raise InvalidArguments(self.name, list(_problems(error))) from None
        except (pydantic_core.PydanticSerializationError, UnicodeError) as error:
            raise InvalidArguments(self.name, unserialisable(valid, error, self.serializer)) from None
        if not self.many.is_harmless(text) or (self.room is not None and self.room.is_suspect(text, valid)):
            problems = hidden_problems(text, valid, self.serializer, "", self.max_args_bytes, self.room)
            if problems:
                raise InvalidArguments(self.name, problems)
        if self.room is not None and self.room.lost:
            self._check_read(text)
        if keep is not None:
            keep.append(self.defaults | valid if self.defaults else valid)
        return text.decode()

    def whole(self, text: str) -> dict[str, Any]:
        """Return the arguments of a call as JSON has them, those that were left to their defaults among them."""
        return self.completed(json.loads(text))

    def completed(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments as JSON has them, and those that were left to their defaults."""
        if self.stored_defaults is None:
            stored = stored_defaults(self.signature.parameters.values(), self.serializer)
            object.__setattr__(self, "stored_defaults", stored)
        return {**(self.stored_defaults or {}), **arguments}

    def encode_many(
        self, calls: Iterable[Mapping[str, Any]], keep: list[dict[str, Any]] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Yield the arguments of many calls as they are stored: how many, and their JSON objects separated by commas.

        To `keep`, if given, they are added as `encode` does. InvalidArguments names the position of the call.
        """
        if self.codec is not None:  # each call is sealed by itself
            for at, call in enumerate(calls):
                yield 1, seal_args(self.codec, self.name, self.encode_at(at, call, keep))
            return
        position = 0
        for block, text, valid in self.many.blocks(calls):
            if text is not None:
                if keep is not None:
                    keep += [self.defaults | call for call in valid] if self.defaults else valid
                yield len(block), text
            else:
                for at, call in enumerate(block, position):
                    yield 1, self.encode_at(at, call, keep)
            position += len(block)

    def encode_at(self, position: int, call: Mapping[str, Any], keep: list[dict[str, Any]] | None = None) -> str:
        """As `encode`, of one of many calls: InvalidArguments says which."""
        try:
            return self.encode((), call, keep)
        except InvalidArguments as error:
            raise InvalidArguments(self.name, [f"call {position}: {p}" for p in error.problems]) from None

    def _check_read(self, text: bytes) -> None:
        """Refuse what its types write otherwise than they read it, and what was changed out of their bounds."""
        try:
            self.decode(text)
        except ValidationError as error:
            problems = [
                f"{p} (as JSON says it; pass plain data, or let the type read what it writes)" for p in _problems(error)
            ]
            raise InvalidArguments(self.name, problems) from None

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a call's arguments by name, if that needs no thought: the validator then finds what does not fit."""
        if type(kwargs) is not dict or len(args) > len(self.positional):
            return None
        if not args:
            return kwargs
        named = dict(zip(self.positional, args, strict=False))
        return named | kwargs if named.keys().isdisjoint(kwargs) else None

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call's arguments by name as Python binds them. Raises InvalidArguments if they do not fit."""
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            raise InvalidArguments(self.name, [f"{kwargs!r:.100} does not give arguments by name (as a dict would)"])
        try:
            return dict(self.signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise InvalidArguments(
                self.name, [*self._misplaced(kwargs), f"{error} (it takes {self.signature})"]
            ) from None

    def arguments(self, job: ClaimedJob) -> dict[str, Any]:
        """Return the keyword arguments of a claimed job: opened, brought to this version, validated.

        Raises UnknownKey, CannotOpen, NewerVersion; what an upcaster raises; pydantic's ValidationError.
        """
        text = job.args
        if text.startswith(SEALED):
            text = open_args(self.codec, job.task, text)
        if job.headers is not None or self.version > 1:
            text = upcast(text, job.headers, self.version, self.upcasters)
        return self.decode(text)

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments, as a job carries them."""
        return json_schema(self.adapter, self.name, inspect.getdoc(self.function))

    def decode(self, text: str | bytes) -> dict[str, Any]:
        """Return the keyword arguments of a stored job. Raises pydantic's ValidationError where they do not fit.

        We write fields of models by their names; whoever inserts by SQL may use aliases, too.
        """
        return self.adapter.validate_json(text, by_alias=True, by_name=True)

    def rules_of(self, call: Rules | None) -> Rules | None:
        """Return the rules of a call, and those of the task where the call says nothing. Raises InvalidOption."""
        if call is None:
            return self.rules
        self.check_names(call)
        return call.over(self.rules)

    def check_names(self, rules: Rules) -> None:
        """Refuse rules that name what is no parameter."""
        unknown = sorted(set(named(rules)) - set(self.signature.parameters))
        if unknown:
            raise InvalidOption(f"task {self.name} has no parameter {', '.join(unknown)} (it takes {self.signature})")

    def encode_result(self, value: object) -> tuple[str | None, ErrorInfo | None]:
        """Return what the task returned as JSON text, or why it cannot be stored. Never raises."""
        if value is None or not self.store_result:
            return None, None
        return encode_result(value, self.max_result_bytes)

    def call(self, arguments: dict[str, Any], context: Context) -> Any:
        """Call the function; of an async one, the coroutine comes back."""
        if self.context_parameter is not None:
            arguments[self.context_parameter] = context
        return self.function(**arguments)

    def _misplaced(self, kwargs: Mapping[str, Any]) -> Iterator[str]:
        for name in kwargs:
            if name not in self.signature.parameters:
                hint = f" (as an option it goes before: using({name}=…).enqueue(…))" if name in OPTIONS else ""
                yield f"{name}: no such parameter{hint}"


def _parameters(task: str, function: Callable[..., Any]) -> tuple[list[inspect.Parameter], str | None]:
    """Return the parameters a caller passes, with annotations evaluated, and the name of the one for the context."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTask(f"task {task}: it yields, so a call would not run it: return a list, or enqueue many jobs")
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception as error:  # annotations are expressions: evaluating one may raise anything
        raise InvalidTask(f"task {task}: its signature cannot be read: {type(error).__name__}: {error}") from error
    contexts: list[inspect.Parameter] = []
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidTask(
                f"task {task}: parameter {str(parameter)!r} has no name to store its value under: arguments are kept "
                "as one JSON object by name, so use ordinary named parameters (a list or dict for many)"
            )
        (contexts if parameter.annotation is Context else parameters).append(parameter)
    if len(contexts) > 1 or any(Context in get_args(parameter.annotation) for parameter in parameters):
        raise InvalidTask(f"task {task}: one parameter at most is annotated pgqueue.Context, and it is just that")
    return parameters, contexts[0].name if contexts else None


def _adapter(task: str, parameters: list[inspect.Parameter]) -> tuple[TypeAdapter[dict[str, Any]], Hazards | None]:
    """Return what validates arguments, and what their types leave room for."""
    fields: dict[str, Any] = {}
    rooms: list[Hazards] = []
    for parameter in parameters:
        kind = Any if parameter.annotation is parameter.empty else parameter.annotation
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(kind)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError) as error:
            raise InvalidTask(
                f"task {task}: parameter {parameter.name!r} is annotated {kind!r}, which cannot be stored as JSON: "
                "take plain data, such as the id of a row, and load the object inside the task"
            ) from error
        if not adapter.pydantic_complete:
            raise InvalidTask(f"task {task}: the annotation {kind!r} of {parameter.name!r} names an unknown type")
        rooms.append(hazards_of(task, parameter.name, kind, adapter.core_schema))
        fields[parameter.name] = kind if parameter.default is parameter.empty else NotRequired[kind]
    shape = with_config(_READ)(TypedDict("Arguments", fields))  # type: ignore[operator]  # built at run time
    return TypeAdapter(shape), together(rooms)


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        yield storable_text(f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}")
