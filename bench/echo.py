"""The yardstick of a gateway: a bare gRPC server that answers an order with an order, and does nothing else."""

import argparse
import asyncio

import grpc.aio
import uvloop
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2_grpc, order_requests_pb2


class Echo(order_gateway_pb2_grpc.OrderGatewayServiceServicer):
    async def PlaceOrder(  # noqa: N802 - gRPC's name
        self, request: order_requests_pb2.PlaceOrderRequest, context: object
    ) -> order_requests_pb2.PlaceOrderResponse:
        del context
        order = order_pb2.Order(
            order_id="01890a5d-ac96-774b-bcce-b302099a8057", user_id=request.user_id, symbol=request.symbol,
            client_order_id=request.client_order_id, side=request.side, type=request.type, price=request.price,
            quantity=request.quantity, filled_quantity="0", status=order_pb2.ORDER_STATUS_OPEN,
        )  # fmt: skip
        return order_requests_pb2.PlaceOrderResponse(order=order)


async def serve(port: int) -> None:
    server = grpc.aio.server()
    order_gateway_pb2_grpc.add_OrderGatewayServiceServicer_to_server(Echo(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    uvloop.run(serve(parser.parse_args().port))
