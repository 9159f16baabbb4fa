"""Tickers and candles for readers: one stream of settled trades per market in, any number of readers out."""
