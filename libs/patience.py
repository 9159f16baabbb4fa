"""Patience with passing faults: what failed is done again, after waits, until the time for it is over.

tenacity sees to that once something has failed, and not before: getting ready for it takes 80 us, which every call of every
batch would pay (a tenth of what a lone order costs the gateway, profiled).
"""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay
from tenacity.wait import wait_base

T = TypeVar("T")


async def patiently(
    work: Callable[[], Awaitable[T]], *, is_passing: Callable[[BaseException], bool], patience_s: float, wait: wait_base
) -> T:
    """What `work` returns, done again while it fails in a passing way. Raises what the last try raised.

    No try is begun after `patience_s`.
    """
    started = time.monotonic()
    try:
        return await work()
    except Exception as error:
        left_s = patience_s - (time.monotonic() - started)
        if left_s <= 0 or not is_passing(error):
            raise
        failures = [error]

    async def again() -> T:
        if failures:  # tenacity begins with the try that has been made
            raise failures.pop()
        return await work()

    retrying = AsyncRetrying(
        retry=retry_if_exception(is_passing), stop=stop_after_delay(left_s), wait=wait, reraise=True
    )
    return await retrying(again)
