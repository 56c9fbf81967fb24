"""Bulk calls cut into what one statement should carry."""

from collections.abc import Iterator, Sequence
from itertools import islice

from pgqueue.jobs.job import NewJob

CHUNK = 5_000
CHUNK_BYTES = 16 * 1024 * 1024


def chunks(jobs: Sequence[NewJob]) -> Iterator[list[NewJob]]:
    """Yield what one statement should carry."""
    source = iter(jobs)
    while part := _chunk(source):
        yield part


def _chunk(jobs: Iterator[NewJob]) -> list[NewJob]:
    taken, size = [], 0
    for job in islice(jobs, CHUNK):
        taken.append(job)
        size += len(job.args)
        if size > CHUNK_BYTES:
            break
    return taken


def arrays(blocks: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield JSON arrays of what one statement should carry, and how many jobs each is.

    `blocks`: so many jobs, and their JSON objects separated by commas.
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
