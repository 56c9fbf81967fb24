"""Many calls with idempotency keys that are let in together: what they share is said once, as without keys."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgqueue.client.admission import Admitted, Again
from pgqueue.client.chunks import arrays, chunks
from pgqueue.db.steps import Steps
from pgqueue.errors import IdempotencyConflict
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.keys import WINDOW, Conditions, hash_arguments, key_hashes
from pgqueue.queries import Queries
from pgqueue.queries.jobs.enqueue import AdmissionResult, conditions_of
from pgqueue.queries.jobs.enqueue_keyed import KeyedIds
from pgqueue.queries.jobs.keys import KeyHolder
from pgqueue.tasks.rules import KeyFunction, Rules
from pgqueue.tasks.spec import TaskSpec
from pgqueue.tasks.versions import with_version

Call = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """What one statement carries: a JSON array of arguments, and which of the calls they belong to."""

    args: str
    places: Sequence[int]


@dataclass(frozen=True, slots=True)
class KeyedCalls:
    """Calls of one task, each with a key (`hash` is the one the database knows) or without.

    No two in `parts` have the same key: `first` says which call stands for one that is not there. If there are several
    parts, the keys in each are greater than those in the part before, and each statement takes its keys in order. So
    all keys of a call are taken in one order, and no two calls wait for each other in a circle.
    """

    spec: TaskSpec
    like: NewJob
    calls: list[Call]
    keys: Sequence[str | None]
    hashes: list[str | None]
    first: Mapping[int, int]
    parts: list[Part]
    by_args: bool

    @classmethod
    def of(cls, spec: TaskSpec, like: NewJob, rules: Rules, calls: Iterable[Call]) -> "KeyedCalls":
        """Validate calls, and put those with the same key together.

        Raises InvalidArguments, InvalidOption, and IdempotencyConflict for one key that stands for two requests.
        """
        given = list(calls)
        values: list[dict[str, Any]] | None = [] if isinstance(rules.key, KeyFunction) else None
        blocks = list(spec.coder.encode_many(given, values))
        rules.check_key_count(len(given))
        keys = _by_args(spec, given, blocks) if rules.key is True else rules.keys(len(given), values or ())
        hashes = _hashes(spec.name, keys)
        like = like.again("", Conditions(window=rules.window or WINDOW, expires=rules.expires))
        first = _first(hashes)
        parts = [Part(text, range(count)) for count, text in arrays(blocks)]
        if first or len(parts) > 1:
            parts = list(_sorted(spec, given, hashes, first))
        bulk = cls(spec, like, given, keys, hashes, first, parts, rules.key is True)
        bulk._check_same()
        return bulk

    def __len__(self) -> int:
        return len(self.calls)

    def admitted(self, queries: Queries) -> Steps[Admitted]:
        """Let them in, or find the jobs in their place. Raises IdempotencyConflict, and Again."""
        ids: dict[int, int] = {}
        left: list[int] = []
        for part in self.parts:
            answer: KeyedIds = yield self._enqueue(queries, part)
            if answer.taken is None and len(part.places) == len(self.calls):
                return Admitted(answer.ids, answer.ids)
            for at, job_id in zip(part.places, answer.ids, strict=True):
                if answer.taken is None or self.hashes[at] is None or job_id in answer.taken:
                    ids[at] = job_id
                else:
                    left.append(at)
        new = set(ids)
        if left:
            new |= yield from self._meet(queries, left, ids)
        return Admitted([ids[self.first.get(at, at)] for at in range(len(self))], [ids[at] for at in sorted(new)])

    def _enqueue(self, queries: Queries, part: Part) -> Any:
        hashes = [self.hashes[at] for at in part.places]
        headers = _headers([self.keys[at] for at in part.places], self.like.version)
        return queries.jobs.enqueue_many_keyed(self.like, part.args, hashes, headers)

    def _meet(self, queries: Queries, left: list[int], ids: dict[int, int]) -> Steps[set[int]]:
        """Find who has the keys of those that were not let in. Keys whose time is over are taken over: return which."""
        jobs = [self._job(at) for at in left]
        found: list[KeyHolder] = []
        for part in chunks(jobs):
            before = len(found)
            found += [key._replace(ord=key.ord + before) for key in (yield queries.jobs.find_key_holders(part))]
            if len(found) < before + len(part):
                raise Again
        over = []
        for key in sorted(found):
            at = left[key.ord - 1]
            if key.expired:
                over.append(at)
                continue
            if not key.same_args and not self.by_args:
                raise IdempotencyConflict(self.spec.name, str(self.keys[at]), key.job_id)
            ids[at] = key.job_id
        yield from self._take_over(queries, over, ids)
        return set(over)

    def _take_over(self, queries: Queries, over: list[int], ids: dict[int, int]) -> Steps[None]:
        """Let in calls whose keys belong to nobody any more. Other keys are held by now, so nobody is waited for."""
        if not over:
            return
        taken: int = yield queries.jobs.take_expired_keys([str(self.hashes[at]) for at in over])
        if taken < len(over):
            raise Again
        entries: list[AdmissionResult] = []
        for part in chunks([self._job(at) for at in over]):
            entries += yield queries.jobs.enqueue_conditionally(part)
        if not all(entry.admitted for entry in entries):
            raise Again
        ids |= {at: entry.id for at, entry in zip(over, entries, strict=True)}

    def _job(self, at: int) -> NewJob:
        shared = conditions_of(self.like)
        conditions = shared._replace(key=self.keys[at], key_hash=self.hashes[at], by_args=self.by_args)
        return self.like.again(self.spec.coder.encode_at(at, self.calls[at]), conditions)

    def _check_same(self) -> None:
        """Refuse calls with the same key and other arguments."""
        for at, first in self.first.items():
            one, other = (self.spec.coder.encode_at(n, self.calls[n]) for n in (first, at))
            same = self.by_args or one == other or hash_arguments(json.loads(one)) == hash_arguments(json.loads(other))
            if not same:
                raise IdempotencyConflict(self.spec.name, str(self.keys[at]), None)


def _by_args(spec: TaskSpec, calls: list[Call], blocks: list[tuple[int, str]]) -> list[str]:
    """Return keys made of all arguments, as JSON has them before they are sealed."""
    if spec.codec is not None:
        texts = [spec.coder.encode_at(at, call) for at, call in enumerate(calls)]
    else:
        texts = [text for _, text in blocks]
    return [
        hash_arguments(spec.coder.complete(arguments), spec.name) for arguments in json.loads(f"[{','.join(texts)}]")
    ]


def _hashes(task: str, keys: Sequence[str | None]) -> list[str | None]:
    hashes = iter(key_hashes(task, [key for key in keys if key is not None]))
    return list(hashes) if None not in keys else [None if key is None else next(hashes) for key in keys]


def _first(hashes: list[str | None]) -> dict[int, int]:
    """Say of each call whose key stood there before which was the first with it."""
    if len(set(hashes)) == len(hashes):
        return {}
    seen: dict[str, int] = {}
    return {at: seen[key] for at, key in enumerate(hashes) if key is not None and seen.setdefault(key, at) != at}


def _sorted(spec: TaskSpec, calls: list[Call], hashes: list[str | None], first: Mapping[int, int]) -> Iterator[Part]:
    """Yield the calls, each key once, in the order of their keys. They are written anew, for texts are of a block."""
    order = sorted((at for at in range(len(calls)) if at not in first), key=lambda at: hashes[at] or "")
    begin = 0
    for count, text in arrays(list(spec.coder.encode_many(calls[at] for at in order))):
        yield Part(text, order[begin : begin + count])
        begin += count


def _headers(keys: list[str | None], version: int) -> str:
    """Return the headers of jobs with these keys, a JSON array."""
    shared = with_version(None, version)
    if None in keys:
        bare = json.loads(shared or "{}")
        return json.dumps([bare if key is None else {"idempotency_key": key} | bare for key in keys])
    before = '{"idempotency_key":'
    after = f",{shared[1:]}" if shared else "}"
    return f"[{before}{json.dumps(keys, separators=(f'{after},{before}', ':'))[1:-1]}{after}]"
