"""Processes that a service starts, in the middle of its calls, come to life."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import services  # as in `python -m services.matcher`, before anything else
import asyncio, collections
import grpc.aio, uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

async def main():
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        async def call():
            while True:
                await check(health_pb2.HealthCheckRequest())
        calls = [asyncio.create_task(call()) for _ in range(8)]
        codes = collections.Counter()
        for _ in range(300):
            child = await asyncio.create_subprocess_exec("/bin/true")
            codes[await child.wait()] += 1
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        print(dict(codes))
    await server.stop(0)

uvloop.run(main())
"""


def test_a_child_of_a_busy_service_does_not_crash_before_it_begins() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{0: 300}", "negative: killed by that signal"
    assert "fork" not in done.stderr
