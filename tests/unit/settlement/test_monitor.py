"""The position where matchers are away."""

from libs.reasons import RefusedError, away
from services.settlement.monitor import Monitor


class Store:
    def __init__(self) -> None:
        self.settled: dict[str, int] = {}

    async def counts(self) -> dict[str, int]:
        return dict(self.settled)

    async def open_letters(self) -> int:
        return 0


class Matchers:
    def __init__(self) -> None:
        self.matched: dict[str, int] | None = {}

    async def heads(self) -> dict[str, int]:
        if self.matched is None:
            raise RefusedError(away("matcher"))
        return dict(self.matched)


async def test_what_is_settled_was_matched_also_where_the_matchers_cannot_say_so() -> None:
    store, matchers = Store(), Matchers()
    monitor = Monitor(store=store, matchers=matchers, on_settled=lambda _symbols: None)  # type: ignore[arg-type]
    store.settled, matchers.matched = {"A/B": 3}, {"A/B": 5, "C/D": 1}
    await monitor.look()
    assert monitor.pace.unsettled() == 3
    store.settled, matchers.matched = {"A/B": 7}, None  # two more were matched before it was gone
    await monitor.look()
    assert monitor.position.matched == {"A/B": 7, "C/D": 1}
    assert monitor.pace.unsettled() == 1
    assert not monitor.position.matchers_answer
