"""Wiring of the wallet."""

from exchange.wallet.v1 import wallet_pb2, wallet_pb2_grpc

from libs.config import Settings
from libs.db.pool import open_pool
from libs.identity import TokenVerifier
from libs.rpc.server import RpcServer
from libs.runtime import run_service, serve_until_stopped
from services.wallet.auditor import Auditor
from services.wallet.intake import Intake
from services.wallet.service import WalletService
from services.wallet.store import LedgerStore
from services.wallet.streams import BalanceStreams


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    mine = settings.wallet
    pool = await open_pool(settings.database, service="wallet")
    store = LedgerStore(pool)
    streams = BalanceStreams(store=store, subscribers_max=mine.streams_max)
    intake = Intake(store=store, batch_max=mine.batch_max, queue_max=mine.queue_max, on_written=streams.changed)
    auditor = Auditor(pool=pool, every_s=mine.audit_every_s)
    server = RpcServer(
        mine,
        TokenVerifier(settings.auth),
        wallet_pb2.DESCRIPTOR.services_by_name["WalletService"],
        internal=True,
        tls=settings.tls,
    )
    service = WalletService(intake=intake, store=store, streams=streams, pool=pool, batch_max=mine.batch_max)
    wallet_pb2_grpc.add_WalletServiceServicer_to_server(service, server.grpc)
    await server.start()
    await serve_until_stopped(intake.run(), streams.run(), auditor.run(), stop=server.until_stopped())
    await pool.close()


if __name__ == "__main__":
    run_service("wallet", main, lambda settings: settings.wallet)
