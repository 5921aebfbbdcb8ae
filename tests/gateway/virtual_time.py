"""An event loop whose clock jumps from one timer to the next: hours of traffic in a moment, and always the same."""

import asyncio
import selectors


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only while everything waits. For coroutines that touch neither sockets nor threads."""

    def __init__(self):
        self.now = 1000.0
        super().__init__(_JumpingSelector(self))

    def time(self):
        return self.now


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("everything waits for ever")
        self._loop.now += max(0, timeout)
        return super().select(0)


def run(coroutine):
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)
