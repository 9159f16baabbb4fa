"""Ids are UUIDv7 in canonical lower-case text: sortable by time, so that time partitions are found from the id."""

import re

import uuid_utils

from libs.reasons import Reason, Refused, RefusedError

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_PRINTABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)
_ASSET = re.compile(r"[A-Z0-9]{2,12}", re.ASCII)

KEY_MAX_CHARS = 100
# Before and after every id that there can be.
FIRST_ID, LAST_ID = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"


def new_id() -> str:
    """A fresh UUIDv7."""
    return str(uuid_utils.uuid7())


def first_id_at(time_s: float) -> str:
    """The smallest id that can be of this time, in seconds since 1970, or later."""
    milliseconds = f"{int(time_s * 1000):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7000-8000-000000000000"


def parse_id(text: str, *, field: str) -> str:
    """The same text, if it is a canonical UUID. Raises RefusedError (FIELD_REQUIRED, ID_MALFORMED)."""
    if _UUID.fullmatch(text) is None:
        raise _malformed(text, Reason.ID_MALFORMED, field=field, rule="a UUID in lower case")
    return text


def parse_text(text: str, *, field: str, required: bool = True) -> str:
    """The same text, if 1-100 printable ASCII characters. Raises RefusedError (FIELD_REQUIRED, TEXT_MALFORMED)."""
    if not text and not required:
        return text
    if len(text) > KEY_MAX_CHARS or _PRINTABLE.fullmatch(text) is None:
        rule = f"1 to {KEY_MAX_CHARS} printable ASCII characters, no blank at either end"
        raise _malformed(text, Reason.TEXT_MALFORMED, field=field, rule=rule)
    return text


def parse_asset(text: str, *, field: str) -> str:
    """The same text, if it can be an asset's code. Raises RefusedError (FIELD_REQUIRED, TEXT_MALFORMED)."""
    if _ASSET.fullmatch(text) is None:
        raise _malformed(text, Reason.TEXT_MALFORMED, field=field, rule="2 to 12 capital letters and digits")
    return text


def _malformed(text: str, reason: Reason, *, field: str, rule: str) -> RefusedError:
    return RefusedError(Refused(reason if text else Reason.FIELD_REQUIRED, field=field, rule=rule))
