"""A network that breaks: a TCP port before PostgreSQL whose connections end after so many bytes, wherever that is."""

import asyncio
import contextlib
import random
from collections.abc import Callable

from app.persistence.engine import parse_dsn

# Bytes until a connection breaks: from the middle of the greeting to some hundred batches.
LIVES = (200, 400_000)
# Seconds after which a server that was told nothing finds out; longer than it may keep the head for who is lost.
FORGOTTEN_SECONDS = 8.0


class BreakingNetwork:
    """Forwards to the server of `dsn`; `lives` gives each new connection the bytes that it lives, both ways together.

    A connection breaks in one of two ways, by chance: both ends are told, or the server is told nothing and goes on
    with what it has read, as behind a switch that lost its power. Nothing breaks, and nothing is counted, before
    `breaking` is true.
    """

    def __init__(self, dsn: str, *, lives: Callable[[], int] = lambda: random.randint(*LIVES)) -> None:
        self._url = parse_dsn(dsn)
        self._lives = lives
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._forgotten: list[asyncio.StreamWriter] = []
        self.breaking = False
        self.broken = 0
        self.connections = 0

    async def start(self) -> str:
        """Listen; gives the DSN that leads through here."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        url = self._url.set(drivername="postgresql", host="127.0.0.1", port=port, query={})
        return url.render_as_string(hide_password=False)

    async def break_once(self, *, within: float) -> None:
        """Let a connection break, at a moment of its own; TimeoutError if none does in `within` seconds."""
        before, self.breaking = self.broken, True
        try:
            async with asyncio.timeout(within):
                while self.broken == before:
                    await asyncio.sleep(0.001)
        finally:
            self.breaking = False

    async def stop(self) -> None:
        """Break what is left, and listen no more."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._forgotten:
            writer.transport.abort()

    async def _upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "host" in self._url.query:
            port = self._url.query.get("port", "5432")
            return await asyncio.open_unix_connection(f"{self._url.query['host']}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._url.host, self._url.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            up_reader, up = await self._upstream()
        except OSError:
            writer.transport.abort()
            return
        left = [self._lives()]
        ways = [
            asyncio.create_task(self._forward(source, target, left))
            for source, target in ((reader, up), (up_reader, writer))
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self.broken += left[0] <= 0
            writer.transport.abort()
            if left[0] <= 0 and random.random() < 0.5:
                self._forgotten.append(up)
                asyncio.get_running_loop().call_later(FORGOTTEN_SECONDS, up.transport.abort)
            else:
                # What is on its way arrives.
                up.close()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while left[0] > 0 and (content := await source.read(1 << 16)):
                if self.breaking:
                    target.write(content[: left[0]])
                    left[0] -= len(content)
                else:
                    target.write(content)
                await target.drain()
