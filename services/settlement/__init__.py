"""Turns trade events into ledger movements, exactly in effect."""
