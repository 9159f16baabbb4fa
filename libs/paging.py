"""Pages of lists: sizes within limits, tokens that callers hand back as they got them."""

from datetime import datetime

from libs.reasons import Reason, Refused, RefusedError


def page_size(asked: int, *, default: int, largest: int) -> int:
    """The size to use; 0 means the default. Raises RefusedError(PAGE_INVALID)."""
    if asked == 0:
        return default
    if not 1 <= asked <= largest:
        raise RefusedError(Refused(Reason.PAGE_INVALID, field="page_size", rule=f"1 to {largest}"))
    return asked


def token_after(time: datetime, name: str) -> str:
    """The token of a page after a row of this time and name, for lists in the order of both."""
    return f"{time.isoformat()}_{name}"


def parse_token(token: str, *, start: tuple[datetime, str]) -> tuple[datetime, str]:
    """The row that the page before ended with; `start` for an empty token. Raises RefusedError(PAGE_INVALID)."""
    if not token:
        return start
    text, separator, name = token.partition("_")
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedError(bad_token()) from None
    if time.tzinfo is None or not separator or not (name.isascii() and name.isprintable() and len(name) <= 200):
        raise RefusedError(bad_token())
    return time, name


def bad_token() -> Refused:
    """A page token that none of our answers had."""
    return Refused(Reason.PAGE_INVALID, field="page_token", rule="as an earlier page gave it, or empty")
