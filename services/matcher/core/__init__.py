"""The matching rules, pure: no I/O, clock, randomness, logging or protobuf. Time and ids come in with the command."""

from libs.compiled import prefer_compiled

prefer_compiled(__name__, __path__)
