"""What the wallet refuses, and that refusing changes nothing."""

import grpc
import pytest
from exchange.wallet.v1 import operation_pb2

from libs.ids import new_id
from tests.support.engine import Engine

AMOUNTS = [
    ("0", "AMOUNT_NOT_POSITIVE"), ("-1", "AMOUNT_MALFORMED"), ("1e3", "AMOUNT_MALFORMED"), ("NaN", "AMOUNT_MALFORMED"),
    ("+1", "AMOUNT_MALFORMED"), (" 1", "AMOUNT_MALFORMED"), ("1 ", "AMOUNT_MALFORMED"), (".5", "AMOUNT_MALFORMED"),
    ("1.", "AMOUNT_MALFORMED"), ("1,5", "AMOUNT_MALFORMED"), ("٣", "AMOUNT_MALFORMED"), ("0x10", "AMOUNT_MALFORMED"),
    ("0.123456789", "AMOUNT_TOO_PRECISE"), ("1000000000000", "AMOUNT_OUT_OF_RANGE"), ("", "FIELD_REQUIRED"),
]  # fmt: skip


async def refusal(call, request, engine: Engine) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(request, metadata=engine.service, timeout=10)
    return refused.value.details()


@pytest.mark.parametrize(("amount", "reason"), AMOUNTS)
async def test_amounts_are_plain_decimals(engine: Engine, amount: str, reason: str) -> None:
    user = await engine.user(USDT="100")
    request = operation_pb2.ReserveRequest(user_id=user, asset="USDT", amount=amount, order_id=new_id())
    assert (await refusal(engine.wallet.Reserve, request, engine)).startswith(f"{reason} field=amount")
    deposit = operation_pb2.DepositRequest(user_id=user, asset="USDT", amount=amount, deposit_id=new_id())
    assert (await refusal(engine.wallet.Deposit, deposit, engine)).startswith(f"{reason} field=amount")
    assert await engine.balances(user) == {"USDT": ("100", "0")}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"asset": "NOPE"}, "ASSET_UNKNOWN field=asset"),
        ({"asset": ""}, "ASSET_UNKNOWN field=asset"),
        ({"user_id": "bob"}, "ID_MALFORMED field=user_id"),
        ({"user_id": "00000000-0000-0000-0000-000000000002"}, "ID_MALFORMED field=user_id"),
        ({"order_id": "1"}, "ID_MALFORMED field=order_id"),
        ({"order_id": new_id().upper()}, "ID_MALFORMED field=order_id"),
        ({"reason": "x" * 101}, "TEXT_MALFORMED field=reason"),
        ({"reason": "tab\there"}, "TEXT_MALFORMED field=reason"),
        ({"amount": "100.00000001"}, "INSUFFICIENT_BALANCE field=amount asset=USDT available=100 needed=100.00000001"),
    ],
)
async def test_reserve_names_what_is_wrong(engine: Engine, change: dict[str, str], expected: str) -> None:
    user = await engine.user(USDT="100")
    fields = {"user_id": user, "asset": "USDT", "amount": "1", "order_id": new_id(), **change}
    assert await refusal(engine.wallet.Reserve, operation_pb2.ReserveRequest(**fields), engine) == expected or (
        await refusal(engine.wallet.Reserve, operation_pb2.ReserveRequest(**fields), engine)
    ).startswith(expected)
    assert await engine.balances(user) == {"USDT": ("100", "0")}


@pytest.fixture
async def trade(engine: Engine) -> dict[str, str]:
    """A trade that could be settled: 2 BTC for 200 USDT."""
    buyer, seller = await engine.user(USDT="200"), await engine.user(BTC="2")
    orders = {"buyer": new_id(), "seller": new_id()}
    for user, asset, amount, order in ((buyer, "USDT", "200", "buyer"), (seller, "BTC", "2", "seller")):
        request = operation_pb2.ReserveRequest(user_id=user, asset=asset, amount=amount, order_id=orders[order])
        await engine.wallet.Reserve(request, metadata=engine.service)
    return {
        "trade_id": new_id(), "buyer_user_id": buyer, "seller_user_id": seller, "buyer_order_id": orders["buyer"],
        "seller_order_id": orders["seller"], "base_asset": "BTC", "quote_asset": "USDT", "quantity": "2", "price": "100",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"buyer_fee": "2.00000001", "buyer_fee_asset": "BTC"}, "FEE_TOO_LARGE field=buyer_fee"),
        ({"seller_fee": "200.00000001", "seller_fee_asset": "USDT"}, "FEE_TOO_LARGE field=seller_fee"),
        ({"buyer_fee": "1", "buyer_fee_asset": "USDT"}, "FEE_ASSET_MISMATCH field=buyer_fee_asset"),
        ({"seller_fee": "1", "seller_fee_asset": "ETH"}, "FEE_ASSET_MISMATCH field=seller_fee_asset"),
        ({"quantity": "2.00000001"}, "AMOUNT_TOO_PRECISE field=price"),
        ({"quantity": "2.1"}, "RESERVATION_EXHAUSTED field=buyer_order_id"),
        ({"price": "100.5"}, "RESERVATION_EXHAUSTED field=buyer_order_id"),
        ({"buyer_freed": "0.00000001"}, "RESERVATION_EXHAUSTED field=buyer_order_id"),
        ({"seller_freed": "0.00000001"}, "RESERVATION_EXHAUSTED field=seller_order_id"),
        ({"buyer_order_id": new_id()}, "RESERVATION_NOT_FOUND field=buyer_order_id"),
        ({"seller_order_id": new_id()}, "RESERVATION_NOT_FOUND field=seller_order_id"),
        ({"buyer_user_id": new_id()}, "RESERVATION_NOT_FOUND field=buyer_order_id"),
        ({"quote_asset": "BTC"}, "ASSET_MISMATCH field=quote_asset"),
        ({"quote_asset": "EUR"}, "ASSET_MISMATCH field=buyer_order_id"),
        ({"trade_id": ""}, "FIELD_REQUIRED field=trade_id"),
        ({"price": "0"}, "AMOUNT_NOT_POSITIVE field=price"),
        ({"price": "900000000000", "quantity": "900000"}, "AMOUNT_OUT_OF_RANGE field=quantity"),
    ],
)
async def test_settle_names_what_is_wrong(engine: Engine, trade: dict[str, str], change: dict, expected: str) -> None:
    if "quantity" in change and change["quantity"] == "2.00000001":
        change = {**change, "price": "100.01"}
    request = operation_pb2.SettleTradeRequest(**{**trade, **change})
    assert (await refusal(engine.wallet.SettleTrade, request, engine)).startswith(expected)
    assert await engine.balances(trade["buyer_user_id"]) == {"USDT": ("0", "200")}
    assert await engine.balances(trade["seller_user_id"]) == {"BTC": ("0", "2")}


async def test_nobody_trades_with_themselves(engine: Engine, trade: dict[str, str]) -> None:
    request = operation_pb2.SettleTradeRequest(**{**trade, "seller_user_id": trade["buyer_user_id"]})
    assert await refusal(engine.wallet.SettleTrade, request, engine) == "SAME_USER field=seller_user_id"


async def test_a_trade_settles_once_whatever_comes_again(engine: Engine, trade: dict[str, str]) -> None:
    request = operation_pb2.SettleTradeRequest(
        **trade, buyer_fee="0.002", buyer_fee_asset="BTC", seller_fee="0.2", seller_fee_asset="USDT"
    )
    first = await engine.wallet.SettleTrade(request, metadata=engine.service)
    assert (first.buyer_base.available, first.seller_quote.available) == ("1.998", "199.8")
    await engine.deposit(trade["buyer_user_id"], BTC="5")
    again = await engine.wallet.SettleTrade(request, metadata=engine.service)
    assert again == first, "the answer is that of the first time, balances as of then"
    request.price = "99"
    assert (await refusal(engine.wallet.SettleTrade, request, engine)).startswith("KEY_REUSED field=price")
    entries = await engine.query("SELECT entry_id::text, asset FROM wallet.entries WHERE entry_id = ANY ($1::uuid[])",
                                 [first.buyer_ledger_entry_id, first.seller_ledger_entry_id])  # fmt: skip
    assert {(row["entry_id"], row["asset"]) for row in entries} == {
        (first.buyer_ledger_entry_id, "BTC"), (first.seller_ledger_entry_id, "USDT"),
    }  # fmt: skip


async def test_settling_and_releasing_commute(engine: Engine) -> None:
    final = []
    for release_first in (True, False):
        buyer, seller = await engine.user(USDT="300"), await engine.user(BTC="2")
        buy, sell = new_id(), new_id()
        for user, asset, amount, order in ((buyer, "USDT", "300", buy), (seller, "BTC", "2", sell)):
            reserve = operation_pb2.ReserveRequest(user_id=user, asset=asset, amount=amount, order_id=order)
            await engine.wallet.Reserve(reserve, metadata=engine.service)
        settle = operation_pb2.SettleTradeRequest(
            trade_id=new_id(), buyer_user_id=buyer, seller_user_id=seller, buyer_order_id=buy, seller_order_id=sell,
            base_asset="BTC", quote_asset="USDT", quantity="2", price="100",
        )  # fmt: skip
        release = operation_pb2.ReleaseRequest(user_id=buyer, asset="USDT", amount="100", order_id=buy, key=f"{buy}/0")
        calls = [(engine.wallet.Release, release), (engine.wallet.SettleTrade, settle)]
        for call, request in calls if release_first else calls[::-1]:
            for _ in range(2):
                await call(request, metadata=engine.service)
        final.append((await engine.balances(buyer), await engine.balances(seller)))
    assert final[0] == final[1] == (
        {"BTC": ("2", "0"), "USDT": ("100", "0")}, {"BTC": ("0", "0"), "USDT": ("200", "0")}
    )  # fmt: skip


async def test_closing_before_reserving_keeps_a_late_reserve_out(engine: Engine) -> None:
    user, order = await engine.user(USDT="10"), new_id()
    close = operation_pb2.ReleaseRequest(user_id=user, asset="USDT", order_id=order, key=f"{order}/close")
    await engine.wallet.Release(close, metadata=engine.service)
    reserve = operation_pb2.ReserveRequest(user_id=user, asset="USDT", amount="1", order_id=order)
    assert await refusal(engine.wallet.Reserve, reserve, engine) == "RESERVATION_CLOSED field=order_id"
    assert await engine.balances(user) == {"USDT": ("10", "0")}


@pytest.mark.parametrize(
    ("amount", "expected"),
    [("1.00000001", "RESERVATION_EXHAUSTED field=amount"), ("0", "AMOUNT_NOT_POSITIVE field=amount")],
)
async def test_release_frees_at_most_what_is_left(engine: Engine, amount: str, expected: str) -> None:
    user, order = await engine.user(USDT="10"), new_id()
    reserve = operation_pb2.ReserveRequest(user_id=user, asset="USDT", amount="1", order_id=order)
    await engine.wallet.Reserve(reserve, metadata=engine.service)
    release = operation_pb2.ReleaseRequest(user_id=user, asset="USDT", amount=amount, order_id=order, key="k-" + order)
    assert (await refusal(engine.wallet.Release, release, engine)).startswith(expected)
    assert await engine.balances(user) == {"USDT": ("9", "1")}
    release.amount = ""
    assert (await engine.wallet.Release(release, metadata=engine.service)).available_balance == "10"


async def test_batches_have_limits_and_keep_bad_items_apart(engine: Engine) -> None:
    user = await engine.user(USDT="10")

    def reserve(amount: str, order: str) -> operation_pb2.ReserveRequest:
        return operation_pb2.ReserveRequest(user_id=user, asset="USDT", amount=amount, order_id=order)

    same = new_id()
    for items, expected in (
        ([], "BATCH_EMPTY field=items"),
        ([reserve("1", new_id()) for _ in range(1001)], "BATCH_TOO_LARGE field=items"),
        ([reserve("1", same), reserve("1", same)], "KEY_DUPLICATE_IN_BATCH field=order_id"),
    ):
        request = operation_pb2.BatchReserveRequest(items=items)
        assert (await refusal(engine.wallet.BatchReserve, request, engine)).startswith(expected)
    mixed = [reserve("4", new_id()), reserve("7", new_id()), reserve("x", new_id()), reserve("6", new_id())]
    results = (
        await engine.wallet.BatchReserve(operation_pb2.BatchReserveRequest(items=mixed), metadata=engine.service)
    ).results
    assert [result.WhichOneof("outcome") for result in results] == ["response", "error", "error", "response"]
    assert results[3].response.available_balance == "0"
    assert await engine.balances(user) == {"USDT": ("0", "10")}


async def test_the_books_cannot_be_rewritten(engine: Engine) -> None:
    await engine.user(USDT="1")
    for sql in (
        "UPDATE wallet.entries SET available_delta = 0", "DELETE FROM wallet.entries", "TRUNCATE wallet.entries",
        "UPDATE wallet.operations SET answer = '{}'", "DELETE FROM wallet.operations",
    ):  # fmt: skip
        with pytest.raises(Exception, match="append-only"):
            await engine.query(sql)
