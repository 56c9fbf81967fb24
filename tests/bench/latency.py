"""How long a job waits for an idle worker: from before the call that enqueues it to the start of its body."""

import time

from . import track
from .drain import quantile
from .results import Record
from .session import BenchSession

LATE_SECONDS = 10.0
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


def latency(session: BenchSession, n: int, hertz: float, producers: int = 1) -> Record:
    """Enqueue at a fixed rate, each job with its own commit; times include that commit."""
    database = session.fresh()
    each = n // producers
    calls = [["rate", k * each, each, hertz / producers] for k in range(producers)]
    with session.timed():
        database.settle()
        with session.working(session.options()):
            time.sleep(session.settings.warm)  # so that it has started and is idle
            with session.producing(*calls) as started:
                for producer in started:
                    producer.go()
                answers = [producer.answer() for producer in started]
            track.wait_for(session.track, each * producers, LATE_SECONDS)
    sent = [at for answer in answers for at in answer["sent"]]
    reached = each * producers / max(answer["seconds"] for answer in answers)
    return _waits(session, sent) | {"asked_s": hertz, "jobs_s": round(reached, 1), "producers": producers}


def _waits(session: BenchSession, sent: list[float]) -> Record:
    began = {record.i: record.at for record in track.read(session.track)}
    waits = sorted(began[i] - at for i, at in enumerate(sent) if i in began)
    if not waits:
        raise RuntimeError(f"no job ran: {session.log()}")
    quantiles = {str(share): quantile(waits, share) for share in SHARES}
    return {
        "jobs": len(sent), "p50_ms": quantile(waits, 0.5), "p95_ms": quantile(waits, 0.95),
        "p99_ms": quantile(waits, 0.99), "max_ms": round(waits[-1] * 1000, 2), "quantiles_ms": quantiles,
        "ok": len(waits) == len(sent),
    }  # fmt: skip
