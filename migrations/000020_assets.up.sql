-- Operators make assets known through the wallet.
GRANT INSERT ON wallet.assets TO trade_engine_wallet;
