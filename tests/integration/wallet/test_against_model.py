"""The ledger on PostgreSQL against the obvious model: any operations, concurrent, repeated, in any order of batches."""

import asyncio
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from libs.ids import new_id
from libs.reasons import Refused
from services.wallet.audit import CHECKS, audit
from services.wallet.auditor import TRY_LOCK, Auditor
from services.wallet.core.operations import (
    CancelWithdrawal,
    ConfirmWithdrawal,
    Deposit,
    Increase,
    Release,
    RequestWithdrawal,
    Reserve,
    SettleTrade,
    Transfer,
)
from services.wallet.intake import Intake
from tests.support.ledger import ModelLedger, ledgers

USERS, ORDERS, KEYS = 3, 4, 4
amounts = st.integers(1, 60)
users, orders, keys = st.integers(0, USERS - 1), st.integers(0, ORDERS - 1), st.integers(0, KEYS - 1)
assets = st.sampled_from(["BTC", "USDT"])
operations = st.one_of(
    st.tuples(st.just("deposit"), users, assets, amounts, keys),
    st.tuples(st.just("reserve"), users, assets, amounts, orders),
    st.tuples(st.just("release"), users, assets, st.none() | amounts, orders, keys),
    st.tuples(st.just("settle"), keys, users, orders, users, orders, amounts),
    st.tuples(st.just("increase"), users, assets, amounts, orders, keys),
    st.tuples(st.just("transfer"), users, users, assets, amounts, keys),
    st.tuples(st.just("withdraw"), users, assets, amounts, keys),
    st.tuples(st.sampled_from(["confirm", "cancel"]), users, assets, keys),
)


class Names:
    """Fresh ids for small numbers, so that examples do not meet in the one database."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, int], str] = {}

    def __call__(self, kind: str, number: int) -> str:
        return self._ids.setdefault((kind, number), new_id())


def both(operation: tuple, names: Names, model: ModelLedger):
    """The operation as the wallet takes it, and a function that does it to the model."""
    match operation:
        case ("deposit", user, asset, amount, key):
            one = Deposit(names("user", user), asset, amount, names("deposit", key))
            return one, lambda: model.deposit(one.user_id, asset, amount, one.deposit_id)
        case ("reserve", user, asset, amount, order):
            two = Reserve(names("user", user), asset, amount, names("order", order))
            return two, lambda: model.reserve(two.user_id, asset, amount, two.order_id)
        case ("release", user, asset, amount, order, key):
            three = Release(names("user", user), asset, amount, names("order", order), names("release", key))
            return three, lambda: model.release(three.user_id, asset, amount, three.order_id, three.release_key)
        case ("settle", key, buyer, buy, seller, sell, quantity):
            parties = (names("user", buyer), names("order", buy)), (names("user", seller), names("order", sell))
            fees = (quantity // 10, quantity // 5)
            four = SettleTrade(
                names("trade", key), parties[0][0], parties[1][0], parties[0][1], parties[1][1], "BTC", "USDT",
                quantity, 2 * 10**8, 2 * quantity, *fees,
            )  # fmt: skip
            return four, lambda: model.settle(four.trade_id, *parties, quantity, 2 * quantity, fees)
        case ("increase", user, asset, amount, order, key):
            five = Increase(names("user", user), asset, amount, names("order", order), names("increase", key))
            return five, lambda: model.increase(five.user_id, asset, amount, five.order_id, five.increase_key)
        case ("transfer", giver, taker, asset, amount, key):
            six = Transfer(names("transfer", key), names("user", giver), names("user", taker), asset, amount)
            return six, lambda: model.transfer(six.from_user_id, six.to_user_id, asset, amount, six.transfer_id)
        case ("withdraw", user, asset, amount, key):
            seven = RequestWithdrawal(names("user", user), asset, amount, names("withdrawal", key))
            return seven, lambda: model.request_withdrawal(seven.user_id, asset, amount, seven.withdrawal_id)
        case ("confirm" | "cancel" as kind, user, asset, key):
            ending = ConfirmWithdrawal if kind == "confirm" else CancelWithdrawal
            eight = ending(names("user", user), asset, names("withdrawal", key))
            return eight, lambda: model.end_withdrawal(kind, eight.user_id, asset, eight.withdrawal_id)
    raise AssertionError(operation)


def usable(operation: tuple) -> bool:
    match operation:
        case ("settle", _, buyer, _, seller, *_):
            return buyer != seller
        case ("transfer", giver, taker, *_):
            return giver != taker
    return True


async def balances_in(pool, ids: list[str]) -> dict[tuple[str, str], list[int]]:
    rows = await pool.fetch(
        "SELECT account_id::text, asset, available, reserved FROM wallet.balances WHERE account_id = ANY ($1::uuid[])",
        ids,
    )
    return {(row["account_id"], row["asset"]): [row["available"], row["reserved"]] for row in rows}


def test_any_operations_end_as_in_the_model(pool_runner) -> None:
    batches = st.lists(st.lists(operations.filter(usable), min_size=1, max_size=8), min_size=1, max_size=6)

    @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(batches)
    def run(batches: list[list[tuple]]) -> None:
        async def example(pool) -> None:
            names, model = Names(), ModelLedger()
            # Two wallets side by side, each with a memory of its own that the other makes out of date.
            async with ledgers(pool, 2) as wallets:
                for number, batch in enumerate(batches):
                    pairs = [both(operation, names, model) for operation in batch]
                    outcomes = await wallets[number % 2].submit([operation for operation, _ in pairs])
                    expected = [act() for _, act in pairs]
                    got = [outcome.reason.name if isinstance(outcome, Refused) else "done" for outcome in outcomes]
                    assert got == expected
            users = [names("user", number) for number in range(USERS)]
            found = await balances_in(pool, users)
            assert {key: value for key, value in model.balances.items() if value != [0, 0]} == {
                key: value for key, value in found.items() if value != [0, 0]
            }

        pool_runner(example)

    run()
    assert_clean(pool_runner)


def test_concurrent_duplicated_and_reordered_deliveries_end_the_same(pool_runner) -> None:
    """Reserved first; then every settle and release, each twice, in any order, from two wallets at a time."""

    async def example(pool) -> None:
        async with ledgers(pool, 2) as wallets:
            for seed in range(20):
                await deliver(pool, wallets, random.Random(seed))

    pool_runner(example)
    assert_clean(pool_runner)


async def deliver(pool, wallets: list[Intake], dice: random.Random) -> None:
    buyer, seller = new_id(), new_id()
    await wallets[0].submit([Deposit(buyer, "USDT", 1000, new_id()), Deposit(seller, "BTC", 1000, new_id())])
    buys, sells = [new_id() for _ in range(5)], [new_id() for _ in range(5)]
    await wallets[1].submit(
        [Reserve(buyer, "USDT", 50, order) for order in buys] + [Reserve(seller, "BTC", 20, order) for order in sells]
    )
    todo: list = []
    for buy, sell in zip(buys, sells, strict=True):
        todo.append(SettleTrade(new_id(), buyer, seller, buy, sell, "BTC", "USDT", 15, 2 * 10**8, 30, 1, 2))
        todo.append(Release(buyer, "USDT", 20, buy, f"{buy}/0"))
        todo.append(Release(seller, "BTC", 5, sell, f"{sell}/0"))
    todo *= 2
    dice.shuffle(todo)
    chunks = [todo[start : start + 4] for start in range(0, len(todo), 4)]
    results = await asyncio.gather(*(dice.choice(wallets).submit(chunk) for chunk in chunks))
    assert not [item for chunk in results for item in chunk if isinstance(item, Refused)]
    first = {operation.key: outcome for chunk, result in zip(chunks, results, strict=True)
             for operation, outcome in zip(chunk, result, strict=True)}  # fmt: skip
    for chunk, result in zip(chunks, results, strict=True):
        assert [first[operation.key] for operation in chunk] == list(result), "a repeat has the first answer"
    assert await balances_in(pool, [buyer, seller]) == {
        (buyer, "USDT"): [850, 0], (buyer, "BTC"): [70, 0], (seller, "BTC"): [925, 0], (seller, "USDT"): [140, 0],
    }  # fmt: skip


def assert_clean(pool_runner) -> None:
    async def check(pool) -> None:
        findings = [item async for item in audit(pool)]
        assert len(findings) == 5
        assert not [item for item in findings if item.wrong]
        in_parts = [item async for item in audit(pool, entries_per_part=100)]
        assert len(in_parts) > 10
        assert [item for item in in_parts if item.done == 1] == findings

    pool_runner(check)


def test_the_audit_sees_every_kind_of_damage(pool_runner) -> None:
    """A check that cannot fail proves nothing: damage the tables, one way at a time."""

    damages = {
        "balances_sum_to_zero": "UPDATE wallet.balances SET available = available + 1 WHERE kind = 'USER'",
        "balances_equal_entries": "UPDATE wallet.balances SET sequence = sequence + 1",
        "entries_follow_each_other": "UPDATE wallet.entries SET available_after = available_after + 1",
        "operations_sum_to_zero": "UPDATE wallet.entries SET available_delta = available_delta + 1",
        "reserved_equals_reservations": "UPDATE wallet.reservations SET remaining = remaining - 0.00000001",
    }

    async def example(pool) -> None:
        user = new_id()
        async with ledgers(pool, 1) as (wallet,):
            await wallet.submit([Deposit(user, "USDT", 100, new_id()), Reserve(user, "USDT", 10, new_id())])
        for check, sql in damages.items():
            async with pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute("SET LOCAL session_replication_role = replica")  # switches our triggers off
                await connection.execute(sql)
                row = await connection.fetchrow(CHECKS[check])
                await transaction.rollback()
            assert row["wrong"] > 0, check
            assert row["examples"], check

    pool_runner(example)


def test_an_audit_in_the_background_tells_the_metrics_and_only_one_runs(pool_runner) -> None:
    async def example(pool) -> None:
        auditor = Auditor(pool=pool, every_s=0)
        async with ledgers(pool, 1) as (wallet,):
            await wallet.submit([Deposit(new_id(), "USDT", 100, new_id())])
        assert await auditor.audit_once() is True
        assert REGISTRY.get_sample_value("ledger_imbalance") == 0
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(TRY_LOCK)
            assert await auditor.audit_once() is None, "another wallet audits"
        await pool.execute("UPDATE wallet.balances SET available = available + 1 WHERE kind = 'USER'")
        assert await auditor.audit_once() is False
        assert REGISTRY.get_sample_value("ledger_imbalance") == 1
        assert REGISTRY.get_sample_value("ledger_audit_violations", {"check": "balances_sum_to_zero"}) == 1
        assert REGISTRY.get_sample_value("ledger_audit_violations", {"check": "operations_sum_to_zero"}) == 0

    pool_runner(example)
