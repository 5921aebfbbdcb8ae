"""A worker's process. Only the supervisor starts it: its one argument is the socket over which it is told the rest."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import TYPE_CHECKING

import structlog

from gateway.keys import KeysFileError
from gateway.process import prepared
from gateway.rollout import RolloutFileError
from gateway.rpc_server import RpcEnded
from gateway.server import serve
from gateway.tls import TlsError
from gateway.triton.shared_memory import SharedMemoryError
from gateway.workers.channel import receive
from gateway.workers.worker import Worker

if TYPE_CHECKING:
    from gateway.workers.channel import Assignment

_log = structlog.get_logger()


async def _work(supervisor: socket.socket) -> int:
    """Serve until a signal, or until the supervisor is gone; the exit status.

    Further signals are no reason to hurry: some service managers send one to every process, beside the supervisor's.
    """
    reader, writer = await asyncio.open_connection(sock=supervisor)
    assignment: Assignment = await receive(reader)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        with prepared(assignment.settings, assignment.number):
            await serve(assignment.settings, stop, Worker(assignment, reader, writer, stop))
    except (KeysFileError, OSError, RolloutFileError, RpcEnded, SharedMemoryError, TlsError) as error:
        _log.error("a worker can't serve", reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor's to hear
    sys.exit(asyncio.run(_work(socket.socket(fileno=int(sys.argv[1])))))
