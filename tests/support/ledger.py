"""The obvious model of the wallet: dictionaries, no entries, no batches, no database; and the wallet without gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from libs.db.pool import Pool
from services.wallet.intake import Intake
from services.wallet.store import LedgerStore


@asynccontextmanager
async def ledgers(pool: Pool, count: int) -> AsyncIterator[list[Intake]]:
    """Wallets side by side on one database, each with a memory of its own that the others make out of date."""
    intakes = [Intake(store=LedgerStore(pool), batch_max=1000, queue_max=20_000) for _ in range(count)]
    running = [asyncio.create_task(intake.run()) for intake in intakes]
    yield intakes
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


@dataclass
class ModelLedger:
    """Answers "done" or a reason's name; keeps (user, asset) -> [available, reserved] and order -> remaining."""

    balances: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    reservations: dict[str, list] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    withdrawals: dict[str, list] = field(default_factory=dict)
    fees: dict[str, int] = field(default_factory=dict)
    done: dict[str, tuple] = field(default_factory=dict)

    def once(self, kind: str, key: str, contents: tuple, act) -> str:
        name = f"{kind}/{key}"
        if name in self.done:
            return "done" if self.done[name] == contents else "KEY_REUSED"
        answer = act()
        if answer == "done":
            self.done[name] = contents
        return answer

    def balance(self, user: str, asset: str) -> list[int]:
        return self.balances.setdefault((user, asset), [0, 0])

    def deposit(self, user: str, asset: str, amount: int, key: str) -> str:
        def act() -> str:
            self.balance(user, asset)[0] += amount
            return "done"

        return self.once("deposit", key, (user, asset, amount), act)

    def reserve(self, user: str, asset: str, amount: int, order: str) -> str:
        def act() -> str:
            if order in self.reservations:
                return "RESERVATION_CLOSED"
            balance = self.balance(user, asset)
            if balance[0] < amount:
                return "INSUFFICIENT_BALANCE"
            balance[0] -= amount
            balance[1] += amount
            self.reservations[order] = [user, asset, amount]
            return "done"

        return self.once("reserve", order, (user, asset, amount), act)

    def release(self, user: str, asset: str, amount: int | None, order: str, key: str) -> str:
        def act() -> str:
            if order not in self.reservations:
                if amount is not None:
                    return "RESERVATION_NOT_FOUND"
                self.reservations[order] = [user, asset, 0]
                self.closed.add(order)
                return "done"
            owner, held_asset, left = self.reservations[order]
            if owner != user:
                return "RESERVATION_NOT_FOUND"
            if held_asset != asset:
                return "ASSET_MISMATCH"
            freed = left if amount is None else amount
            if freed > left:
                return "RESERVATION_EXHAUSTED"
            self.take(order, freed, back=freed)
            if amount is None:
                self.closed.add(order)
            return "done"

        return self.once("release", key, (user, asset, amount, order), act)

    def increase(self, user: str, asset: str, amount: int, order: str, key: str) -> str:
        def act() -> str:
            held = self.reservations.get(order)
            if held is None or held[0] != user:
                return "RESERVATION_NOT_FOUND"
            if held[1] != asset:
                return "ASSET_MISMATCH"
            if order in self.closed:
                return "RESERVATION_CLOSED"
            balance = self.balance(user, asset)
            if balance[0] < amount:
                return "INSUFFICIENT_BALANCE"
            balance[0] -= amount
            balance[1] += amount
            held[2] += amount
            return "done"

        return self.once("increase", key, (user, asset, amount, order), act)

    def transfer(self, giver: str, taker: str, asset: str, amount: int, key: str) -> str:
        def act() -> str:
            if self.balance(giver, asset)[0] < amount:
                return "INSUFFICIENT_BALANCE"
            self.balance(giver, asset)[0] -= amount
            self.balance(taker, asset)[0] += amount
            return "done"

        return self.once("transfer", key, (giver, taker, asset, amount), act)

    def request_withdrawal(self, user: str, asset: str, amount: int, key: str) -> str:
        def act() -> str:
            balance = self.balance(user, asset)
            if balance[0] < amount:
                return "INSUFFICIENT_BALANCE"
            balance[0] -= amount
            balance[1] += amount
            self.withdrawals[key] = [user, asset, amount]
            return "done"

        return self.once("request", key, (user, asset, amount), act)

    def end_withdrawal(self, kind: str, user: str, asset: str, key: str) -> str:
        def act() -> str:
            held = self.withdrawals.get(key)
            if held is None or held[0] != user:
                return "WITHDRAWAL_NOT_FOUND"
            if held[1] != asset:
                return "ASSET_MISMATCH"
            if held[2] is None:
                return "WITHDRAWAL_CLOSED"
            self.balance(user, asset)[1] -= held[2]
            self.balance(user, asset)[0] += held[2] if kind == "cancel" else 0
            held[2] = None
            return "done"

        return self.once(kind, key, (user, asset), act)

    def settle(self, trade: str, buyer: tuple, seller: tuple, quantity: int, notional: int, fees: tuple) -> str:
        """buyer and seller are (user, order); base BTC, quote USDT."""

        def act() -> str:
            for (user, order), asset, needed in ((buyer, "USDT", notional), (seller, "BTC", quantity)):
                held = self.reservations.get(order)
                if held is None or held[0] != user:
                    return "RESERVATION_NOT_FOUND"
                if held[1] != asset:
                    return "ASSET_MISMATCH"
                if held[2] < needed:
                    return "RESERVATION_EXHAUSTED"
            self.take(buyer[1], notional, back=0)
            self.take(seller[1], quantity, back=0)
            self.balance(buyer[0], "BTC")[0] += quantity - fees[0]
            self.balance(seller[0], "USDT")[0] += notional - fees[1]
            self.fees["BTC"] = self.fees.get("BTC", 0) + fees[0]
            self.fees["USDT"] = self.fees.get("USDT", 0) + fees[1]
            return "done"

        return self.once("settle", trade, (buyer, seller, quantity, notional, fees), act)

    def take(self, order: str, amount: int, *, back: int) -> None:
        user, asset, _ = self.reservations[order]
        self.reservations[order][2] -= amount
        self.balance(user, asset)[1] -= amount
        self.balance(user, asset)[0] += back
