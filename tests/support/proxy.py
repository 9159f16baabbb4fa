"""A TCP proxy whose connections can be cut, or held."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from cli.processes import free_port


class Proxy:
    """Listens on `port`, passes everything on to `target`, which may be changed for who connects from then on."""

    def __init__(self, *, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._lost: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()
        self.passing, self.answering = asyncio.Event(), asyncio.Event()
        self.release()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    def cut(self) -> int:
        """Reset every connection; returns how many there were (both ends of each)."""
        count = len(self._writers)
        for writer in list(self._writers):
            writer.transport.abort()
        return count

    def hold(self) -> None:
        """Pass nothing on from now, as a network does that loses everything, until `release`."""
        self.passing.clear()

    def hold_answers(self) -> None:
        """Pass on what is sent to the target, and nothing that it answers, until `release`."""
        self.answering.clear()

    def lose(self) -> None:
        """Pass nothing on any more of what is connected now; nobody is told. Who connects anew gets through."""
        self._lost |= self._writers

    def release(self) -> None:
        """Pass on what was held, and what comes."""
        self.passing.set()
        self.answering.set()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, other_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, other_writer, self.passing))
                group.create_task(self._pump(other_reader, writer, self.passing, self.answering))
        except* OSError:
            if writer in self._lost:
                await asyncio.Event().wait()  # of what becomes of one end, the other is not told
        finally:
            for end in (writer, other_writer):
                self._writers.discard(end)
                self._lost.discard(end)
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *gates: asyncio.Event) -> None:
        while data := await reader.read(65_536):
            for gate in gates:
                await gate.wait()
            if writer in self._lost:
                continue
            writer.write(data)
            await writer.drain()
        if writer in self._lost:
            await asyncio.Event().wait()  # the other end is not told either
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


def through(url: str, port: int) -> str:
    """The URL that leads to the same by a port here."""
    parts = urlsplit(url)
    user, separator, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{separator}127.0.0.1:{port}").geturl()


@contextlib.asynccontextmanager
async def proxy_before(url: str, *, usual_port: int) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before a server of this machine, and the URL that leads through it."""
    proxy = Proxy(port=free_port(), target=urlsplit(url).port or usual_port)
    await proxy.start()
    try:
        yield proxy, through(url, proxy.port)
    finally:
        await proxy.stop()
