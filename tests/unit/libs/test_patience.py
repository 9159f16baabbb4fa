"""What fails in a passing way is done again until its time is over; anything else is told at once."""

import pytest
from tenacity import wait_fixed, wait_none

from libs.patience import patiently


class Fails:
    """Raises what it is given, one after the other, then returns how often it was called."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return self.calls


def is_passing(error: BaseException) -> bool:
    return isinstance(error, OSError)


async def test_what_passes_is_done_again_until_it_works() -> None:
    work = Fails(OSError("one"), OSError("two"))
    assert await patiently(work, is_passing=is_passing, patience_s=60, wait=wait_none()) == 3


async def test_what_does_not_pass_is_told_at_once_also_after_something_that_did() -> None:
    for errors, calls in (([ValueError("bad")], 1), ([OSError("one"), ValueError("bad")], 2)):
        work = Fails(*errors)
        with pytest.raises(ValueError, match="bad"):
            await patiently(work, is_passing=is_passing, patience_s=60, wait=wait_none())
        assert work.calls == calls


async def test_without_patience_there_is_one_try() -> None:
    work = Fails(OSError("one"), OSError("two"))
    with pytest.raises(OSError, match="one"):
        await patiently(work, is_passing=is_passing, patience_s=0, wait=wait_none())
    assert work.calls == 1


async def test_when_patience_is_over_the_last_failure_is_told() -> None:
    work = Fails(*(OSError(str(number)) for number in range(1000)))
    with pytest.raises(OSError, match=r"[1-9]"):
        await patiently(work, is_passing=is_passing, patience_s=0.05, wait=wait_fixed(0.02))
    assert 1 < work.calls < 1000


async def test_it_waits_between_tries_as_it_is_told() -> None:
    waited: list[int] = []

    def wait(state: object) -> float:
        waited.append(state.attempt_number)  # type: ignore[attr-defined]
        return 0

    await patiently(Fails(*[OSError()] * 3), is_passing=is_passing, patience_s=60, wait=wait)  # type: ignore[arg-type]
    assert waited == [1, 2, 3]
