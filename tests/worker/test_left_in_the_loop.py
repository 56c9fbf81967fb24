"""What a job leaves in the event loop does not end its process."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from pgqueue.cli.signals import run_to_end


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_callback_that_raises_does_not_end_a_process_that_handles_ctrl_c(error: type[BaseException]) -> None:
    assert run_to_end(after_a_callback(error, lambda: None)) == 7


def test_ctrl_c_ends_a_process_that_does_not_handle_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_to_end(after_a_callback(KeyboardInterrupt, None))


async def after_a_callback(error: type[BaseException], on_ctrl_c: Callable[[], None] | None) -> int:
    """Return 7 in the turn of the event loop after one whose callback has raised an error."""
    loop = asyncio.get_running_loop()
    if on_ctrl_c is not None:
        loop.add_signal_handler(signal.SIGINT, on_ctrl_c)
    turned = asyncio.Event()

    def fail() -> None:
        loop.call_soon(turned.set)
        raise error

    loop.call_soon(fail)
    await turned.wait()
    return 7
