"""Times as callers give them: google.protobuf.Timestamp, between 1970 and 2262, which nanoseconds in 64 bits can tell."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from libs.reasons import Reason, Refused, RefusedError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
NANOSECONDS_END = 2**63
_NANOS_END = 10**9
_SECONDS_END = NANOSECONDS_END // _NANOS_END


def parse_time_ns(time: Timestamp, *, field: str) -> int:
    """Nanoseconds since 1970 UTC. Raises RefusedError(AMOUNT_OUT_OF_RANGE)."""
    if not (0 <= time.seconds < _SECONDS_END and 0 <= time.nanos < _NANOS_END):
        raise RefusedError(Refused(Reason.AMOUNT_OUT_OF_RANGE, field=field, rule="between 1970 and 2262"))
    return time.seconds * _NANOS_END + time.nanos


def parse_time(time: Timestamp, *, field: str) -> datetime:
    """A datetime in UTC, to the microsecond. Raises as `parse_time_ns`."""
    return time_at(parse_time_ns(time, field=field))


def time_at(ns: int) -> datetime:
    """A datetime in UTC, to the microsecond, of nanoseconds since 1970."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def put_time(message: Timestamp, at: datetime) -> None:
    """Put a time into a message; `FromDatetime` takes twenty times as long."""
    seconds, micros = divmod((at - _EPOCH) // _MICROSECOND, 10**6)
    message.seconds = seconds
    message.nanos = micros * 1000
