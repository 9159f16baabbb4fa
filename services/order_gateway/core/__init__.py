"""The decisions of the order gateway, pure: no I/O, clock, randomness, logging or protobuf."""
