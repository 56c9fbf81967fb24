"""Types that tasks take in tests of arguments, and how a task with one of them is made and called."""

import dataclasses
import enum
import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NotRequired

import pytest
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from typing_extensions import TypedDict

from pgqueue import App, InvalidArguments, Task


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


@dataclasses.dataclass
class Line:
    sku: str
    price: Decimal
    photo: bytes = b""


class Order(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    id: uuid.UUID
    lines: list[Line]
    due: datetime | None = None
    by: Literal["air", "sea"] = "sea"
    colours: dict[str, Colour] = {}


class File(BaseModel):
    data: bytes


class Base64File(File):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Renamed(BaseModel):
    model_config = ConfigDict(extra="forbid", serialize_by_alias=True, ser_json_bytes="base64", val_json_bytes="base64")
    came: int = Field(alias="cameCase")
    lines: list[Line] = Field(validation_alias="Lines", serialization_alias="rows")


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, ser_json_bytes="base64", val_json_bytes="base64")
    id: uuid.UUID
    raw: bytes
    of: frozenset[int]


class Point(NamedTuple):
    x: float
    at: datetime


class Parcel(TypedDict):
    kilos: Decimal
    at: NotRequired[datetime]


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)


class DataclassBase(MappedAsDataclass, DeclarativeBase):
    pass


class Account(DataclassBase):
    """A row that pydantic would write out as a dataclass."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)


def of_kind(kind: Any, **settings: Any) -> Task[..., Any]:
    """A task with one parameter `v` of that type."""

    def task(v): ...  # type: ignore[no-untyped-def]

    task.__annotations__ = {"v": kind}
    return App("unused").task(name="task", **settings)(task)


def back(kind: Any, value: Any) -> Any:
    """The value after it was stored and read."""
    spec = of_kind(kind).spec
    return spec.coder.decode(spec.coder.encode((value,), {}))["v"]


def problems(task: Task[..., Any], *args: Any) -> str:
    """Why a call is refused."""
    with pytest.raises(InvalidArguments) as refused:
        task.spec.coder.encode(args, {})
    return str(refused.value)
