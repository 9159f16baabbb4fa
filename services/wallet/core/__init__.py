"""The decisions of the ledger, pure: no I/O, clock, randomness, logging or protobuf."""

from libs.compiled import prefer_compiled

prefer_compiled(__name__, __path__)
