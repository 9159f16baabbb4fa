REVOKE INSERT ON wallet.assets FROM trade_engine_wallet;
