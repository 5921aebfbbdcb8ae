"""The gateway as a process: what stops its start."""

import socket
import subprocess
import sys

import pytest


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
def test_a_busy_port_is_named_in_one_line(option):
    """Whichever face it is for; no traceback, and no word of a library's own."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        ports = {"--http-port": 0, "--grpc-port": 0} | {option: port}
        nowhere = ["--triton-url", "127.0.0.1:1"]
        command = [sys.executable, "-m", "gateway", *nowhere, *(f"{name}={value}" for name, value in ports.items())]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    (line,) = [line for line in ended.stderr.splitlines() if "listening" not in line]
    assert ended.returncode == 1
    assert line.startswith("Error: can't listen: ")
    assert str(port) in line
