"""The wallet's gRPC face: checks what a request is made of, hands it to the intake, puts the answer in words."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from exchange.wallet.v1 import (
    audit_pb2,
    ledger_entry_pb2,
    operation_pb2,
    reservation_pb2,
    transfer_pb2,
    wallet_pb2,
    wallet_pb2_grpc,
    withdrawal_pb2,
)

from libs.db.pool import Pool
from libs.ids import parse_text
from libs.paging import page_size
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.errors import status_of
from libs.times import parse_time
from libs.tracing import traced
from services.wallet.assets import Assets
from services.wallet.audit import audit
from services.wallet.core.operations import Applied, BalanceAt, Operation
from services.wallet.history import History
from services.wallet.intake import Intake, Outcome
from services.wallet.store import LedgerStore
from services.wallet.streams import BalanceStreams
from services.wallet.wire import (
    Requests,
    balance_texts,
    entry_message,
    put_balance,
    put_released,
    put_reserved,
    put_settled,
    reservation_message,
)

PAGE_DEFAULT = 100
PAGE_MAX = 500
END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)
Request = TypeVar("Request")
Response = TypeVar(
    "Response",
    operation_pb2.BatchReserveResponse,
    operation_pb2.BatchReleaseResponse,
    operation_pb2.SettleTradesResponse,
)
Balances = TypeVar("Balances", wallet_pb2.GetBalancesResponse, wallet_pb2.StreamBalancesResponse)


class WalletService(wallet_pb2_grpc.WalletServiceServicer):
    """Speaks gRPC; decides nothing."""

    def __init__(
        self, *, intake: Intake, store: LedgerStore, streams: BalanceStreams, pool: Pool, batch_max: int
    ) -> None:
        self._intake = intake
        self._store = store
        self._streams = streams
        self._pool = pool
        self._batch_max = batch_max
        self._assets = Assets(pool)
        self._requests = Requests(self._assets)
        self._history = History(pool)

    async def Deposit(self, request: operation_pb2.DepositRequest, context: Any) -> operation_pb2.DepositResponse:
        """See the proto."""
        del context
        applied = await self._one(self._requests.deposit, request)
        available, reserved = balance_texts(applied.balances[0])
        return operation_pb2.DepositResponse(available_balance=available, reserved_balance=reserved)

    async def Reserve(self, request: operation_pb2.ReserveRequest, context: Any) -> operation_pb2.ReserveResponse:
        """See the proto."""
        del context
        response = operation_pb2.ReserveResponse()
        put_reserved(response, await self._one(self._requests.reserve, request))
        return response

    async def BatchReserve(
        self, request: operation_pb2.BatchReserveRequest, context: Any
    ) -> operation_pb2.BatchReserveResponse:
        """See the proto."""
        del context
        with traced("wallet.reserve", lambda: (item.order_id for item in request.items)):
            outcomes = await self._many(request.items, self._requests.reserve, "order_id")
        return _answered(operation_pb2.BatchReserveResponse(), outcomes, put_reserved)

    async def Release(self, request: operation_pb2.ReleaseRequest, context: Any) -> operation_pb2.ReleaseResponse:
        """See the proto."""
        del context
        response = operation_pb2.ReleaseResponse()
        put_released(response, await self._one(self._requests.release, request))
        return response

    async def BatchRelease(
        self, request: operation_pb2.BatchReleaseRequest, context: Any
    ) -> operation_pb2.BatchReleaseResponse:
        """See the proto."""
        del context
        outcomes = await self._many(request.items, self._requests.release, "key")
        return _answered(operation_pb2.BatchReleaseResponse(), outcomes, put_released)

    async def SettleTrade(
        self, request: operation_pb2.SettleTradeRequest, context: Any
    ) -> operation_pb2.SettleTradeResponse:
        """See the proto."""
        del context
        response = operation_pb2.SettleTradeResponse()
        put_settled(response, await self._one(self._requests.settle, request))
        return response

    async def SettleTrades(
        self, request: operation_pb2.SettleTradesRequest, context: Any
    ) -> operation_pb2.SettleTradesResponse:
        """See the proto."""
        del context
        with traced(
            "wallet.settle",
            lambda: (id_ for item in request.items for id_ in (item.buyer_order_id, item.seller_order_id)),
        ):
            outcomes = await self._many(request.items, self._requests.settle, "trade_id")
        return _answered(operation_pb2.SettleTradesResponse(), outcomes, put_settled)

    async def IncreaseReservation(
        self, request: operation_pb2.IncreaseReservationRequest, context: Any
    ) -> operation_pb2.IncreaseReservationResponse:
        """See the proto."""
        del context
        available, reserved = await self._balance_after(self._requests.increase, request)
        return operation_pb2.IncreaseReservationResponse(available_balance=available, reserved_balance=reserved)

    async def Transfer(self, request: transfer_pb2.TransferRequest, context: Any) -> transfer_pb2.TransferResponse:
        """See the proto."""
        del context
        giver, taker = (await self._one(self._requests.transfer, request)).balances
        response = transfer_pb2.TransferResponse()
        put_balance(response.from_balance, giver)
        put_balance(response.to_balance, taker)
        return response

    async def RequestWithdrawal(
        self, request: withdrawal_pb2.RequestWithdrawalRequest, context: Any
    ) -> withdrawal_pb2.RequestWithdrawalResponse:
        """See the proto."""
        del context
        available, reserved = await self._balance_after(self._requests.request_withdrawal, request)
        return withdrawal_pb2.RequestWithdrawalResponse(available_balance=available, reserved_balance=reserved)

    async def ConfirmWithdrawal(
        self, request: withdrawal_pb2.ConfirmWithdrawalRequest, context: Any
    ) -> withdrawal_pb2.ConfirmWithdrawalResponse:
        """See the proto."""
        del context
        available, reserved = await self._balance_after(self._requests.confirm_withdrawal, request)
        return withdrawal_pb2.ConfirmWithdrawalResponse(available_balance=available, reserved_balance=reserved)

    async def CancelWithdrawal(
        self, request: withdrawal_pb2.CancelWithdrawalRequest, context: Any
    ) -> withdrawal_pb2.CancelWithdrawalResponse:
        """See the proto."""
        del context
        available, reserved = await self._balance_after(self._requests.cancel_withdrawal, request)
        return withdrawal_pb2.CancelWithdrawalResponse(available_balance=available, reserved_balance=reserved)

    async def ListLedgerEntries(
        self, request: ledger_entry_pb2.ListLedgerEntriesRequest, context: Any
    ) -> ledger_entry_pb2.ListLedgerEntriesResponse:
        """See the proto."""
        del context
        page, next_page_token = await self._history.entries(
            request.user_id,
            asset=parse_text(request.asset, field="asset", required=False),
            reference=parse_text(request.reference, field="reference", required=False),
            from_time=parse_time(request.from_time, field="from_time") if request.HasField("from_time") else None,
            to_time=parse_time(request.to_time, field="to_time") if request.HasField("to_time") else None,
            page_token=request.page_token,
            limit=page_size(request.page_size, default=PAGE_DEFAULT, largest=PAGE_MAX),
        )
        return ledger_entry_pb2.ListLedgerEntriesResponse(
            entries=[entry_message(row) for row in page], next_page_token=next_page_token
        )

    async def ListReservations(
        self, request: reservation_pb2.ListReservationsRequest, context: Any
    ) -> reservation_pb2.ListReservationsResponse:
        """See the proto."""
        del context
        page, next_page_token = await self._history.open_reservations(
            older_than=(
                parse_time(request.older_than, field="older_than") if request.HasField("older_than") else END_OF_TIME
            ),
            page_token=request.page_token,
            limit=page_size(request.page_size, default=PAGE_DEFAULT, largest=PAGE_MAX),
        )
        return reservation_pb2.ListReservationsResponse(
            reservations=[reservation_message(row) for row in page], next_page_token=next_page_token
        )

    async def StreamBalances(
        self, request: wallet_pb2.StreamBalancesRequest, context: Any
    ) -> AsyncIterator[wallet_pb2.StreamBalancesResponse]:
        """See the proto."""
        del context
        async for changed in self._streams.subscribe(request.user_id):
            yield _balances(wallet_pb2.StreamBalancesResponse(), changed)

    async def GetBalances(self, request: wallet_pb2.GetBalancesRequest, context: Any) -> wallet_pb2.GetBalancesResponse:
        """See the proto."""
        del context
        return _balances(wallet_pb2.GetBalancesResponse(), await self._store.user_balances(request.user_id))

    async def PutAsset(self, request: wallet_pb2.PutAssetRequest, context: Any) -> wallet_pb2.PutAssetResponse:
        """See the proto."""
        del context
        await self._assets.put(request.asset)
        return wallet_pb2.PutAssetResponse(asset=request.asset)

    async def ListAssets(self, request: wallet_pb2.ListAssetsRequest, context: Any) -> wallet_pb2.ListAssetsResponse:
        """See the proto."""
        del request, context
        return wallet_pb2.ListAssetsResponse(assets=await self._assets.all())

    async def Audit(self, request: audit_pb2.AuditRequest, context: Any) -> AsyncIterator[audit_pb2.AuditResponse]:
        """See the proto."""
        del request, context
        async for check in audit(self._pool):
            yield audit_pb2.AuditResponse(
                check=check.check,
                rows=check.looked_at,
                violations=check.wrong,
                examples=check.examples,
                done=check.done,
            )

    async def _balance_after(self, parse: Callable[[Request], Operation], request: Request) -> tuple[str, str]:
        return balance_texts((await self._one(parse, request)).balances[0])

    async def _one(self, parse: Callable[[Request], Operation], request: Request) -> Applied:
        (outcome,) = await self._intake.submit((await self._parse(parse, request, time.monotonic()),))
        if isinstance(outcome, Refused):
            raise RefusedError(outcome)
        return outcome

    async def _many(
        self, items: Sequence[Request], parse: Callable[[Request], Operation], key_field: str
    ) -> list[Outcome]:
        """One outcome per item; what cannot be parsed is refused alone, the rest goes on."""
        check_batch(items, key_field, self._batch_max)
        asked_at = time.monotonic()
        outcomes: list[Outcome | None] = [None] * len(items)
        operations: list[Operation] = []
        for number, item in enumerate(items):
            try:
                operations.append(await self._parse(parse, item, asked_at))
            except RefusedError as error:
                outcomes[number] = error.refused
        decided = iter(await self._intake.submit(operations) if operations else ())
        return [next(decided) if outcome is None else outcome for outcome in outcomes]

    async def _parse(self, parse: Callable[[Request], Operation], request: Request, asked_at: float) -> Operation:
        """The operation that is asked for; no asset is unknown that was known to anybody when it was asked for."""
        try:
            return parse(request)
        except RefusedError as error:
            if error.refused.reason is not Reason.ASSET_UNKNOWN:
                raise
        await self._assets.read_after(asked_at)
        return parse(request)


def check_batch(items: Sequence[Any], key_field: str, batch_max: int) -> None:
    """Refuse a batch as a whole: BATCH_EMPTY, BATCH_TOO_LARGE, KEY_DUPLICATE_IN_BATCH. Raises RefusedError."""
    if not items:
        raise RefusedError(Refused(Reason.BATCH_EMPTY, field="items"))
    if len(items) > batch_max:
        raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="items", rule=f"at most {batch_max}"))
    keys = [getattr(item, key_field) for item in items]
    if len(set(keys)) < len(keys):
        raise RefusedError(Refused(Reason.KEY_DUPLICATE_IN_BATCH, field=key_field))


def _answered(response: Response, outcomes: Sequence[Outcome], put: Callable[[Any, Applied], None]) -> Response:
    """The answer to a batch: one result per outcome."""
    for outcome in outcomes:
        result = response.results.add()
        if isinstance(outcome, Applied):
            put(result.response, outcome)
        else:
            result.error.CopyFrom(status_of(outcome))
    return response


def _balances(response: Balances, balances: Sequence[BalanceAt]) -> Balances:
    for at in balances:
        put_balance(response.balances.add(), at)
    return response
