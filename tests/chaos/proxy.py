"""A TCP proxy in front of a service, whose line can be cut, held or slowed while it is in use.

    with Proxy(target=("127.0.0.1", 5432)) as proxy:
        proxy.port          where clients connect
        proxy.cut()             every connection ends at once, as when a cable is pulled and a router says so
        with proxy.held(): …    no byte passes and nothing is closed: the silence that only a timeout notices
        with proxy.slowed(): …  every piece takes longer, and longer still the larger it is

Held and slowed may overlap with themselves; what was met by bytes is counted (`held_pieces`, `slowed_pieces`). One thread with an event
loop of its own; it ends with the block.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

PIECE = 64 * 1024
LATE_SECONDS, BYTES_PER_SECOND = 0.02, 4 << 20  # of a slow line


class Proxy:
    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self.target = target
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy to {target[1]}", daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._holds = self._slows = 0  # how many at once; changed in the loop alone
        self.held_pieces = self.slowed_pieces = 0

    def __enter__(self) -> Proxy:
        self._passing.set()
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # ---- what can be done to the line ---------------------------------------------------------------------------------

    def cut(self) -> int:
        """Returns how many connections that were."""
        return self._change(self._abort)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._change(lambda: self._hold(1))
        try:
            yield
        finally:
            self._change(lambda: self._hold(-1))

    @contextlib.contextmanager
    def slowed(self) -> Iterator[None]:
        self._change(lambda: self._slow(1))
        try:
            yield
        finally:
            self._change(lambda: self._slow(-1))

    def _abort(self) -> int:
        open_ones = list(self._open)
        for writer in open_ones:
            writer.transport.abort()
        return len(open_ones) // 2

    def _hold(self, more: int) -> int:
        self._holds += more
        (self._passing.clear if self._holds else self._passing.set)()
        return self._holds

    def _slow(self, more: int) -> int:
        self._slows += more
        return self._slows

    def _change(self, what: Callable[[], int]) -> int:
        async def in_loop() -> int:
            return what()

        return asyncio.run_coroutine_threadsafe(in_loop(), self._loop).result(10)

    # ---- the line -------------------------------------------------------------------------------------------------------

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        self._passing.set()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection(*self.target)
        except OSError:  # nobody listens there just now, and the client learns it as it would without us
            to_client.transport.abort()
            return
        both = {to_client, to_server}
        self._open |= both
        try:
            with contextlib.suppress(OSError):  # one side broke off: so does the other
                await asyncio.gather(self._pass_on(client, to_server), self._pass_on(server, to_client))
        finally:
            self._open -= both
            for writer in both:
                writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE):
            if self._holds:
                self.held_pieces += 1
                await self._passing.wait()
            if self._slows:
                self.slowed_pieces += 1
                await asyncio.sleep(LATE_SECONDS + len(piece) / BYTES_PER_SECOND)
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
