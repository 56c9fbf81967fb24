"""Random canvases, nested in any way, against an oracle that knows what each form means and no graph."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgqueue import App, Canvas, Signature, chain, chord, group
from pgqueue.client.canvas import building
from tests.values.graphs import Player

app = App("postgresql://nowhere")


@app.task(name="step")
def step(value: Any = None, more: Any = None, *, id: int) -> int:  # noqa: A002
    return id


@app.task(name="needs")
def needs(value: Any, *, id: int) -> int:  # noqa: A002
    return id


@dataclass(frozen=True)
class Form:
    """A canvas as it was drawn. `kind`: step, si, chain, group, chord; `id`: of a job."""

    kind: str
    id: int = -1
    parts: tuple["Form", ...] = ()
    callbacks: tuple[tuple[str, "Form"], ...] = ()

    def jobs(self) -> Iterator["Form"]:
        """Its jobs, without those of callbacks."""
        if self.id >= 0:
            yield self
        for part in self.parts:
            yield from part.jobs()


def job() -> st.SearchStrategy[Form]:
    return st.sampled_from([Form("step", 0), Form("si", 0)])


def nested(inner: st.SearchStrategy[Form]) -> st.SearchStrategy[Form]:
    several = st.lists(inner, max_size=4).map(tuple)
    some = st.lists(inner, min_size=1, max_size=4).map(tuple)
    return st.one_of(
        some.map(lambda parts: Form("chain", parts=parts)),
        several.map(lambda parts: Form("group", parts=parts)),
        st.tuples(several, inner).map(lambda two: Form("chord", parts=(Form("group", parts=two[0]), two[1]))),
        st.tuples(inner, st.sampled_from("sfe")).map(
            lambda two: replace(two[0], callbacks=((two[1], Form("needs", 0)),))
        ),
    )


def numbered(form: Form, start: list[int]) -> Form:
    """The same form, with a number of its own for each job."""
    own = form.id
    if own >= 0:
        own, start[0] = start[0], start[0] + 1
    parts = tuple(numbered(part, start) for part in form.parts)
    return Form(form.kind, own, parts, tuple((when, numbered(each, start)) for when, each in form.callbacks))


FORMS = st.recursive(job(), nested, max_leaves=14).map(lambda form: numbered(form, [0]))


def drawn(form: Form) -> Canvas[Any, Any]:
    """The canvas of a form, made by the public functions."""
    made: Canvas[Any, Any]
    match form.kind:
        case "step":
            made = step.s(id=form.id)
        case "needs":
            made = needs.s(id=form.id)
        case "si":
            made = step.si(id=form.id)
        case "chain":
            made = chain([drawn(part) for part in form.parts])
        case "chord":
            header, body = form.parts
            made = chord([drawn(part) for part in header.parts], drawn(body))
        case _:
            made = group(drawn(part) for part in form.parts)
    for when, callback in form.callbacks:
        verb = {"s": made.on_success, "f": made.on_error, "e": made.on_complete}[when]
        made = verb(drawn(callback))
    return made


@dataclass
class Meaning:
    """What a form means: for each job its state, what it got and what had ended before it."""

    fails: frozenset[int]
    states: dict[int, str] = field(default_factory=dict)
    got: dict[int, Any] = field(default_factory=dict)
    before: dict[int, set[int]] = field(default_factory=dict)

    def run(self, form: Form, value: Any, before: set[int], goes_on: bool) -> tuple[Any, set[int], bool]:
        """Run a form behind others; return its value, what has ended then, and whether all has succeeded.

        A value is None, `[id]` in a tuple, or a list.
        """
        if form.id >= 0:
            ends = self._job(form, value, before, goes_on)
        elif form.kind in ("chain", "chord"):
            ends = (value, before, goes_on)
            for part in form.parts:
                ends = self.run(part, *ends)
        else:
            found: list[Any] = []
            after, all_well = set(before), goes_on
            for part in form.parts:
                part_value, part_after, is_well = self.run(part, value, before, goes_on)
                found += part_value if isinstance(part_value, list) else list(part_value)
                after |= part_after
                all_well = all_well and is_well
            ends = (found, after, all_well)
        for when, callback in form.callbacks:
            self._callback(form, when, callback, ends)
        return ends

    def _job(self, form: Form, value: Any, before: set[int], goes_on: bool) -> tuple[Any, set[int], bool]:
        self.before[form.id] = set(before)
        if not goes_on:
            self.states[form.id] = "cancelled"
        else:
            self.states[form.id] = "failed" if form.id in self.fails else "succeeded"
            if form.kind != "si" and value is not None:
                self.got[form.id] = value if isinstance(value, list) else value[0]
        return (form.id,), {*before, form.id}, self.states[form.id] == "succeeded"

    def _callback(self, form: Form, when: str, callback: Form, ends: tuple[Any, set[int], bool]) -> None:
        inside = [each.id for each in form.jobs()]
        value, after, is_well = ends
        if when == "s":
            self._job(callback, value, after, is_well)
            return
        if not inside:
            if when == "e":
                self._job(callback, [], after, True)
            return
        how = [self.states[each] for each in inside]
        runs = when == "e" or "failed" in how
        self._job(callback, how if form.id < 0 else (how[0],), after | set(inside), runs)


@pytest.mark.parametrize("most_edges", [1, 4, 64])
@settings(max_examples=300, deadline=None)
@given(form=FORMS, fails=st.frozensets(st.integers(0, 20), max_size=3))
@example(form=numbered(Form("chain", parts=(Form("step", 0), Form("group"), Form("step", 0))), [0]), fails=frozenset())
@example(form=Form("group", callbacks=(("e", Form("needs", 0)), ("s", Form("needs", 1)))), fails=frozenset())
def test_a_canvas_compiles_to_a_graph_that_means_the_same(most_edges: int, form: Form, fails: frozenset[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "MOST_EDGES", most_edges)
        graph = drawn(form).compile()
    meaning = Meaning(fails)
    meaning.run(form, None, set(), True)
    ids = [id_of(node.args) for node in graph.nodes]
    played = Player(graph, [at for at, each in enumerate(ids) if each in fails], lambda node: ids[node]).play()
    assert sorted(ids) == sorted(meaning.states)
    for node, each in enumerate(ids):
        assert played.states[node] == meaning.states[each]
        assert {ids[other] for other in played.before[node]} == meaning.before[each]
        if played.states[node] != "cancelled":
            assert played.arguments[node].get("value") == meaning.got.get(each)


def id_of(args: str) -> int:
    return int(json.loads(args)["id"])


@given(form=FORMS)
def test_edges_are_few_or_a_group_takes_their_place(form: Form) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "MOST_EDGES", 4)
        graph = group(drawn(form), *(step.s(id=n) for n in range(100, 110))).compile()
        after = chain(group(step.s(id=n) for n in range(100, 110)), group(step.s(id=n) for n in range(10))).compile()
    assert graph.groups[0].parent is None
    assert len(after.edges) == 10
    assert len(after.groups) == 2


def test_signatures_are_values_that_a_canvas_never_changes() -> None:
    one: Signature[Any, int] = step.s(id=1)
    assert len(one.on_error(needs.s(id=2)).compile().nodes) == 2
    assert len(one.compile().nodes) == 1
    assert len((one | one | one).compile().nodes) == 3
