"""The arguments of a task: from a call to JSON text, and back to the keyword arguments of a run."""

import inspect
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NotRequired

import pydantic_core
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError, with_config
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic_core import from_json
from typing_extensions import TypedDict

from pgqueue.codecs import Codec
from pgqueue.error_info import storable_text
from pgqueue.errors import InvalidArguments, InvalidTask
from pgqueue.tasks.block_coder import BlockCoder
from pgqueue.tasks.hazards import Hazards, combined, hazards_of
from pgqueue.tasks.options import CallOptions
from pgqueue.tasks.schema import json_schema
from pgqueue.tasks.sealing import seal_args
from pgqueue.tasks.storable import MAX_ARGS_BYTES, WRITE, hidden_problems, unserialisable

_READ = ConfigDict(extra="forbid", val_json_bytes="base64", ser_json_bytes="base64")


@dataclass(frozen=True)
class ArgumentCoder:
    """Validates the arguments of one task and writes those of a call as one JSON object by name; and reads them.

    `positional` are the parameters that a call may pass by position, `defaults` the defaults of the function, `hazards`
    the unsafe values that its annotations allow (None: they allow none).
    """

    task: str
    signature: inspect.Signature
    positional: tuple[str, ...]
    defaults: dict[str, Any]
    adapter: TypeAdapter[dict[str, Any]]
    serializer: pydantic_core.SchemaSerializer
    blocks: BlockCoder
    hazards: Hazards | None
    max_bytes: int
    codec: Codec | None

    @classmethod
    def of(
        cls, task: str, parameters: list[inspect.Parameter], max_bytes: int = MAX_ARGS_BYTES, codec: Codec | None = None
    ) -> "ArgumentCoder":
        """Return the coder of a task with these parameters. Raises InvalidTask for one that cannot be stored."""
        adapter, hazards = _adapter(task, parameters)
        blocks = BlockCoder(adapter.core_schema, max_bytes, hazards)
        if blocks.renamed:
            raise InvalidTask(
                f"task {task}: parameter {blocks.renamed[0]!r} has an alias, or is excluded: arguments are "
                "stored under the names of their parameters"
            )
        return cls(
            task,
            inspect.Signature(parameters),
            tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD),
            {p.name: p.default for p in parameters if p.default is not p.empty},
            adapter,
            pydantic_core.SchemaSerializer(adapter.core_schema, WRITE),
            blocks,
            hazards,
            max_bytes,
            codec,
        )

    @cached_property
    def stored_defaults(self) -> dict[str, Any]:
        """The defaults as JSON has them. Made when first needed, since validators of the user's run for it.

        A default that is no valid argument is missing: no call can pass it.
        """
        stored: dict[str, Any] = {}
        for name, default in self.defaults.items():
            annotation = self.signature.parameters[name].annotation
            try:
                valid = TypeAdapter(_kind(annotation)).validate_python(default)
                stored |= from_json(self.serializer.to_json({name: valid}, warnings="error"))
            except Exception:  # noqa: BLE001, S112 - validators are the user's code: they may raise anything
                continue
        return stored

    @cached_property
    def _partial(self) -> dict[Collection[str], "ArgumentCoder"]:
        return {}

    def without(self, names: frozenset[str]) -> "ArgumentCoder":
        """Return the coder of a call that leaves out these parameters, since their arguments come later."""
        coder = self._partial.get(names)
        if coder is None:
            left = [each for name, each in self.signature.parameters.items() if name not in names]
            coder = self._partial[names] = ArgumentCoder.of(self.task, left, self.max_bytes, self.codec)
        return coder

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], keep: list[dict[str, Any]] | None = None) -> str:
        """Return the arguments of one call as JSON text by name, validated against the signature.

        They are appended to `keep`, if given, as the function will get them: with its own defaults.
        """
        named = self._named(args, kwargs)
        if named is None:
            named = self._bound(args, kwargs)
        try:
            valid = self.adapter.validator.validate_python(named)
            # Values that were validated as a plain type give no warnings, and asking for warnings doubles the cost.
            text = self.serializer.to_json(valid, by_alias=False, warnings=True if self.blocks.is_plain else "error")
        except ValidationError as error:
            self._bound(args, kwargs)  # a call that does not fit the signature is refused for that
            raise InvalidArguments(self.task, list(problems_of(error))) from None
        except (pydantic_core.PydanticSerializationError, UnicodeError) as error:
            raise InvalidArguments(self.task, unserialisable(valid, error, self.serializer)) from None
        if not self.blocks.is_harmless(text) or (self.hazards is not None and self.hazards.may_be_in(text, valid)):
            problems = hidden_problems(text, valid, self.serializer, "", self.max_bytes, self.hazards)
            if problems:
                raise InvalidArguments(self.task, problems)
        if self.hazards is not None and self.hazards.one_way:
            self._check_read(text)
        if keep is not None:
            keep.append(self.defaults | valid if self.defaults else valid)
        return text.decode()

    def encode_many(
        self, calls: Iterable[Mapping[str, Any]], keep: list[dict[str, Any]] | None = None
    ) -> Iterator[tuple[int, str]]:
        """Yield the arguments of many calls as they are stored: how many, and their JSON objects separated by commas.

        They are appended to `keep`, if given, as `encode` does. InvalidArguments names the position of the call.
        """
        if self.codec is not None:  # each call is sealed by itself
            for at, call in enumerate(calls):
                yield 1, seal_args(self.codec, self.task, self.encode_at(at, call, keep))
            return
        position = 0
        for block, text, valid in self.blocks.encode(calls):
            if text is not None:
                if keep is not None:
                    keep += [self.defaults | call for call in valid] if self.defaults else valid
                yield len(block), text
            else:
                for at, call in enumerate(block, position):
                    yield 1, self.encode_at(at, call, keep)
            position += len(block)

    def encode_at(self, position: int, call: Mapping[str, Any], keep: list[dict[str, Any]] | None = None) -> str:
        """Return what `encode` does, for one of many calls: InvalidArguments names its position."""
        try:
            return self.encode((), call, keep)
        except InvalidArguments as error:
            raise error.at(position) from None

    def decode(self, text: str | bytes) -> dict[str, Any]:
        """Return the keyword arguments of a stored job. Raises pydantic's ValidationError where they do not fit.

        We write fields of models by their names; an insert by SQL may use their aliases, too.
        """
        arguments: dict[str, Any] = self.adapter.validator.validate_json(text, by_alias=True, by_name=True)
        return arguments

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments; where a type of the user's refuses to have one, the parameters alone."""
        try:
            return json_schema(self.adapter, self.task, None)
        except Exception:  # noqa: BLE001 - types of the user's may have code for this, which may raise anything
            return {"properties": {name: {} for name in self.signature.parameters}}

    def complete(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments of a call as JSON has them, and the defaults of those that the call left out."""
        return {**self.stored_defaults, **arguments}

    def complete_text(self, text: str) -> dict[str, Any]:
        """Return what `complete` does, of arguments as JSON text."""
        return self.complete(json.loads(text))

    def _check_read(self, text: bytes) -> None:
        """Refuse arguments that cannot be read back: their types write them otherwise than they read them, or a model
        was changed out of its bounds."""
        try:
            self.decode(text)
        except ValidationError as error:
            problems = [
                f"{p} (as JSON says it; pass plain data, or let the type read what it writes)"
                for p in problems_of(error)
            ]
            raise InvalidArguments(self.task, problems) from None

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a call's arguments by name, if no binding is needed: the validator then finds what does not fit."""
        if type(kwargs) is not dict or len(args) > len(self.positional):
            return None
        if not args:
            return kwargs
        named = dict(zip(self.positional, args, strict=False))
        return named | kwargs if named.keys().isdisjoint(kwargs) else None

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call's arguments by name as Python binds them. Raises InvalidArguments if they do not fit."""
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            raise InvalidArguments(self.task, [f"{kwargs!r:.100} does not give arguments by name (as a dict would)"])
        try:
            return dict(self.signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise InvalidArguments(
                self.task, [*self._misplaced(kwargs), f"{error} (it takes {self.signature})"]
            ) from None

    def _misplaced(self, kwargs: Mapping[str, Any]) -> Iterator[str]:
        for name in kwargs:
            if name not in self.signature.parameters:
                is_option = name in CallOptions.__annotations__
                hint = f" (as an option it goes before: using({name}=…).enqueue(…))" if is_option else ""
                yield f"{name}: no such parameter{hint}"


def _kind(annotation: Any) -> Any:
    return Any if annotation is inspect.Parameter.empty else annotation


def _adapter(task: str, parameters: list[inspect.Parameter]) -> tuple[TypeAdapter[dict[str, Any]], Hazards | None]:
    """Return the validator of a task's arguments, and the unsafe values that their types allow."""
    fields: dict[str, Any] = {}
    found: list[Hazards] = []
    for parameter in parameters:
        kind = _kind(parameter.annotation)
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(kind)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError) as error:
            raise InvalidTask(
                f"task {task}: parameter {parameter.name!r} is annotated {kind!r}, which cannot be stored as JSON: "
                "take plain data, such as the id of a row, and load the object inside the task"
            ) from error
        if not adapter.pydantic_complete:
            raise InvalidTask(f"task {task}: the annotation {kind!r} of {parameter.name!r} names an unknown type")
        found.append(hazards_of(task, parameter.name, kind, adapter.core_schema))
        fields[parameter.name] = kind if parameter.default is parameter.empty else NotRequired[kind]
    shape = with_config(_READ)(TypedDict("Arguments", fields))  # type: ignore[operator]  # built at run time
    return TypeAdapter(shape), combined(found)


def problems_of(error: ValidationError) -> Iterator[str]:
    """Yield what is wrong with each argument, without its value."""
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        yield storable_text(f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}")
