"""What trades make of a market: candles and tickers, pure."""
