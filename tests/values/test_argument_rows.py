"""Rows of an ORM are refused as arguments, wherever they are."""

import re
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel

from pgqueue import App, InvalidArguments, InvalidTask
from tests.values.samples import Account, User, of_kind, problems


@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: [r], lambda r: {"a": (r,)}], ids=["plain", "list", "nested"])
@pytest.mark.parametrize("row", [User(id=1), Account(id=1)], ids=["declarative", "dataclass"])
def test_a_row_of_sqlalchemy_is_refused_wherever_it_is(row: object, wrap: Any) -> None:
    said = f"v: {type(row).__name__} is a row of SQLAlchemy (pass its primary key"
    assert said in problems(of_kind(Any), wrap(row))
    with pytest.raises(InvalidArguments, match=re.escape(said)):
        App("unused").enqueue("elsewhere", {"v": wrap(row)})


def test_a_row_inside_a_model_that_takes_anything_is_refused() -> None:
    class Loose(BaseModel):
        inside: Any

    assert "Account is a row of SQLAlchemy" in problems(of_kind(Loose), Loose(inside=[Account(id=1)]))


@pytest.mark.parametrize("kind", [User, Account, Account | None, list[Account]], ids=str)
def test_a_parameter_that_is_a_row_is_refused_where_it_is_registered(kind: Any) -> None:
    with pytest.raises(InvalidTask, match=r"take (its primary key|plain data, such as the id of a row)"):
        of_kind(kind)


def test_a_row_of_django_is_refused() -> None:
    code = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=[], DATABASES={})
django.setup()
from django.db import models
from pgqueue import App, InvalidArguments
class User(models.Model):
    class Meta:
        app_label = "shop"
app = App("unused")
@app.task(name="t")
def t(user): ...
for value in (User(id=1), [User(id=1)]):
    try:
        t.enqueue(value)
    except InvalidArguments as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = "cannot call t: user: User is a row of Django (pass its primary key, and load it in the task)"
    assert done.stdout.splitlines() == [said, said]
