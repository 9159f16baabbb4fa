"""Between protobuf and the core: what a request is made of is checked here, field by field, before anything is done."""

from exchange.wallet.v1 import ledger_entry_pb2, operation_pb2, reservation_pb2, transfer_pb2, withdrawal_pb2

from libs.ids import parse_id, parse_text
from libs.money import MAX_UNITS, UNIT, format_units, parse_optional, parse_positive
from libs.reasons import Reason, Refused, RefusedError
from libs.times import put_time
from services.wallet.assets import Assets
from services.wallet.core.operations import (
    FEES_ACCOUNT,
    HOUSE_ACCOUNTS,
    Applied,
    BalanceAt,
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
from services.wallet.history import EntryRow, ReservationRow


class Requests:
    """Requests as operations. The first broken rule, in the order of the fields below, is the answer.

    What comes all the time is made by position: by keyword, a compiled constructor takes five times as long.
    """

    def __init__(self, assets: Assets) -> None:
        self._assets = assets

    def deposit(self, request: operation_pb2.DepositRequest) -> Deposit:
        """The operation that is asked for. Raises RefusedError that names the field."""
        return Deposit(
            user_id=_user(request.user_id, field="user_id"),
            asset=self._asset(request.asset, field="asset"),
            amount=parse_positive(request.amount, field="amount"),
            deposit_id=parse_id(request.deposit_id, field="deposit_id"),
        )

    def reserve(self, request: operation_pb2.ReserveRequest) -> Reserve:
        """The operation that is asked for. Raises RefusedError that names the field."""
        return Reserve(
            _user(request.user_id, field="user_id"),
            self._asset(request.asset, field="asset"),
            parse_positive(request.amount, field="amount"),
            parse_id(request.order_id, field="order_id"),
            parse_text(request.reason, field="reason", required=False),
        )

    def release(self, request: operation_pb2.ReleaseRequest) -> Release:
        """The operation that is asked for. Raises RefusedError that names the field."""
        return Release(
            _user(request.user_id, field="user_id"),
            self._asset(request.asset, field="asset"),
            parse_positive(request.amount, field="amount") if request.amount else None,
            parse_id(request.order_id, field="order_id"),
            parse_text(request.key, field="key"),
            parse_text(request.reason, field="reason", required=False),
        )

    def increase(self, request: operation_pb2.IncreaseReservationRequest) -> Increase:
        """The operation that is asked for. Raises RefusedError that names the field."""
        return Increase(
            user_id=_user(request.user_id, field="user_id"),
            asset=self._asset(request.asset, field="asset"),
            amount=parse_positive(request.amount, field="amount"),
            order_id=parse_id(request.order_id, field="order_id"),
            increase_key=parse_text(request.key, field="key"),
        )

    def transfer(self, request: transfer_pb2.TransferRequest) -> Transfer:
        """The operation that is asked for. Raises RefusedError that names the field."""
        operation = Transfer(
            transfer_id=parse_id(request.transfer_id, field="transfer_id"),
            from_user_id=_giver(request.from_user_id, field="from_user_id"),
            to_user_id=_user(request.to_user_id, field="to_user_id"),
            asset=self._asset(request.asset, field="asset"),
            amount=parse_positive(request.amount, field="amount"),
            reason=parse_text(request.reason, field="reason", required=False),
        )
        if operation.from_user_id == operation.to_user_id:
            raise RefusedError(Refused(Reason.SAME_USER, field="to_user_id"))
        return operation

    def request_withdrawal(self, request: withdrawal_pb2.RequestWithdrawalRequest) -> RequestWithdrawal:
        """The operation that is asked for. Raises RefusedError that names the field."""
        return RequestWithdrawal(
            user_id=_user(request.user_id, field="user_id"),
            asset=self._asset(request.asset, field="asset"),
            amount=parse_positive(request.amount, field="amount"),
            withdrawal_id=parse_id(request.withdrawal_id, field="withdrawal_id"),
            destination=parse_text(request.destination, field="destination", required=False),
        )

    def confirm_withdrawal(self, request: withdrawal_pb2.ConfirmWithdrawalRequest) -> ConfirmWithdrawal:
        """The operation that is asked for. Raises RefusedError that names the field."""
        return ConfirmWithdrawal(
            user_id=_user(request.user_id, field="user_id"),
            asset=self._asset(request.asset, field="asset"),
            withdrawal_id=parse_id(request.withdrawal_id, field="withdrawal_id"),
        )

    def cancel_withdrawal(self, request: withdrawal_pb2.CancelWithdrawalRequest) -> CancelWithdrawal:
        """The operation that is asked for. Raises RefusedError that names the field."""
        return CancelWithdrawal(
            user_id=_user(request.user_id, field="user_id"),
            asset=self._asset(request.asset, field="asset"),
            withdrawal_id=parse_id(request.withdrawal_id, field="withdrawal_id"),
            reason=parse_text(request.reason, field="reason", required=False),
        )

    def settle(self, request: operation_pb2.SettleTradeRequest) -> SettleTrade:
        """The operation that is asked for. Raises RefusedError that names the field."""
        quantity = parse_positive(request.quantity, field="quantity")
        price = parse_positive(request.price, field="price")
        operation = SettleTrade(
            parse_id(request.trade_id, field="trade_id"),
            _user(request.buyer_user_id, field="buyer_user_id"),
            _user(request.seller_user_id, field="seller_user_id"),
            parse_id(request.buyer_order_id, field="buyer_order_id"),
            parse_id(request.seller_order_id, field="seller_order_id"),
            self._asset(request.base_asset, field="base_asset"),
            self._asset(request.quote_asset, field="quote_asset"),
            quantity,
            price,
            _notional(price, quantity),
            parse_optional(request.buyer_fee, field="buyer_fee"),
            parse_optional(request.seller_fee, field="seller_fee"),
            parse_optional(request.buyer_freed, field="buyer_freed"),
            parse_optional(request.seller_freed, field="seller_freed"),
        )
        _check_parties(operation, request)
        return operation

    def _asset(self, asset: str, *, field: str) -> str:
        if asset not in self._assets.known:
            raise RefusedError(Refused(Reason.ASSET_UNKNOWN, field=field, detail={"asset": asset[:20]}))
        return asset


def balance_texts(balance: BalanceAt) -> tuple[str, str]:
    """A balance as decimal strings: available, reserved."""
    return format_units(balance.available), format_units(balance.reserved)


def put_balance(message: operation_pb2.Balance, at: BalanceAt) -> None:
    """A balance, into an empty message: messages inside messages cost half when they are written in place."""
    message.asset = at.asset
    message.available = format_units(at.available)
    message.reserved = format_units(at.reserved)
    message.sequence = at.sequence


def entry_message(row: EntryRow) -> ledger_entry_pb2.LedgerEntry:
    """An entry as its owner sees it."""
    message = ledger_entry_pb2.LedgerEntry(
        entry_id=row.entry_id,
        operation_id=row.operation_id,
        kind=ledger_entry_pb2.OperationKind.Value(f"OPERATION_KIND_{row.kind}"),
        reference=row.reference,
        asset=row.asset,
        sequence=row.sequence,
        available_delta=format_units(row.available_delta),
        reserved_delta=format_units(row.reserved_delta),
        available_after=format_units(row.available_after),
        reserved_after=format_units(row.reserved_after),
    )
    put_time(message.created_at, row.created_at)
    return message


def reservation_message(row: ReservationRow) -> reservation_pb2.Reservation:
    """An open reservation."""
    message = reservation_pb2.Reservation(
        order_id=row.order_id,
        reservation_id=row.reservation_id,
        user_id=row.user_id,
        asset=row.asset,
        purpose=reservation_pb2.ReservationPurpose.Value(f"RESERVATION_PURPOSE_{row.purpose}"),
        amount=format_units(row.amount),
        remaining=format_units(row.remaining),
    )
    put_time(message.created_at, row.created_at)
    return message


def put_reserved(message: operation_pb2.ReserveResponse, applied: Applied) -> None:
    """The answer to a Reserve."""
    message.reservation_id = applied.operation_id
    message.available_balance, message.reserved_balance = balance_texts(applied.balances[0])


def put_released(message: operation_pb2.ReleaseResponse, applied: Applied) -> None:
    """The answer to a Release."""
    message.available_balance, message.reserved_balance = balance_texts(applied.balances[0])


def put_settled(message: operation_pb2.SettleTradeResponse, applied: Applied) -> None:
    """The answer to a SettleTrade."""
    message.buyer_ledger_entry_id, message.seller_ledger_entry_id = applied.entry_ids
    parts = message.buyer_base, message.buyer_quote, message.seller_base, message.seller_quote
    for part, at in zip(parts, applied.balances, strict=True):
        put_balance(part, at)


def _user(text: str, *, field: str) -> str:
    user_id = parse_id(text, field=field)
    if user_id in HOUSE_ACCOUNTS:
        raise RefusedError(Refused(Reason.ID_MALFORMED, field=field, rule="not an account of the house"))
    return user_id


def _giver(text: str, *, field: str) -> str:
    """A user, or the account of the fees, which are earned: nothing but a transfer takes them out."""
    return text if text == FEES_ACCOUNT else _user(text, field=field)


def _notional(price: int, quantity: int) -> int:
    notional, rest = divmod(price * quantity, UNIT)
    if rest or not notional:
        rule = "price x quantity must be exact in 8 decimals"
        raise RefusedError(Refused(Reason.AMOUNT_TOO_PRECISE, field="price", rule=rule))
    if notional > MAX_UNITS:
        rule = "price x quantity must stay below 10^12"
        raise RefusedError(Refused(Reason.AMOUNT_OUT_OF_RANGE, field="quantity", rule=rule))
    return notional


def _check_parties(operation: SettleTrade, request: operation_pb2.SettleTradeRequest) -> None:
    if operation.buyer_user_id == operation.seller_user_id:
        raise RefusedError(Refused(Reason.SAME_USER, field="seller_user_id"))
    if operation.base_asset == operation.quote_asset:
        raise RefusedError(Refused(Reason.ASSET_MISMATCH, field="quote_asset", rule="other than base_asset"))
    if operation.buyer_fee and request.buyer_fee_asset != operation.base_asset:
        raise RefusedError(Refused(Reason.FEE_ASSET_MISMATCH, field="buyer_fee_asset", rule="the base asset"))
    if operation.seller_fee and request.seller_fee_asset != operation.quote_asset:
        raise RefusedError(Refused(Reason.FEE_ASSET_MISMATCH, field="seller_fee_asset", rule="the quote asset"))
