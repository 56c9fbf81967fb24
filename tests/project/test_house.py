"""The sizes of the code stay within their limits: `python -m tests.project.house` prints all of them."""

import pytest

from tests.project.house import (
    PARAMETERS,
    ROOT,
    Definition,
    arrows,
    circles,
    definitions,
    graph,
    hidden_imports,
    lines_of,
    module_arrows,
    sources,
)

LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 40
# The settings of an app are keywords of one function, for users and their editors; so are the options of a command.
WIDE = {"pgqueue/app.py: App.__init__"}


@pytest.fixture(scope="module")
def functions() -> list[Definition]:
    return definitions(ROOT)


def test_no_file_is_longer_than_its_limit() -> None:
    assert [place for place, _, text in sources(ROOT) if lines_of(text) > LINES_OF_A_FILE] == []


def test_no_function_is_longer_than_its_limit(functions: list[Definition]) -> None:
    assert [one for one in functions if one.lines > LINES_OF_A_FUNCTION] == []


def test_only_the_app_and_commands_have_many_parameters(functions: list[Definition]) -> None:
    wide = {one.place for one in functions if one.parameters > PARAMETERS and not one.place.startswith("pgqueue/cli/")}
    assert wide <= WIDE


def test_only_commands_import_a_room_when_they_run() -> None:
    assert [place for place in hidden_imports(ROOT) if not place.startswith("pgqueue/cli/")] == []


def test_there_is_no_circle_of_modules_or_of_rooms_not_even_for_types() -> None:
    imports = graph(ROOT)
    assert circles(module_arrows(imports)) == circles(arrows(imports)) == []


def test_a_circle_would_be_seen() -> None:
    assert circles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}) == [["a", "b", "c"]]
