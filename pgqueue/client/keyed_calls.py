"""Many calls with idempotency keys, admitted together: one statement carries the options they share only once."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pgqueue.client.admission import Admitted, KeysChanged
from pgqueue.client.chunks import array_chunks, job_chunks
from pgqueue.client.steps import Steps
from pgqueue.errors import IdempotencyConflict
from pgqueue.jobs.flow import Flow, headers_of_each
from pgqueue.jobs.job import NewJob
from pgqueue.jobs.keys import WINDOW, Conditions, hash_arguments, key_hashes
from pgqueue.queries import Queries, Query
from pgqueue.queries.jobs.enqueue import conditions_of
from pgqueue.queries.jobs.enqueue_keyed import KeyedIds
from pgqueue.queries.jobs.keys import KeyHolder
from pgqueue.tasks.rules import KeyFunction, Rules
from pgqueue.tasks.spec import TaskSpec
from pgqueue.tasks.versions import with_own

Call = Mapping[str, Any]
MakeFlows: TypeAlias = Callable[[Sequence[Call]], list[Flow | None]]


@dataclass(frozen=True, slots=True)
class KeyedChunk:
    """The calls that one statement carries: a JSON array of their arguments, and their positions among all calls."""

    args: str
    positions: Sequence[int]


@dataclass(frozen=True, slots=True)
class KeyedCalls:
    """Calls of one task, some or all with an idempotency key; `hashes` are the keys as the table of keys has them.
    `flows`: the flow of each, where they differ.

    No key comes twice in `chunks`: `first` maps each call whose key came before to the first call with that key. If
    there are several chunks, they go up in the order of keys, and each statement takes its keys in that order. So all
    bulk calls take keys in one order, and no two of them deadlock.
    """

    spec: TaskSpec
    shared: NewJob
    calls: list[Call]
    keys: Sequence[str | None]
    hashes: list[str | None]
    first: Mapping[int, int]
    chunks: list[KeyedChunk]
    by_args: bool
    flows: list[Flow | None] | None = None

    @classmethod
    def of(
        cls, spec: TaskSpec, shared: NewJob, rules: Rules, calls: Iterable[Call], make_flows: MakeFlows | None = None
    ) -> "KeyedCalls":
        """Validate calls, and find those with the same key. `make_flows`, where the flows of the calls differ.

        Raises InvalidArguments, InvalidOption, and IdempotencyConflict for calls with one key and other arguments.
        """
        given = list(calls)
        values: list[dict[str, Any]] | None = [] if isinstance(rules.key, KeyFunction) or make_flows else None
        blocks = list(spec.coder.encode_many(given, values))
        rules.check_key_count(len(given))
        keys = _keys_of_args(spec, given, blocks) if rules.key is True else rules.keys(len(given), values or ())
        hashes = _hashes(spec.name, keys)
        shared = shared.for_call("", Conditions(window=rules.window or WINDOW, expires=rules.expires))
        first = _first_with_key(hashes)
        chunks = [KeyedChunk(text, range(count)) for count, text in array_chunks(blocks)]
        if first or len(chunks) > 1:
            chunks = list(_in_key_order(spec, given, hashes, [at for at in range(len(given)) if at not in first]))
        flows = None if make_flows is None else make_flows(values or ())
        bulk = cls(spec, shared, given, keys, hashes, first, chunks, rules.key is True, flows)
        bulk._check_same_args()
        return bulk

    def __len__(self) -> int:
        return len(self.calls)

    def admitted(self, queries: Queries) -> Steps[Admitted]:
        """Insert the jobs that get their keys, and find the jobs that hold the other keys.

        Raises IdempotencyConflict and KeysChanged.
        """
        ids: dict[int, int] = {}
        refused: list[int] = []
        for chunk in self.chunks:
            answer: KeyedIds = yield self._enqueue(queries, chunk)
            if answer.taken is None and len(chunk.positions) == len(self.calls):
                return Admitted(answer.ids, answer.ids)
            for at, job_id in zip(chunk.positions, answer.ids, strict=True):
                if answer.taken is None or self.hashes[at] is None or job_id in answer.taken:
                    ids[at] = job_id
                else:
                    refused.append(at)
        new = set(ids)
        if refused:
            new |= yield from self._find_holders(queries, refused, ids)
        return Admitted([ids[self.first.get(at, at)] for at in range(len(self))], [ids[at] for at in sorted(new)])

    def _enqueue(self, queries: Queries, chunk: KeyedChunk) -> Query[KeyedIds]:
        hashes = [self.hashes[at] for at in chunk.positions]
        keys = [self.keys[at] for at in chunk.positions]
        if self.flows is None:
            headers = _headers(keys, self.shared)
        else:
            shared = with_own(self.shared.headers, self.shared)
            headers = headers_of_each(shared, [self.flows[at] for at in chunk.positions], keys)
        metered = self.shared.flow is not None or self.flows is not None
        return queries.jobs.enqueue_many_keyed(self.shared, chunk.args, hashes, headers, metered=metered)

    def _find_holders(self, queries: Queries, refused: list[int], ids: dict[int, int]) -> Steps[set[int]]:
        """Add to `ids` the jobs that hold the keys of refused calls. Take expired keys over: return whose they were."""
        holders: list[KeyHolder] = []
        for jobs in job_chunks([self._job(at) for at in refused]):
            before = len(holders)
            found: list[KeyHolder] = yield queries.jobs.find_key_holders(jobs)
            holders += [holder._replace(ord=holder.ord + before) for holder in found]
            if len(found) < len(jobs):
                raise KeysChanged
        expired = []
        for holder in sorted(holders):
            at = refused[holder.ord - 1]
            if holder.expired:
                expired.append(at)
                continue
            if not holder.same_args and not self.by_args:
                raise IdempotencyConflict(self.spec.name, str(self.keys[at]), holder.job_id)
            ids[at] = holder.job_id
        yield from self._take_over(queries, expired, ids)
        return set(expired)

    def _take_over(self, queries: Queries, expired: list[int], ids: dict[int, int]) -> Steps[None]:
        """Insert the jobs of calls whose keys have expired. This call holds keys by now, so it waits for no others."""
        if not expired:
            return
        taken: int = yield queries.jobs.take_expired_keys([str(self.hashes[at]) for at in expired])
        if taken < len(expired):
            raise KeysChanged
        for chunk in _in_key_order(self.spec, self.calls, self.hashes, expired):
            answer: KeyedIds = yield self._enqueue(queries, chunk)
            if answer.taken is not None:
                raise KeysChanged
            ids |= zip(chunk.positions, answer.ids, strict=True)

    def _job(self, at: int) -> NewJob:
        conditions = conditions_of(self.shared)._replace(
            key=self.keys[at], key_hash=self.hashes[at], by_args=self.by_args
        )
        return self.shared.for_call(self.spec.coder.encode_at(at, self.calls[at]), conditions)

    def _check_same_args(self) -> None:
        """Refuse calls with the same key and other arguments."""
        for at, first in self.first.items():
            one, other = (self.spec.coder.encode_at(n, self.calls[n]) for n in (first, at))
            same = self.by_args or one == other or hash_arguments(json.loads(one)) == hash_arguments(json.loads(other))
            if not same:
                raise IdempotencyConflict(self.spec.name, str(self.keys[at]), None)


def _keys_of_args(spec: TaskSpec, calls: list[Call], blocks: list[tuple[int, str]]) -> list[str]:
    """Return keys made of all arguments: of their JSON, before it is sealed."""
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


def _first_with_key(hashes: list[str | None]) -> dict[int, int]:
    """Map each call whose key came before to the first call with that key."""
    if len(set(hashes)) == len(hashes):
        return {}
    seen: dict[str, int] = {}
    return {at: seen[key] for at, key in enumerate(hashes) if key is not None and seen.setdefault(key, at) != at}


def _in_key_order(
    spec: TaskSpec, calls: list[Call], hashes: Sequence[str | None], positions: Iterable[int]
) -> Iterator[KeyedChunk]:
    """Yield calls in the order of their keys. Each is encoded anew, because a text is of a whole block."""
    order = sorted(positions, key=lambda at: hashes[at] or "")
    begin = 0
    for count, text in array_chunks(list(spec.coder.encode_many(calls[at] for at in order))):
        yield KeyedChunk(text, order[begin : begin + count])
        begin += count


def _headers(keys: list[str | None], job: NewJob) -> str:
    """Return the headers of jobs with these keys, a JSON array."""
    shared = with_own(job.headers, job)
    if None in keys:
        bare = json.loads(shared or "{}")
        return json.dumps([bare if key is None else {"idempotency_key": key} | bare for key in keys])
    before = '{"idempotency_key":'
    after = f",{shared[1:]}" if shared else "}"
    return f"[{before}{json.dumps(keys, separators=(f'{after},{before}', ':'))[1:-1]}{after}]"
