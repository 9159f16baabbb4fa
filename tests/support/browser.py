"""A real browser, driven over the Chrome DevTools protocol."""

import asyncio
import itertools
import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import websockets

from cli.processes import free_port

CHROMIUM = shutil.which("chromium")


class Browser:
    """One page of a headless chromium."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self.problems: list[str] = []

    async def __aenter__(self) -> Self:
        port = free_port()
        self._log = (self._folder / "chromium.log").open("wb")
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it runs beside
            [
                str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                f"--remote-debugging-port={port}", f"--user-data-dir={self._folder / 'profile'}",
                "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1", "about:blank",
            ],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip
        async with asyncio.timeout(60):
            while True:
                try:
                    async with httpx.AsyncClient() as http:
                        pages = (await http.get(f"http://127.0.0.1:{port}/json")).json()
                    url = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
                    break
                except (httpx.TransportError, StopIteration):
                    await asyncio.sleep(0.1)
        self._socket = await websockets.connect(url, max_size=None)
        for domain in ("Page", "Runtime", "Log"):
            await self._command(f"{domain}.enable")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()
        self._process.kill()
        self._process.wait()
        self._log.close()

    async def open(self, url: str) -> None:
        await self._command("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        answer = await self._command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, script: str, *, seconds: float = 20) -> Any:
        """The value of an expression as soon as it is true."""
        async with asyncio.timeout(seconds):
            while not (value := await self.run(script)):
                await asyncio.sleep(0.1)
        return value

    async def _command(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(30):
            while True:
                message = json.loads(await self._socket.recv())
                if message.get("id") == number:
                    assert "error" not in message, message
                    return message["result"]
                if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                    self.problems.append(message["params"]["entry"]["text"])
                elif message.get("method") == "Runtime.exceptionThrown":
                    self.problems.append(str(message["params"]["exceptionDetails"]))
