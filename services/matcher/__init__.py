"""Books in memory, one writer per symbol, journal first."""
