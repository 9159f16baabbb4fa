"""A TCP proxy whose connections can be cut."""

import asyncio
import contextlib


class Proxy:
    """Listens on `port`, passes everything on to `target`."""

    def __init__(self, *, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    def cut(self) -> int:
        """Reset every connection; returns how many there were (both ends of each)."""
        count = len(self._writers)
        for writer in list(self._writers):
            writer.transport.abort()
        return count

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
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, other_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, other_writer))
                group.create_task(_pump(other_reader, writer))
        except* OSError:
            pass
        finally:
            for end in (writer, other_writer):
                self._writers.discard(end)
                end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
