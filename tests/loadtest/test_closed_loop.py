"""The cheap load generator, against a server of plain sockets."""

import contextlib
import http.server
import math
import threading

import pytest

from loadtest.closed_loop import LoadFailed, Request, ask, closed_loop, post, quantile


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the length and the last byte of what it got; counts connections."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200 if self.path == "/v1/detect" else 503, b"%d %d" % (len(body), body[-1]))

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.path == "/closing":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class ClosingHandler(Handler):
    """Takes every connection for one request only."""

    def end_headers(self):
        self.send_header("Connection", "close")
        super().end_headers()


@contextlib.contextmanager
def serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def address():
    with serving(Handler) as address:
        yield address


def request(address, body, answer=b"", path="/v1/detect"):
    return Request(post(*address, path, body), answer)


def test_a_body_larger_than_any_buffer_arrives_whole(address):
    """It is written as the socket takes it."""
    assert ask(address, post(*address, "/v1/detect", b"x" * 5_000_000)) == b"5000000 120"


def test_callers_take_the_requests_in_turns(address):
    """Every answer is held against that of its own request, large bodies among them."""
    requests = [request(address, bytes([n]) * size, b"%d %d" % (size, n)) for n, size in ((1, 10), (2, 3_000_000))]

    load = closed_loop(address, requests, callers=3, seconds=0.3)

    assert load.answers >= len(load.latencies_ms) > 3
    assert load.images_per_second == pytest.approx(len(load.latencies_ms) / 0.3)
    assert load.latencies_ms == sorted(load.latencies_ms)


def test_a_server_that_closes_gets_a_new_connection():
    """HTTP allows it, and some servers of the benchmark do so."""
    with serving(ClosingHandler) as address:
        assert closed_loop(address, [request(address, b"a")], callers=2, seconds=0.2).answers > 2


@pytest.mark.parametrize(
    "path, answer, message",
    [("/nowhere", b"", "503 .*1 97"), ("/v1/detect", b"2 97", "another answer than before: 1 97, not 2 97")],
)
def test_a_wrong_answer_ends_the_load(address, path, answer, message):
    """A rate of wrong answers means nothing, so there is none."""
    with pytest.raises(LoadFailed, match=message):
        closed_loop(address, [request(address, b"a", answer, path)], callers=2, seconds=0.2)


def test_a_connection_that_breaks_is_told():
    """Not waited for, and no traceback of a socket."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle(self):
            self.request.recv(10)

    with serving(Handler) as address, pytest.raises(LoadFailed, match="the connection"):
        closed_loop(address, [request(address, b"a")], callers=1, seconds=0.1)


@pytest.mark.parametrize(
    "values, share, expected",
    [([], 0.5, math.inf), ([3.0], 0.99, 3.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), (list(range(1, 101)), 0.99, 99)],
)
def test_quantiles_are_values_that_were_seen(values, share, expected):
    """The nearest rank; of nothing there is none."""
    assert quantile(values, share) == expected
