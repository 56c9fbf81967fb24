"""Checking one module: a walk over its syntax tree, which knows whether it is in a task, and in a transaction."""

import ast
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pgqueue.celery import app, control, signals
from pgqueue.celery.checking import options
from pgqueue.celery.checking.finding import Finding, Kind
from pgqueue.celery.checking.names import (
    Imports,
    in_celery,
    is_changed_by_the_page,
    is_of_celery,
    is_there,
    module_here,
    remedy_for,
)
from pgqueue.celery.options import TaskOptions
from pgqueue.celery.schedules import crontab
from pgqueue.errors import InvalidPlan

CALLS = ("delay", "apply_async", "delay_on_commit", "apply_async_on_commit")
_TRANSACTIONS = ("atomic", "begin", "begin_nested", "transaction")
_ON_COMMIT = "on_commit"
_NO_JSON = (ast.Set, ast.SetComp, ast.GeneratorExp, ast.Lambda)


class ModuleCheck(ast.NodeVisitor):
    """Finds what a module has of Celery. `lines`: its text, `tasks`: the names of all tasks of the code base."""

    def __init__(self, path: str, tree: ast.Module, lines: Sequence[str], tasks: frozenset[str]) -> None:
        self.path, self.lines, self.tasks = path, lines, tasks
        self.findings: list[Finding] = []
        self.imports = Imports()
        self.imports.visit(tree)
        self._task: ast.FunctionDef | ast.AsyncFunctionDef | None = None
        self._transactions = 0
        self._on_commit = 0
        self._body: list[ast.stmt] = []
        self.visit(tree)

    def add(self, node: ast.AST, verdict: options.Verdict | None) -> None:
        """Keep a finding at a place."""
        if verdict is not None:
            kind, finding_id, what, remedy = verdict
            line = getattr(node, "lineno", 1)
            self.findings.append(Finding(self.path, line, kind, finding_id, what, remedy))

    # --- imports

    def visit_Import(self, node: ast.Import) -> None:
        """Check `import celery` and its like."""
        for alias in node.names:
            if is_of_celery(alias.name):
                self._imported(node, alias.name, None)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Check `from celery import …`."""
        for alias in node.names:
            if node.module and not node.level and is_of_celery(f"{node.module}.{alias.name}"):
                self._imported(node, node.module, alias.name)

    def _imported(self, node: ast.stmt, module: str, name: str | None) -> None:
        written, full = f"import {module}", module
        if name is not None:
            written, full = f"from {module} import {name}", f"{module}.{name}"
        known = in_celery(module)
        here = module_here(known, name)
        new = "import pgqueue.celery as celery" if name is None else f"from {here} import {name}"
        if in_celery(full) != full:  # it was changed already
            there = is_there(in_celery(full))
            kind, remedy = (Kind.MOVES, "") if there else (Kind.CHANGE, remedy_for(known, name))
        elif here is None:
            kind, remedy = Kind.CHANGE, remedy_for(known, name)
        elif is_changed_by_the_page(self.lines[node.lineno - 1], node.col_offset):
            kind, remedy = Kind.MOVES, new
        else:
            kind, remedy = Kind.CHANGE, f"write it by hand, on a line of its own: {new}"
        self.add(node, (kind, "import", written, remedy))

    # --- tasks

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Check a function: a task if a decorator says so."""
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Check an async function."""
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        decorator = next((each for each in node.decorator_list if is_task(each, self.imports)), None)
        outer, body = self._task, self._body
        if decorator is not None:
            self._task = node
            self.add(decorator, (Kind.MOVES, "task", f"task {node.name}", ""))
            for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
                if keyword.arg and keyword.arg != "bind":
                    self.add(keyword.value, options.of_task(keyword.arg, keyword.value))
        for each in node.decorator_list:
            if each is not decorator:
                self.visit(each)
        transaction = any(_named(each) in ("atomic", "commit_on_success") for each in node.decorator_list)
        self._transactions += transaction
        self._statements(node.body)
        self._transactions -= transaction
        self._task, self._body = outer, body

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Check a class of tasks: its attributes are options."""
        if any(self.imports.full(base) in ("celery.Task", "celery.app.task.Task") for base in node.bases):
            self.add(node, (Kind.MOVES, "task", f"class {node.name} of tasks", ""))
            for statement in node.body:
                for target in statement.targets if isinstance(statement, ast.Assign) else ():
                    known = isinstance(target, ast.Name) and target.id in TaskOptions.__annotations__
                    if isinstance(target, ast.Name) and isinstance(statement, ast.Assign) and known:
                        self.add(statement, options.of_task(target.id, statement.value))
        self.generic_visit(node)

    # --- blocks

    def _statements(self, body: list[ast.stmt]) -> None:
        outer, self._body = self._body, body
        for statement in body:
            self.visit(statement)
        self._body = outer

    def visit_With(self, node: ast.With) -> None:
        """Check a block, which may be a transaction."""
        self._with(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        """Check an async block."""
        self._with(node)

    def _with(self, node: ast.With | ast.AsyncWith) -> None:
        found = any(_named(item.context_expr) in _TRANSACTIONS for item in node.items)
        for item in node.items:
            self.visit(item.context_expr)
        self._transactions += found
        self._statements(node.body)
        self._transactions -= found

    def visit_If(self, node: ast.If) -> None:
        """Check both branches."""
        self.visit(node.test)
        self._statements(node.body)
        self._statements(node.orelse)

    # --- calls

    def visit_Call(self, node: ast.Call) -> None:
        """Check a call by what is called."""
        full, name = self.imports.full(node.func), _named(node)
        with self._waiting_for_commit(name == _ON_COMMIT):
            if full in ("celery.Celery", "celery.app.Celery", "celery.app.base.Celery"):
                self._settings(node, ((key.arg, key.value) for key in node.keywords))
            elif full.endswith("schedules.crontab") or full == "celery.crontab":
                self._crontab(node)
            elif name in CALLS or name == "send_task":
                self._enqueued(node, name)
            elif name == "retry" and _named_value(node) in {"self", *self.tasks}:
                self._retried(node)
            elif name == "connect":
                self._connected(node, full)
            elif name == "update" and _is_conf(node.func):
                self._settings(node, ((key.arg, key.value) for key in node.keywords))
            elif full.startswith("kombu."):
                what = f"{full.removeprefix('kombu.')}(…) of kombu has no place"
                self.add(node, (Kind.CHANGE, "queues", what, "take it out: a queue is its name, queue='mail'"))
            elif name == "forget":
                what = ".forget() drops the value; the state stays SUCCESS, where Celery says PENDING"
                self.add(node, (Kind.DIFFERS, "result", what, "look whether something reads the state afterwards"))
            elif name == "get" and _enqueues(node.func) and self._task is not None:
                self.add(
                    node, (Kind.CHANGE, "get-in-task", "a task waits for another one", "use a chain, a chord or link=")
                )
            self.generic_visit(node)

    @contextmanager
    def _waiting_for_commit(self, waits: bool) -> Iterator[None]:
        self._on_commit += waits
        yield
        self._on_commit -= waits

    def _enqueued(self, node: ast.Call, name: str) -> None:
        is_sure = name in ("apply_async", "send_task") or _is_signature(node.func)
        if not is_sure and _named_value(node) not in self.tasks:
            return  # something else has a delay, too
        if self._on_commit:
            self.add(
                node, (Kind.MOVES, "on-commit", f".{name}() after the commit", "app.bind(…) makes on_commit needless")
            )
        elif self._transactions and self._raises_later(node):
            what = (
                f".{name}() in a transaction that may raise afterwards: with app.bind(…) the job goes with the rollback"
            )
            self.add(node, (Kind.DIFFERS, "rolled-back", what, "give transactional=False if the job must stay"))
        elif self._transactions:
            what = f".{name}() in a transaction: with app.bind(…) the job is in it, and exists if that commits"
            self.add(node, (Kind.DIFFERS, "in-transaction", what, "nothing: it mends a race; or transactional=False"))
        else:
            self.add(node, (Kind.MOVES, "call", f".{name}()", ""))
        if name != "delay":
            for keyword in node.keywords:
                if keyword.arg and keyword.arg not in ("args", "kwargs"):
                    self.add(keyword.value, options.of_call(keyword.arg, keyword.value))
        for argument in _arguments(node, name):
            if isinstance(argument, _NO_JSON) or _named(argument) in ("set", "frozenset"):
                what = f"an argument of .{name}() is no JSON: {ast.unparse(argument):.60}"
                self.add(argument, (Kind.CHANGE, "argument", what, "give a list, or the id of a row"))

    def _raises_later(self, node: ast.Call) -> bool:
        later = (each for statement in self._body if statement.lineno > node.lineno for each in ast.walk(statement))
        return any(isinstance(each, ast.Raise) for each in later)

    def _retried(self, node: ast.Call) -> None:
        names = {keyword.arg for keyword in node.keywords} | ({"args"} if node.args else set())
        if names & {"args", "kwargs"}:
            what = "self.retry(args=…, kwargs=…): a job keeps its arguments"
            self.add(node, (Kind.CHANGE, "retry", what, "use self.replace(self.s(…))"))
        asked = options.literal(next((key.value for key in node.keywords if key.arg == "max_retries"), None))
        said = options.literal(_option_of(self._task, "max_retries", self.imports))
        if isinstance(asked, int) and isinstance(said, int) and asked > said:
            what = f"self.retry(max_retries={asked}) asks for more than the task's {said}"
            self.add(node, (Kind.CHANGE, "retry", what, f"give max_retries={asked} to the task"))

    def _connected(self, node: ast.Call, full: str) -> None:
        name = full.removesuffix(".connect").rpartition(".")[2]
        signal = getattr(signals, name, None) if full.startswith("celery.signals.") else None
        if isinstance(signal, signals.Signal) and signal.instead:
            self.add(node, (Kind.CHANGE, "signal", f"signal {name} is never sent", f"use {signal.instead}"))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Check `celery.…`, `app.control.…`, what an app has not, and a signal that decorates."""
        full = self.imports.full(node)
        if full.startswith("celery.") and self.imports.imported(node) and not is_there(full):
            module, _, name = full.rpartition(".")
            self.add(node, (Kind.CHANGE, "import", f"{full} is not in pgqueue.celery", remedy_for(module, name)))
            return  # what it is an attribute of is part of it
        if isinstance(node.value, ast.Attribute) and node.value.attr == "control" and node.attr in control.ELSEWHERE:
            use = f"use {control.ELSEWHERE[node.attr]}"
            self.add(node, (Kind.CHANGE, "control", f"app.control.{node.attr} has no place", use))
        elif (
            isinstance(node.value, ast.Name)
            and node.value.id in ("app", "celery_app")
            and node.attr in app.NOT_HERE
            and self.imports.names
        ):
            self.add(node, (Kind.CHANGE, "app", f"app.{node.attr} has no place", f"use {app.NOT_HERE[node.attr]}"))
        elif node.attr == "connect":
            self._connected(ast.Call(node, [], [], lineno=node.lineno), full)
        self.generic_visit(node)

    # --- settings

    def visit_Assign(self, node: ast.Assign) -> None:
        """Check settings: `app.conf.x = …`, and `CELERY_X = …` of a module of settings."""
        for target in node.targets:
            if isinstance(target, ast.Attribute) and _is_conf(target):
                self._settings(node, [(target.attr, node.value)])
            elif isinstance(target, ast.Name) and target.id.startswith("CELERY_"):
                self._settings(node, [(target.id.removeprefix("CELERY_"), node.value)])
        self.generic_visit(node)

    def _settings(self, node: ast.AST, given: Iterable[tuple[str | None, ast.AST]]) -> None:
        names = {"broker": "broker_url", "backend": "result_backend"}
        for name, value in given:
            if name is None or name in ("include", "set_as_current", "task_cls", "config_source", "namespace"):
                continue
            verdict = options.of_setting(names.get(name, name), value)
            place = value if hasattr(value, "lineno") else node
            self.add(place, verdict or (Kind.MOVES, "setting", f"conf.{name}", ""))

    def _crontab(self, node: ast.Call) -> None:
        given = {key.arg: options.literal(key.value) for key in node.keywords if key.arg}
        if any(value is None for value in given.values()) or node.args:
            return
        try:
            crontab(**given).plan("UTC")
        except (InvalidPlan, TypeError) as error:
            self.add(node, (Kind.CHANGE, "crontab", f"crontab({', '.join(given)}) cannot be used", str(error)))
        else:
            self.add(node, (Kind.MOVES, "crontab", "a crontab", ""))


def is_task(decorator: ast.AST, imports: Imports) -> bool:
    """Whether a decorator makes a task: `@shared_task`, `@app.task`, with or without options."""
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    full = imports.full(node)
    return full in ("celery.shared_task", "celery.app.shared_task") or (
        isinstance(node, ast.Attribute) and node.attr == "task"
    )


def _option_of(task: ast.FunctionDef | ast.AsyncFunctionDef | None, name: str, imports: Imports) -> ast.AST | None:
    for decorator in () if task is None else task.decorator_list:
        if isinstance(decorator, ast.Call) and is_task(decorator, imports):
            return next((key.value for key in decorator.keywords if key.arg == name), None)
    return None


def _named(node: ast.AST) -> str:
    """Return the last part of the name that is used or called: `transaction.atomic()` is `atomic`."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _named_value(node: ast.Call) -> str:
    """Return the name of what has the method that is called: `tasks.mail.delay()` is `mail`."""
    return _named(node.func.value) if isinstance(node.func, ast.Attribute) else ""


def _is_conf(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and _named(node.value) == "conf"


def _is_signature(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and _named(node.value) in ("s", "si", "signature", "chain", "group", "chord")


def _enqueues(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call) and _named(node.value) in CALLS


def _arguments(node: ast.Call, name: str) -> Iterator[ast.AST]:
    """Yield the expressions that are arguments of the task."""
    if name in ("delay", "delay_on_commit"):
        yield from (*node.args, *(key.value for key in node.keywords))
        return
    for given in (*node.args, *(key.value for key in node.keywords if key.arg in ("args", "kwargs"))):
        if isinstance(given, (ast.Tuple, ast.List)):
            yield from given.elts
        elif isinstance(given, ast.Dict):
            yield from given.values
