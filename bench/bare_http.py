"""The yardstick of the edge: a bare application on the same HTTP stack, which answers as much and does nothing else."""

import argparse
import json

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ORDER = json.dumps(
    {"order": {"orderId": "01890a5d-ac96-774b-bcce-b302099a8057", "text": "x" * 700}, "fills": []}
).encode()
BOOK = json.dumps({"book": {"symbol": "BTC/USDT", "asks": [{"price": "100", "quantity": "1"}] * 40}}).encode()


async def place(request: Request) -> Response:
    json.loads(await request.body())
    return Response(ORDER, media_type="application/json")


async def book(request: Request) -> Response:
    del request
    return Response(BOOK, media_type="application/json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    app = Starlette(routes=[Route("/api/v1/orders", place, methods=["POST"]), Route("/api/v1/books/{symbol}", book)])
    uvicorn.run(app, port=parser.parse_args().port, log_config=None, access_log=False, lifespan="off", loop="uvloop")
