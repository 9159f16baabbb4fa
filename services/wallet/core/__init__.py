"""The decisions of the ledger, pure: no I/O, clock, randomness, logging or protobuf."""
