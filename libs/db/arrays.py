"""Arrays for asyncpg are lists and tuples here, and it is told so.

It asks of every element whether that is a container itself, and asks the abstract classes of collections.abc, which are
written in Python: up to half a microsecond an element. A trade is a hundred elements, and that was a fifth of what
settling one costs the wallet.
"""

from asyncpg.protocol import protocol


def expect_lists() -> None:
    """From now on nothing but a list or a tuple is an array to asyncpg, in this process.

    Another asyncpg may look for arrays in another way; then it goes on as it does, and a test says so.
    """
    vars(protocol).update(IterableABC=(list, tuple), SizedABC=object)
