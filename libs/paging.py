"""Pages of lists: sizes within limits, tokens that callers hand back as they got them."""

from libs.reasons import Reason, Refused, RefusedError


def page_size(asked: int, *, default: int, largest: int) -> int:
    """The size to use; 0 means the default. Raises RefusedError(PAGE_INVALID)."""
    if asked == 0:
        return default
    if not 1 <= asked <= largest:
        raise RefusedError(Refused(Reason.PAGE_INVALID, field="page_size", rule=f"1 to {largest}"))
    return asked
