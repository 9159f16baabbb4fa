"""The ledger: balances, reservations, double entry."""
