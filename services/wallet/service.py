"""The wallet's gRPC face: checks what a request is made of, hands it to the intake, puts the answer in words."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC
from typing import Any, TypeVar

from exchange.wallet.v1 import (
    audit_pb2,
    ledger_entry_pb2,
    operation_pb2,
    transfer_pb2,
    wallet_pb2,
    wallet_pb2_grpc,
    withdrawal_pb2,
)
from google.rpc import status_pb2

from libs.batching import Batcher
from libs.db.pool import Pool
from libs.ids import parse_id, parse_text
from libs.paging import page_size
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.errors import status_of
from services.wallet.audit import audit
from services.wallet.core.operations import Applied, Operation
from services.wallet.history import AFTER_THE_LAST_ID, FIRST_ID, History, first_id_at
from services.wallet.intake import Outcome
from services.wallet.store import LedgerStore
from services.wallet.wire import (
    Requests,
    balance_message,
    balance_texts,
    entry_message,
    release_response,
    reserve_response,
    settle_response,
)

PAGE_DEFAULT = 100
PAGE_MAX = 500
Request = TypeVar("Request")


class WalletService(wallet_pb2_grpc.WalletServiceServicer):
    """Speaks gRPC; decides nothing."""

    def __init__(self, *, intake: Batcher[Operation, Outcome], store: LedgerStore, pool: Pool, batch_max: int) -> None:
        self._intake = intake
        self._store = store
        self._pool = pool
        self._batch_max = batch_max
        self._requests = Requests(store.knows_asset)
        self._history = History(pool)

    async def Deposit(self, request: operation_pb2.DepositRequest, context: Any) -> operation_pb2.DepositResponse:
        """See the proto."""
        del context
        applied = await self._one(await self._requests.deposit(request))
        available, reserved = balance_texts(applied.balances[0])
        return operation_pb2.DepositResponse(available_balance=available, reserved_balance=reserved)

    async def Reserve(self, request: operation_pb2.ReserveRequest, context: Any) -> operation_pb2.ReserveResponse:
        """See the proto."""
        del context
        return reserve_response(await self._one(await self._requests.reserve(request)))

    async def BatchReserve(
        self, request: operation_pb2.BatchReserveRequest, context: Any
    ) -> operation_pb2.BatchReserveResponse:
        """See the proto."""
        del context
        result = operation_pb2.BatchReserveResponse.Result
        outcomes = await self._many(request.items, self._requests.reserve, "order_id")
        return operation_pb2.BatchReserveResponse(
            results=[
                result(response=reserve_response(item)) if isinstance(item, Applied) else result(error=_error(item))
                for item in outcomes
            ]
        )

    async def Release(self, request: operation_pb2.ReleaseRequest, context: Any) -> operation_pb2.ReleaseResponse:
        """See the proto."""
        del context
        return release_response(await self._one(await self._requests.release(request)))

    async def BatchRelease(
        self, request: operation_pb2.BatchReleaseRequest, context: Any
    ) -> operation_pb2.BatchReleaseResponse:
        """See the proto."""
        del context
        result = operation_pb2.BatchReleaseResponse.Result
        outcomes = await self._many(request.items, self._requests.release, "key")
        return operation_pb2.BatchReleaseResponse(
            results=[
                result(response=release_response(item)) if isinstance(item, Applied) else result(error=_error(item))
                for item in outcomes
            ]
        )

    async def SettleTrade(
        self, request: operation_pb2.SettleTradeRequest, context: Any
    ) -> operation_pb2.SettleTradeResponse:
        """See the proto."""
        del context
        return settle_response(await self._one(await self._requests.settle(request)))

    async def SettleTrades(
        self, request: operation_pb2.SettleTradesRequest, context: Any
    ) -> operation_pb2.SettleTradesResponse:
        """See the proto."""
        del context
        result = operation_pb2.SettleTradesResponse.Result
        outcomes = await self._many(request.items, self._requests.settle, "trade_id")
        return operation_pb2.SettleTradesResponse(
            results=[
                result(response=settle_response(item)) if isinstance(item, Applied) else result(error=_error(item))
                for item in outcomes
            ]
        )

    async def IncreaseReservation(
        self, request: operation_pb2.IncreaseReservationRequest, context: Any
    ) -> operation_pb2.IncreaseReservationResponse:
        """See the proto."""
        del context
        available, reserved = await self._balance_after(await self._requests.increase(request))
        return operation_pb2.IncreaseReservationResponse(available_balance=available, reserved_balance=reserved)

    async def Transfer(self, request: transfer_pb2.TransferRequest, context: Any) -> transfer_pb2.TransferResponse:
        """See the proto."""
        del context
        giver, taker = (await self._one(await self._requests.transfer(request))).balances
        return transfer_pb2.TransferResponse(from_balance=balance_message(giver), to_balance=balance_message(taker))

    async def RequestWithdrawal(
        self, request: withdrawal_pb2.RequestWithdrawalRequest, context: Any
    ) -> withdrawal_pb2.RequestWithdrawalResponse:
        """See the proto."""
        del context
        available, reserved = await self._balance_after(await self._requests.request_withdrawal(request))
        return withdrawal_pb2.RequestWithdrawalResponse(available_balance=available, reserved_balance=reserved)

    async def ConfirmWithdrawal(
        self, request: withdrawal_pb2.ConfirmWithdrawalRequest, context: Any
    ) -> withdrawal_pb2.ConfirmWithdrawalResponse:
        """See the proto."""
        del context
        available, reserved = await self._balance_after(await self._requests.confirm_withdrawal(request))
        return withdrawal_pb2.ConfirmWithdrawalResponse(available_balance=available, reserved_balance=reserved)

    async def CancelWithdrawal(
        self, request: withdrawal_pb2.CancelWithdrawalRequest, context: Any
    ) -> withdrawal_pb2.CancelWithdrawalResponse:
        """See the proto."""
        del context
        available, reserved = await self._balance_after(await self._requests.cancel_withdrawal(request))
        return withdrawal_pb2.CancelWithdrawalResponse(available_balance=available, reserved_balance=reserved)

    async def ListLedgerEntries(
        self, request: ledger_entry_pb2.ListLedgerEntriesRequest, context: Any
    ) -> ledger_entry_pb2.ListLedgerEntriesResponse:
        """See the proto."""
        del context
        size = page_size(request.page_size, default=PAGE_DEFAULT, largest=PAGE_MAX)
        before = AFTER_THE_LAST_ID
        if request.HasField("to_time"):
            before = first_id_at(request.to_time.ToDatetime(UTC))
        if request.page_token:
            before = min(before, parse_id(request.page_token, field="page_token"))
        rows = await self._history.entries(
            request.user_id,
            asset=parse_text(request.asset, field="asset", required=False),
            reference=parse_text(request.reference, field="reference", required=False),
            from_id=first_id_at(request.from_time.ToDatetime(UTC)) if request.HasField("from_time") else FIRST_ID,
            before_id=before,
            limit=size,
        )
        response = ledger_entry_pb2.ListLedgerEntriesResponse(entries=[entry_message(row) for row in rows])
        if len(rows) == size:
            response.next_page_token = rows[-1].entry_id
        return response

    async def GetBalances(self, request: wallet_pb2.GetBalancesRequest, context: Any) -> wallet_pb2.GetBalancesResponse:
        """See the proto."""
        del context
        balances = await self._store.user_balances(request.user_id)
        return wallet_pb2.GetBalancesResponse(balances=[balance_message(item) for item in balances])

    async def Audit(self, request: audit_pb2.AuditRequest, context: Any) -> AsyncIterator[audit_pb2.AuditResponse]:
        """See the proto."""
        del request, context
        async for check in audit(self._pool):
            yield audit_pb2.AuditResponse(
                check=check.check, rows=check.looked_at, violations=check.wrong, examples=check.examples
            )

    async def _balance_after(self, operation: Operation) -> tuple[str, str]:
        return balance_texts((await self._one(operation)).balances[0])

    async def _one(self, operation: Operation) -> Applied:
        outcome = await self._intake.submit_one(operation)
        if isinstance(outcome, Refused):
            raise RefusedError(outcome)
        return outcome

    async def _many(
        self, items: Sequence[Request], parse: Callable[[Request], Awaitable[Operation]], key_field: str
    ) -> list[Outcome]:
        """One outcome per item; what cannot be parsed is refused alone, the rest goes on."""
        check_batch(items, key_field, self._batch_max)
        outcomes: list[Outcome | None] = []
        operations: list[Operation] = []
        for item in items:
            try:
                operations.append(await parse(item))
                outcomes.append(None)
            except RefusedError as error:
                outcomes.append(error.refused)
        decided = iter(await self._intake.submit(operations) if operations else ())
        return [next(decided) if outcome is None else outcome for outcome in outcomes]


def check_batch(items: Sequence[Any], key_field: str, batch_max: int) -> None:
    """Refuse a batch as a whole: BATCH_EMPTY, BATCH_TOO_LARGE, KEY_DUPLICATE_IN_BATCH. Raises RefusedError."""
    if not items:
        raise RefusedError(Refused(Reason.BATCH_EMPTY, field="items"))
    if len(items) > batch_max:
        raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="items", rule=f"at most {batch_max}"))
    keys = [getattr(item, key_field) for item in items]
    if len(set(keys)) < len(keys):
        raise RefusedError(Refused(Reason.KEY_DUPLICATE_IN_BATCH, field=key_field))


def _error(outcome: Outcome) -> status_pb2.Status:
    assert isinstance(outcome, Refused)
    return status_of(outcome)
