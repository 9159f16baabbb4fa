"""The matching rules, pure: no I/O, clock, randomness, logging or protobuf. Time and ids come in with the command."""
