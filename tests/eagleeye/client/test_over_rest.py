"""Both clients over HTTP against servers that misbehave on purpose."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import threading

import pytest

from eagleeye import InvalidResponse, Refused, TimedOut, Unreachable
from eagleeye.client import attempts, rest_blocking
from tests.certificates import Authority
from tests.eagleeye.client.answers import answer, detection, problem
from tests.eagleeye.client.conftest import own_threads, until

FOUND = json.dumps(answer(detection())).encode()
RESET = object()
"""Close the connection with a reset instead of an answer."""


def response(body=FOUND, status="200 OK", *headers):
    """One HTTP response as bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def busy(code="overloaded", status="503 Service Unavailable", retry_after="0"):
    return response(json.dumps(problem(code)).encode(), status, f"Retry-After: {retry_after}")


class Server:
    """An HTTP server whose answers are a test's own.

    Each request takes the next of `script`: bytes to send, `RESET`, an exception to end the connection, or a coroutine
    function that gets the stream writer. When the script is over, all is well.
    """

    def __init__(self, *script):
        self.script = list(script)
        self.requests = []
        self.connections = 0
        self.open = 0

    @contextlib.asynccontextmanager
    async def serve(self, port=0, context=None):
        server = await asyncio.start_server(self._talk, "127.0.0.1", port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        tasks = self._tasks = set()
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _talk(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        self.open += 1
        try:
            while (request := await self.read(reader)) is not None:
                self.requests.append(request)
                step = self.script.pop(0) if self.script else response()
                if step is RESET:
                    writer.transport.abort()
                    return
                if callable(step):
                    await step(reader, writer)
                    return
                writer.write(step)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    @staticmethod
    async def read(reader):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return None
        lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        return lines[0], headers, await reader.readexactly(int(headers.get("content-length", 0)))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Backoff that a test does not have to wait for."""
    monkeypatch.setattr(attempts, "FIRST_BACKOFF_SECONDS", 0.001)


async def test_a_request_reaches_the_gateway_as_it_was_meant(connect):
    """The bytes, the options, the key, and the time that is left."""
    server = Server()
    async with server.serve() as url, connect(url, key="secret", timeout_seconds=90) as client:
        found = await client.detect(b"image", model="m", score_threshold=0.5)
    ((line, headers, body),) = server.requests
    assert body == b"image"
    target, _, timeout_ms = line.removesuffix(" HTTP/1.1").partition("&timeout_ms=")
    assert target == "POST /v1/detect?model=m&score_threshold=0.5"
    assert 50_000 < int(timeout_ms) <= 90_000
    assert (headers["x-api-key"], headers["content-type"]) == ("secret", "application/octet-stream")
    assert found.labels == ("pin-hole",)


async def test_a_path_before_the_gateway_s_own_is_kept(connect):
    """It may live behind a proxy."""
    server = Server()
    async with server.serve() as url, connect(f"{url}/a%20b/c/") as client:
        await client.detect(b"image")
    assert server.requests[0][0].startswith("POST /a%20b/c/v1/detect?")


async def test_connections_are_used_again(connect):
    """One is enough for one caller."""
    server = Server()
    async with server.serve() as url, connect(url) as client:
        for _ in range(5):
            await client.detect(b"image")
        assert (len(server.requests), server.connections) == (5, 1)


async def test_a_closed_client_leaves_no_connection(connect):
    """Nor a thread."""
    server = Server()
    async with server.serve() as url:
        async with connect(url) as client:
            assert len(await client.all("detect_many", [b"image"] * 20)) == 20
            assert 1 < server.connections <= 8
        await until(lambda: server.open == 0 and not own_threads())


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param([busy(), busy("triton_unavailable")], id="503"),
        pytest.param([busy("rate_limited", "429 Too Many Requests")], id="429"),
        pytest.param([RESET, RESET], id="connection reset"),
        pytest.param([response(b"<h1>Bad Gateway</h1>", "502 Bad Gateway")], id="a proxy without a gateway"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Le"], id="half a head"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nhalf"], id="half a body"),
    ],
)
async def test_what_passes_is_tried_again(connect, failures):
    """The caller gets the answer as if nothing had been."""

    def step(failure):
        async def send_and_close(_, writer):
            writer.write(failure)
            await writer.drain()

        return send_and_close if isinstance(failure, bytes) and not failure.endswith(b"}") else failure

    server = Server(*map(step, failures))
    async with server.serve() as url, connect(url) as client:
        assert len(await client.detect(b"image")) == 1
    assert len(server.requests) == len(failures) + 1
    assert {body for _, _, body in server.requests} == {b"image"}


@pytest.mark.parametrize(
    "script, error, code",
    [
        pytest.param([busy()] * 3, Refused, "overloaded", id="always busy"),
        pytest.param([RESET] * 3, Unreachable, "unreachable", id="always reset"),
    ],
)
async def test_attempts_end(connect, script, error, code):
    """With the error of the last one."""
    server = Server(*script)
    async with server.serve() as url, connect(url, max_attempts=3) as client:
        with pytest.raises(error) as caught:
            await client.detect(b"image")
    assert (caught.value.code, len(server.requests)) == (code, 3)


async def test_a_retry_after_beyond_the_timeout_is_not_waited_for(connect):
    """The error comes at once, with the wait that was asked for."""
    server = Server(busy(retry_after="60"))
    async with server.serve() as url, connect(url, timeout_seconds=30) as client, asyncio.timeout(30):
        with pytest.raises(Refused) as caught:
            await client.detect(b"image")
    assert caught.value.retry_after_seconds == 60


@pytest.mark.parametrize(
    "body, status, error, code",
    [
        (json.dumps(problem("invalid_image")).encode(), "400 Bad Request", Refused, "invalid_image"),
        (json.dumps(problem("deadline_exceeded")).encode(), "504 Gateway Timeout", TimedOut, "deadline_exceeded"),
        (b"hello", "200 OK", InvalidResponse, "invalid_response"),
        (b"", "301 Moved Permanently", InvalidResponse, "invalid_response"),
    ],
)
async def test_other_errors_are_told_at_once(connect, body, status, error, code):
    """One attempt, and no redirect is followed."""
    server = Server(response(body, status, "Location: /elsewhere"))
    async with server.serve() as url, connect(url) as client:
        with pytest.raises(error) as caught:
            await client.detect(b"image")
    assert (caught.value.code, len(server.requests)) == (code, 1)


async def test_what_does_not_speak_http_is_told(connect):
    """Another service's port."""
    server = Server(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    async with server.serve() as url, connect(url) as client:
        with pytest.raises(InvalidResponse, match="does not speak HTTP"):
            await client.detect(b"image")


async def test_an_endless_answer_is_cut(connect, monkeypatch):
    """Nobody's memory is filled."""
    for module in (rest_blocking, pytest.importorskip("eagleeye.client.rest_asyncio")):
        monkeypatch.setattr(module, "MAX_RESPONSE_BYTES", 10_000)
    server = Server(response(b"x" * 20_000))
    async with server.serve() as url, connect(url) as client:
        with pytest.raises(InvalidResponse, match="longer than 10000 bytes"):
            await client.detect(b"image")


async def silence(reader, _):
    """Until the client has gone."""
    await reader.read()


async def drip_head(_, writer):
    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_body(_, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    for _ in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("step", [silence, drip_head, drip_body])
@pytest.mark.parametrize("has_tls", [False, True])
async def test_the_timeout_bounds_slow_answers(connect, tmp_path, step, has_tls):
    """Also one that drips, so that bytes keep coming; over TLS as well."""
    authority = Authority(tmp_path)
    options = {"ca_certificate": authority.path} if has_tls else {}
    server = Server(step)
    async with server.serve(context=serving(authority) if has_tls else None) as url:
        async with connect(url, timeout_seconds=0.5, **options) as client, asyncio.timeout(30):
            with pytest.raises(TimedOut, match=r"did not answer within 0.5 s"):
                await client.detect(b"image")
        await until(lambda: server.open == 0)


async def test_the_timeout_bounds_slow_uploads(connect):
    """A server that never reads, and an image that no buffer holds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with connect(url, timeout_seconds=0.5) as client, asyncio.timeout(30):
            with pytest.raises(TimedOut):
                await client.detect(bytes(50_000_000))
    await asyncio.sleep(0.05)  # the listener has reset the connection, and asyncio has heard of it


async def test_the_timeout_bounds_connecting(connect):
    """A port whose queue of connections is full answers nothing."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with connect(url, timeout_seconds=0.5) as client, asyncio.timeout(30):
            with pytest.raises(TimedOut):
                await client.detect(b"image")


async def test_the_timeout_bounds_name_resolution(connect, monkeypatch):
    """A resolver that hangs."""
    go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: go.wait(60) and [])
    try:
        async with connect("http://gateway.invalid", timeout_seconds=0.5) as client, asyncio.timeout(30):
            with pytest.raises(TimedOut):
                await client.detect(b"image")
    finally:
        go.set()


async def test_a_gateway_that_is_not_there_is_named(connect, unused_tcp_port):
    """With what the system said."""
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with connect(url, max_attempts=2) as client:
        with pytest.raises(Unreachable, match=f"^{url} cannot be reached: .*[Rr]efused|Connect call failed"):
            await client.detect(b"image")


async def test_a_gateway_that_comes_is_waited_for(connect, unused_tcp_port, monkeypatch):
    """It starts while the client tries."""
    monkeypatch.setattr(attempts, "FIRST_BACKOFF_SECONDS", 0.2)
    server = Server()
    async with connect(f"http://127.0.0.1:{unused_tcp_port}", max_attempts=100) as client:
        asking = asyncio.create_task(client.detect(b"image"))
        await asyncio.sleep(0.2)
        async with server.serve(unused_tcp_port):
            assert len(await asking) == 1


async def test_a_connection_that_was_closed_while_idle_is_no_failure(connect):
    """As every server does after a while."""

    async def answer_and_close(_, writer):
        writer.write(response())
        await writer.drain()

    server = Server(answer_and_close)
    async with server.serve() as url, connect(url, max_attempts=2) as client:
        await client.detect(b"image")
        await until(lambda: server.open == 0)
        await client.detect(b"image")
    assert server.connections == 2


async def test_a_refusal_in_mid_upload_is_heard(connect):
    """A server may answer before it has read everything, and take the rest only to let its answer arrive."""

    async def refuse(reader, writer):
        writer.write(response(json.dumps(problem("image_too_large")).encode(), "413 Content Too Large"))
        await writer.drain()
        await reader.read()

    server = Server()
    server.read = lambda reader: reader.readuntil(b"\r\n\r\n")
    server.script = [refuse]
    async with server.serve() as url:
        async with connect(url) as client:
            with pytest.raises(Refused) as caught:
                await client.detect(bytes(20_000_000))
        await until(lambda: server.open == 0)
    assert caught.value.code == "image_too_large"


# --- TLS --------------------------------------------------------------------------------------------------------------


def serving(authority, clients=None):
    """A server's TLS; with `clients`, it asks for certificates of that authority."""
    pair = authority.issue()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    if clients is not None:
        context.load_verify_locations(clients.path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_certificates_are_verified(connect, tmp_path):
    """An authority that nobody trusts is no gateway, and trying again would not help."""
    server = Server()
    async with server.serve(context=serving(Authority(tmp_path))) as url, connect(url) as client:
        with pytest.raises(Unreachable, match="has a certificate that is not trusted") as caught:
            await client.detect(b"image")
    assert not caught.value.is_retryable
    assert server.connections == 0


async def test_a_server_without_tls_is_said_so(connect):
    """In words, and trying again would not help."""

    async def refuse(_, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"https://127.0.0.1:{port}") as client:
            with pytest.raises(Unreachable, match="does not speak TLS") as caught:
                await client.detect(b"image")
    assert not caught.value.is_retryable


async def test_host_names_are_verified(connect, tmp_path):
    """A trusted certificate of another host is none."""
    authority = Authority(tmp_path)
    server = Server()
    async with (
        server.serve(context=serving(authority)) as url,
        connect(url.replace("127.0.0.1", "localhost"), ca_certificate=authority.path) as client,
    ):
        with pytest.raises(Unreachable, match="not trusted"):
            await client.detect(b"image")


async def test_both_sides_may_show_who_they_are(connect, tmp_path):
    """Mutual TLS, and connections are kept there as well."""
    authority, clients = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    pair = clients.issue()
    options = {
        "ca_certificate": authority.path,
        "client_certificate": pair.certificate,
        "client_key": pair.key,
    }
    server = Server(RESET)
    async with server.serve(context=serving(authority, clients)) as url:
        async with connect(url, **options) as client:
            for _ in range(3):
                assert len(await client.detect(bytes(1_000_000))) == 1
        assert server.connections == 2
        async with connect(url, ca_certificate=authority.path, max_attempts=2) as client:
            with pytest.raises(Unreachable):
                await client.detect(b"image")


# --- batches ----------------------------------------------------------------------------------------------------------


def labelled(body):
    """A server's answer that repeats the image as its label."""
    return response(json.dumps(answer(detection(label=body.decode()))).encode())


async def gone(reader):
    """Until the client has closed the connection."""
    while not reader.at_eof():
        await asyncio.sleep(0.002)


class Echo(Server):
    """Answers each image with itself as the label, as late as `delays` says; counts how many are under way.

    None is answered before so many have been under way at a time as `together` says.
    """

    def __init__(self, delays=None, together=1):
        super().__init__()
        self.delays = delays or {}
        self.together = together
        self.under_way = self.most = 0

    async def _talk(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self.open += 1
        try:
            while (request := await self.read(reader)) is not None:
                self.requests.append(request)
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                try:
                    await until(lambda: self.most >= self.together)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self.delays.get(request[2], 0.01)):
                            await gone(reader)
                finally:
                    self.under_way -= 1
                writer.write(busy("invalid_image", "400 Bad Request") if request[2] == b"bad" else labelled(request[2]))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()


IMAGES = [f"{number}".encode() for number in range(30)]


def labels(results):
    return [result.labels[0] if not isinstance(result, Refused) else result.code for result in results]


async def test_a_batch_is_answered_in_order(connect):
    """Whichever answer comes first, and never more than `concurrency` at a time."""
    server = Echo({b"0": 0.2, b"7": 0.1}, together=4)
    async with server.serve() as url, connect(url) as client:
        assert labels(await client.all("detect_many", IMAGES, concurrency=4)) == [str(number) for number in range(30)]
    assert server.most == 4


async def test_a_batch_may_hold_files(connect, tmp_path):
    """Paths are read when their turn comes."""
    paths = []
    for image in IMAGES[:3]:
        paths.append(tmp_path / image.decode())
        paths[-1].write_bytes(image)
    async with Echo().serve() as url, connect(url) as client:
        assert labels(await client.all("detect_many", paths)) == ["0", "1", "2"]


async def test_an_image_s_error_is_raised_in_its_turn(connect):
    """After the answers before it."""
    seen = []
    async with Echo().serve() as url, connect(url) as client:
        with pytest.raises(Refused):
            seen += await client.all("detect_many", [b"0", b"bad", b"2"])
        assert len(await client.all("detect_many", [b"0", b"bad", b"2"], first=1)) == 1


async def test_an_image_s_error_may_be_its_result(connect):
    """With `return_errors` the others are answered all the same."""
    async with Echo().serve() as url, connect(url) as client:
        results = await client.all("detect_many", [b"0", b"bad", b"2"], return_errors=True)
    assert labels(results) == ["0", "invalid_image", "2"]


async def test_images_are_taken_as_they_are_needed(connect):
    """A source without end is fine, and leaving the iterator leaves nothing behind."""
    taken = []

    def endless():
        while True:
            taken.append(b"1")
            yield b"1"

    server = Echo()
    async with server.serve() as url:
        async with connect(url) as client:
            assert labels(await client.all("detect_many", endless(), concurrency=3, first=10)) == ["1"] * 10
            assert len(taken) <= 10 + 2 * 3
            await until(lambda: not own_threads())
        await until(lambda: server.open == 0)


async def test_leaving_a_batch_does_not_wait_for_what_is_under_way(connect):
    """Slow answers are nobody's any more."""
    server = Echo({b"slow": 60})
    async with server.serve() as url, connect(url) as client, asyncio.timeout(30):
        await client.all("detect_many", [b"0", *[b"slow"] * 20], concurrency=4, first=1)
        await until(lambda: not own_threads() and server.open <= 1)


async def test_what_the_source_raises_reaches_the_caller(connect):
    """And ends the batch."""

    def failing():
        yield b"0"
        raise KeyError("camera")

    async with Echo().serve() as url, connect(url) as client:
        with pytest.raises(KeyError, match="camera"):
            await client.all("detect_many", failing())
        await until(lambda: not own_threads())


async def test_wrong_arguments_are_told_before_anything_is_sent(connect):
    """Also where the result is an iterator."""
    server = Server()
    async with server.serve() as url, connect(url) as client:
        for name in ("detect_many", "stream"):
            with pytest.raises((ValueError, TypeError)):
                getattr(client.client, name)([b"image"], score_threshold=2)
        with pytest.raises(ValueError, match=r"stream\(\) needs a grpc:// or grpcs:// address"):
            client.client.stream([b"image"])
        with pytest.raises(TypeError):
            await client.detect("board.jpg")
        with pytest.raises(ValueError, match="timeout_seconds"):
            await client.detect(b"image", timeout_seconds=0)
    assert not server.requests


# --- misuse -----------------------------------------------------------------------------------------------------------


async def test_a_closed_client_says_so(connect):
    """Whatever is asked of it, and closing twice is fine."""
    async with Server().serve() as url, connect(url) as client:
        await client.detect(b"image")
        await (client.aclose if hasattr(client.client, "aclose") else client.close)()
        for name in ("detect", "model"):
            with pytest.raises(RuntimeError, match="the client is closed"):
                await getattr(client, name)(*[b"image"] if name == "detect" else ["m"])
        with pytest.raises(RuntimeError, match="the client is closed"):
            await client.all("detect_many", [b"image"])


@pytest.mark.parametrize("script", [[silence], [busy(retry_after="20")]])
async def test_closing_ends_what_is_under_way(connect, script):
    """A request, or the wait before the next attempt."""
    server = Server(*script)
    async with server.serve() as url, connect(url) as client, asyncio.timeout(30):
        asking = asyncio.create_task(client.detect(b"image"))
        await until(lambda: server.requests)
        await asyncio.sleep(0.05)
        await (client.aclose if hasattr(client.client, "aclose") else client.close)()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await asking


async def test_a_fork_s_child_is_told_to_make_its_own(connect):
    """Connections cannot be shared with a parent."""
    async with Server().serve() as url, connect(url) as client:
        await client.detect(b"image")
        client.client._process = os.getpid() + 1  # what a child sees
        with pytest.raises(RuntimeError, match="make one in each process, after the fork"):
            await client.detect(b"image")
        client.client._process = os.getpid()


async def test_another_event_loop_is_told_to_make_its_own():
    """An AsyncClient's connections belong to one loop."""
    from eagleeye import AsyncClient  # noqa: PLC0415

    async with Server().serve() as url, AsyncClient(url) as client:
        await client.detect(b"image")
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client.detect(b"image"))


async def test_a_cancelled_request_frees_its_connection():
    """The server sees it close."""
    from eagleeye import AsyncClient  # noqa: PLC0415

    server = Server(silence)
    async with server.serve() as url, AsyncClient(url) as client:
        asking = asyncio.create_task(client.detect(b"image"))
        await until(lambda: server.requests)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_many_threads_share_a_client():
    """Each gets its own answer."""
    from eagleeye import Client  # noqa: PLC0415

    server = Echo()
    async with server.serve() as url:
        with Client(url) as client:
            found = await asyncio.gather(*(asyncio.to_thread(client.detect, image) for image in IMAGES))
    assert labels(found) == [image.decode() for image in IMAGES]


async def test_health_is_asked_once(connect, unused_tcp_port, monkeypatch):
    """What is not ready is told, and what is away is not waited for."""
    monkeypatch.setattr(attempts, "FIRST_BACKOFF_SECONDS", 60)
    server = Server(response(b""), response(b"", "503 Service Unavailable"))
    async with server.serve() as url, connect(url) as client:
        health = await client.health()
        assert (health.live, health.ready) == (True, False)
    async with connect(f"http://127.0.0.1:{unused_tcp_port}") as client, asyncio.timeout(30):
        with pytest.raises(Unreachable):
            await client.health()
