"""Transfers, withdrawals in two phases, larger reservations, and the history that an owner sees of them."""

import grpc
import httpx
import pytest
from exchange.wallet.v1 import audit_pb2, ledger_entry_pb2, operation_pb2, transfer_pb2, withdrawal_pb2

from libs.ids import new_id
from services.wallet.core.operations import EXTERNAL_ACCOUNT, FEES_ACCOUNT
from tests.support.engine import Engine
from tests.support.trading import Pair


async def refusal(call, request, engine: Engine) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(request, metadata=engine.service, timeout=10)
    return refused.value.details()


def withdrawal(user: str, amount: str = "3") -> withdrawal_pb2.RequestWithdrawalRequest:
    return withdrawal_pb2.RequestWithdrawalRequest(user_id=user, asset="BTC", amount=amount, withdrawal_id=new_id())


@pytest.mark.parametrize(
    ("ending", "left", "other"),
    [("ConfirmWithdrawal", ("7", "0"), "CancelWithdrawal"), ("CancelWithdrawal", ("10", "0"), "ConfirmWithdrawal")],
)
async def test_a_withdrawal_is_held_and_then_ends_once(engine: Engine, ending: str, left, other: str) -> None:
    user = await engine.user(BTC="10")
    request = withdrawal(user)
    for _ in range(2):
        held = await engine.wallet.RequestWithdrawal(request, metadata=engine.service)
        assert (held.available_balance, held.reserved_balance) == ("7", "3")
    named = {"user_id": user, "asset": "BTC", "withdrawal_id": request.withdrawal_id}
    for _ in range(2):
        ended = await getattr(engine.wallet, ending)(
            getattr(withdrawal_pb2, f"{ending}Request")(**named), metadata=engine.service
        )
        assert (ended.available_balance, ended.reserved_balance) == left
    again = getattr(withdrawal_pb2, f"{other}Request")(**named)
    assert await refusal(getattr(engine.wallet, other), again, engine) == "WITHDRAWAL_CLOSED field=withdrawal_id"
    assert (await engine.balances(user))["BTC"] == left
    checks = [check async for check in engine.wallet.Audit(audit_pb2.AuditRequest(), metadata=engine.service)]
    assert all(check.done == 1 for check in checks), "a small ledger is one part"
    assert len(checks) == 5
    assert not [check for check in checks if check.violations]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"user_id": new_id()}, "WITHDRAWAL_NOT_FOUND field=withdrawal_id"),
        ({"withdrawal_id": new_id()}, "WITHDRAWAL_NOT_FOUND field=withdrawal_id"),
        ({"asset": "USDT"}, "ASSET_MISMATCH field=asset"),
        ({"withdrawal_id": "x"}, "ID_MALFORMED field=withdrawal_id"),
    ],
)
async def test_ending_a_withdrawal_names_what_is_wrong(engine: Engine, change: dict, expected: str) -> None:
    user = await engine.user(BTC="10")
    request = withdrawal(user)
    await engine.wallet.RequestWithdrawal(request, metadata=engine.service)
    named = {"user_id": user, "asset": "BTC", "withdrawal_id": request.withdrawal_id, **change}
    for name in ("ConfirmWithdrawal", "CancelWithdrawal"):
        asked = getattr(withdrawal_pb2, f"{name}Request")(**named)
        assert (await refusal(getattr(engine.wallet, name), asked, engine)).startswith(expected)
    assert (await engine.balances(user))["BTC"] == ("7", "3")


async def test_what_a_withdrawal_holds_is_not_an_orders(engine: Engine) -> None:
    user = await engine.user(BTC="10")
    request = withdrawal(user)
    await engine.wallet.RequestWithdrawal(request, metadata=engine.service)
    release = operation_pb2.ReleaseRequest(user_id=user, asset="BTC", order_id=request.withdrawal_id, key=new_id())
    assert await refusal(engine.wallet.Release, release, engine) == "RESERVATION_NOT_FOUND field=order_id"
    increase = operation_pb2.IncreaseReservationRequest(
        user_id=user, asset="BTC", amount="1", order_id=request.withdrawal_id, key=new_id()
    )
    assert await refusal(engine.wallet.IncreaseReservation, increase, engine) == "RESERVATION_NOT_FOUND field=order_id"
    assert (await engine.balances(user))["BTC"] == ("7", "3")


async def test_nobody_withdraws_more_than_is_free(engine: Engine) -> None:
    user = await engine.user(BTC="10")
    said = await refusal(engine.wallet.RequestWithdrawal, withdrawal(user, "10.00000001"), engine)
    assert said == "INSUFFICIENT_BALANCE field=amount asset=BTC available=10 needed=10.00000001"


async def test_a_transfer_moves_once(engine: Engine) -> None:
    giver, taker = await engine.user(BTC="10"), new_id()
    request = transfer_pb2.TransferRequest(
        transfer_id=new_id(), from_user_id=giver, to_user_id=taker, asset="BTC", amount="4"
    )
    first = await engine.wallet.Transfer(request, metadata=engine.service)
    assert (first.from_balance.available, first.to_balance.available) == ("6", "4")
    assert await engine.wallet.Transfer(request, metadata=engine.service) == first
    request.amount = "5"
    assert (await refusal(engine.wallet.Transfer, request, engine)).startswith("KEY_REUSED field=amount")
    request.transfer_id, request.to_user_id = new_id(), giver
    assert await refusal(engine.wallet.Transfer, request, engine) == "SAME_USER field=to_user_id"
    request.to_user_id, request.amount = taker, "6.1"
    assert (await refusal(engine.wallet.Transfer, request, engine)).startswith("INSUFFICIENT_BALANCE field=amount")
    assert (await engine.balances(giver), await engine.balances(taker)) == ({"BTC": ("6", "0")}, {"BTC": ("4", "0")})


async def test_an_open_reservation_grows_and_a_closed_one_does_not(engine: Engine) -> None:
    user, order = await engine.user(BTC="10"), new_id()
    reserve = operation_pb2.ReserveRequest(user_id=user, asset="BTC", amount="1", order_id=order)
    await engine.wallet.Reserve(reserve, metadata=engine.service)
    increase = operation_pb2.IncreaseReservationRequest(
        user_id=user, asset="BTC", amount="2", order_id=order, key=f"{order}/more"
    )
    for _ in range(2):
        answer = await engine.wallet.IncreaseReservation(increase, metadata=engine.service)
        assert (answer.available_balance, answer.reserved_balance) == ("7", "3")
    release = operation_pb2.ReleaseRequest(user_id=user, asset="BTC", order_id=order, key=f"{order}/close")
    await engine.wallet.Release(release, metadata=engine.service)
    increase.key = f"{order}/late"
    assert await refusal(engine.wallet.IncreaseReservation, increase, engine) == "RESERVATION_CLOSED field=order_id"
    assert (await engine.balances(user))["BTC"] == ("10", "0")


async def test_the_history_tells_every_entry_newest_first(engine: Engine) -> None:
    user = await engine.user(BTC="10", USDT="5")
    request = withdrawal(user)
    await engine.wallet.RequestWithdrawal(request, metadata=engine.service)
    confirm = withdrawal_pb2.ConfirmWithdrawalRequest(user_id=user, asset="BTC", withdrawal_id=request.withdrawal_id)
    await engine.wallet.ConfirmWithdrawal(confirm, metadata=engine.service)

    async def entries(**filters) -> list[ledger_entry_pb2.LedgerEntry]:
        found, token = [], ""
        while True:
            asked = ledger_entry_pb2.ListLedgerEntriesRequest(user_id=user, page_size=2, page_token=token, **filters)
            page = await engine.wallet.ListLedgerEntries(asked, metadata=engine.service)
            found += page.entries
            token = page.next_page_token
            if not token:
                return found

    everything = await entries()
    kinds = [ledger_entry_pb2.OperationKind.Name(item.kind).removeprefix("OPERATION_KIND_") for item in everything]
    assert kinds == ["WITHDRAWAL_CONFIRM", "WITHDRAWAL_REQUEST", "DEPOSIT", "DEPOSIT"]
    newest = everything[0]
    assert (newest.available_delta, newest.reserved_delta, newest.reserved_after) == ("0", "-3", "0")
    assert newest.reference == request.withdrawal_id
    assert [item.sequence for item in await entries(asset="BTC")] == [3, 2, 1]
    assert [item.asset for item in await entries(asset="USDT")] == ["USDT"]
    assert len(await entries(reference=request.withdrawal_id)) == 2
    assert await entries(reference="nothing") == []
    middle = everything[1].created_at
    assert len(await entries(to_time=middle)) + len(await entries(from_time=middle)) == 4
    other = ledger_entry_pb2.ListLedgerEntriesRequest(user_id=new_id(), reference=request.withdrawal_id)
    assert not (await engine.wallet.ListLedgerEntries(other, metadata=engine.service)).entries


async def test_an_owner_reads_the_history_by_rest_and_nobody_else(engine: Engine) -> None:
    user = await engine.user(BTC="10")
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        headers = engine.bearer(user)
        mine = await http.get("/api/v1/wallets/ledger?asset=BTC&pageSize=10", headers=headers)
        assert [item["availableAfter"] for item in mine.json()["entries"]] == ["10"]
        theirs = await http.get(f"/api/v1/wallets/ledger?userId={new_id()}", headers=headers)
        assert (theirs.status_code, theirs.json()["reason"]) == (403, "OTHER_USER")
        bad = await http.get("/api/v1/wallets/ledger?fromTime=yesterday", headers=headers)
        assert bad.status_code == 400


async def test_the_house_pays_out_what_it_has_earned_and_no_more(fresh_core: Engine) -> None:
    engine = fresh_core
    pair = await Pair(engine).fund()
    treasury = new_id()
    await engine.place(pair.seller, "SELL 1 @ 100")
    await engine.place(pair.buyer, "BUY 1 @ 100")
    assert (await engine.quiet()).clean
    earned = await engine.balances(FEES_ACCOUNT)
    assert earned == {"BTC": ("0.002", "0"), "USDT": ("0.1", "0")}

    def payout(amount: str, **changes: str) -> transfer_pb2.TransferRequest:
        request = {"transfer_id": new_id(), "from_user_id": FEES_ACCOUNT, "to_user_id": treasury, "asset": "USDT"}
        return transfer_pb2.TransferRequest(**{**request, "amount": amount, **changes})

    for request, refused in (
        (payout("0.10000001"), "INSUFFICIENT_BALANCE field=amount"),
        (payout("0.1", to_user_id=FEES_ACCOUNT, from_user_id=pair.buyer), "ID_MALFORMED field=to_user_id"),
        (payout("0.1", from_user_id=EXTERNAL_ACCOUNT), "ID_MALFORMED field=from_user_id"),
    ):
        assert (await refusal(engine.wallet.Transfer, request, engine)).startswith(refused)
    assert await engine.balances(FEES_ACCOUNT) == earned
    request = payout("0.08")
    for _ in range(2):
        paid = await engine.wallet.Transfer(request, metadata=engine.service)
        assert (paid.from_balance.available, paid.to_balance.available) == ("0.02", "0.08")
    assert (await engine.quiet()).clean
