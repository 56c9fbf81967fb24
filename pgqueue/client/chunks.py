"""Bulk calls cut into chunks: one statement carries one chunk."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from pgqueue.jobs.job import NewJob

CHUNK = 5_000  # jobs
CHUNK_BYTES = 16 * 1024 * 1024


def job_chunks(jobs: Sequence[NewJob]) -> Iterator[list[NewJob]]:
    """Yield jobs in chunks."""
    source = iter(jobs)
    while chunk := _chunk(source):
        yield chunk


def _chunk(jobs: Iterator[NewJob]) -> list[NewJob]:
    taken, size = [], 0
    for job in islice(jobs, CHUNK):
        taken.append(job)
        size += len(job.args)
        if size > CHUNK_BYTES:
            break
    return taken


def array_chunks(blocks: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield chunks as pairs: how many jobs, and a JSON array of their arguments.

    `blocks`: pairs of a number of jobs and the JSON objects of their arguments, separated by commas.
    """
    chunk: list[str] = []
    jobs = size = 0
    for count, text in blocks:
        if chunk and (jobs + count > CHUNK or size + len(text) > CHUNK_BYTES):
            yield jobs, f"[{','.join(chunk)}]"
            chunk, jobs, size = [], 0, 0
        chunk.append(text)
        jobs, size = jobs + count, size + len(text)
    if chunk:
        yield jobs, f"[{','.join(chunk)}]"
