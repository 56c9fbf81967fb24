"""The reasons of a job, said to somebody for whom there are only some queues: other jobs are counted, not named."""

import re
from collections.abc import Collection, Iterable
from dataclasses import replace

from pgqueue.client.why import parents_in_words
from pgqueue.jobs.why import Reason

_HOLDERS = re.compile(r" \(jobs? [0-9]+(, [0-9]+)*(, …)?\)\.$")


def reasons_within(reasons: Iterable[Reason], queues: Collection[str] | None) -> list[Reason]:
    """Return reasons without the names of jobs in other queues; unchanged where `queues` is None."""
    return list(reasons) if queues is None else [replace(each, text=_text(each, queues)) for each in reasons]


def _text(reason: Reason, queues: Collection[str]) -> str:
    facts = reason.facts
    match reason.code:
        case "waits_for_jobs":
            named = [parent for parent in facts["parents"] if parent.queue in queues]
            return parents_in_words(facts["edges"], facts["left"], named, "other")
        case "replaced":
            return "It was replaced by other jobs, and ends when these have ended."
        case "skipped_for" if not {facts["queue"], facts["cause"]["queue"]} <= set(queues):
            return f"It {'is' if reason.text.startswith('It is ') else 'was'} skipped because of another job."
        case "waits_for_calls":
            return f"It waits for {facts['left']} of {facts['calls']} calls ({facts['step']!r})."
        case "full" | "probed":  # a limit may be shared by tasks of several queues, and so may an order
            return _HOLDERS.sub(".", reason.text)
        case "order":
            return reason.text.replace(f": job {facts['head']} ", ": another job ")
        case _:
            return reason.text
