"""Both clients over gRPC against a server that speaks the contract and misbehaves on purpose."""

import asyncio
import contextlib
import threading

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from eagleeye import InvalidResponse, Refused, TimedOut, Unreachable
from eagleeye.client import attempts
from eagleeye.client.frames import WINDOW
from tests.certificates import Authority
from tests.eagleeye.client.answers import infer_response, stream_error, stream_response
from tests.eagleeye.client.conftest import own_threads, until

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers images with one pin-hole, unless the next step of `script` says something else.

    A step of a unary call is a coroutine function that gets its context. A step of a stream gets the request iterator
    and the context, and is an asynchronous generator of answers.
    """

    def __init__(self, *script):
        self.script = list(script)
        self.metadata = []
        self.requests = []
        self.streams = 0
        self.ended = 0

    async def ModelInfer(self, request, context):  # noqa: N802 named by the protocol
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.script:
            await self.script.pop(0)(context)
        return infer_response(request.id)

    async def ModelStreamInfer(self, requests, context):  # noqa: N802
        self.streams += 1
        self.metadata.append(dict(context.invocation_metadata()))
        step = self.script.pop(0) if self.script else answer_all
        try:
            async for answer in step(self._seen(requests), context):
                yield answer
        finally:
            self.ended += 1

    async def _seen(self, requests):
        async for request in requests:
            self.requests.append(request)
            yield request

    @property
    def sent(self):
        """The images that came, without their lengths, as text."""
        return [request.raw_input_contents[0][4:].decode() for request in self.requests]

    @contextlib.asynccontextmanager
    async def serve(self, port=0, credentials=None):
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)
        address = f"127.0.0.1:{port}"
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        await server.start()
        try:
            yield f"{'grpcs' if credentials else 'grpc'}://127.0.0.1:{port}"
        finally:
            await server.stop(0)


async def answer_all(requests, _):
    async for request in requests:
        yield stream_response(request.id)


def fails(status, code=None, detail="what is wrong", retry_after=None):
    """A step of a unary call that ends it."""

    async def abort(context):
        trailing = [("eagleeye-code", code), ("x-request-id", "r"), ("retry-after", retry_after)]
        await context.abort(status, detail, tuple((name, value) for name, value in trailing if code and value))

    return abort


def answers(count, then=None, errors=None):
    """A step of a stream: so many answers, and then the end, or what `then` does."""

    async def step(requests, context):
        for _ in range(count):
            request = await anext(requests)
            code = (errors or {}).get(request.id)
            yield stream_error(request.id, code, retry_after=3) if code else stream_response(request.id)
        if then:
            await then(context)

    return step


async def silence(_):
    await asyncio.sleep(60)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Backoff that a test does not have to wait for."""
    monkeypatch.setattr(attempts, "FIRST_BACKOFF_SECONDS", 0.001)


# --- single images ----------------------------------------------------------------------------------------------------


async def test_a_request_reaches_the_gateway_as_it_was_meant(connect):
    """The bytes, the options, the key, and the time that is left."""
    service = Service()
    async with service.serve() as url, connect(url, key="secret", timeout_seconds=90) as client:
        found = await client.detect(b"image", model="m", score_threshold=0.5)
    (request,) = service.requests
    assert service.sent == ["image"]
    assert request.parameters["score_threshold"].string_param == "0.5"
    assert 50_000 < int(request.parameters["timeout_ms"].string_param) <= 90_000
    assert (request.model_name, service.metadata[0]["x-api-key"]) == ("m", "secret")
    assert (found.labels, found.image_wh) == (("pin-hole",), (640, 480))


@pytest.mark.parametrize(
    "failure",
    [
        fails(UNAVAILABLE),
        fails(UNAVAILABLE, "triton_unavailable"),
        fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
        fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited"),
        fails(grpc.StatusCode.CANCELLED),
    ],
)
async def test_what_passes_is_tried_again(connect, failure):
    """The caller gets the answer as if nothing had been."""
    service = Service(failure, failure)
    async with service.serve() as url, connect(url) as client:
        assert len(await client.detect(b"image")) == 1
    assert service.sent == ["image"] * 3


@pytest.mark.parametrize(
    "failure, error, code",
    [
        (fails(grpc.StatusCode.INVALID_ARGUMENT, "invalid_image"), Refused, "invalid_image"),
        (fails(grpc.StatusCode.UNAUTHENTICATED, "unauthorized"), Refused, "unauthorized"),
        (fails(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded"), TimedOut, "deadline_exceeded"),
        (fails(grpc.StatusCode.UNIMPLEMENTED), InvalidResponse, "invalid_response"),
    ],
)
async def test_other_errors_are_told_at_once(connect, failure, error, code):
    """One attempt."""
    service = Service(failure)
    async with service.serve() as url, connect(url) as client:
        with pytest.raises(error) as caught:
            await client.detect(b"image")
    assert (caught.value.code, len(service.requests)) == (code, 1)


async def test_attempts_end(connect):
    """With the error of the last one."""
    service = Service(*[fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded", retry_after="0")] * 3)
    async with service.serve() as url, connect(url, max_attempts=3) as client:
        with pytest.raises(Refused) as caught:
            await client.detect(b"image")
    error = caught.value
    assert (error.code, error.request_id, error.retry_after_seconds, len(service.requests)) == ("overloaded", "r", 0, 3)


async def test_the_timeout_bounds_silence(connect):
    """One that never answers."""
    async with Service(silence).serve() as url, connect(url, timeout_seconds=0.5) as client, asyncio.timeout(30):
        with pytest.raises(TimedOut, match=r"did not answer within 0.5 s"):
            await client.detect(b"image")


async def test_a_gateway_that_is_not_there_is_named(connect, unused_tcp_port):
    """With what the system said."""
    async with connect(f"grpc://127.0.0.1:{unused_tcp_port}", max_attempts=2) as client:
        with pytest.raises(Unreachable, match=f"no connection to the gateway at 127.0.0.1:{unused_tcp_port}: "):
            await client.detect(b"image")


async def test_a_gateway_that_starts_again_is_found_again(connect, unused_tcp_port, monkeypatch):
    """On the same port, by the same client, within the time that it takes."""
    monkeypatch.setattr(attempts, "FIRST_BACKOFF_SECONDS", 0.2)
    service = Service()
    async with connect(f"grpc://127.0.0.1:{unused_tcp_port}", max_attempts=100) as client:
        async with service.serve(unused_tcp_port):
            await client.detect(b"1")
        asking = asyncio.create_task(client.detect(b"2"))
        await asyncio.sleep(0.5)
        async with service.serve(unused_tcp_port):
            assert len(await asking) == 1
    assert service.sent == ["1", "2"]


async def test_what_is_no_gateway_is_told(connect):
    """A Triton without our model's outputs, or another service."""

    class Other(Service):
        async def ModelInfer(self, request, context):  # noqa: N802
            return service_pb2.ModelInferResponse(model_name="resnet")

    async with Other().serve() as url, connect(url) as client:
        with pytest.raises(InvalidResponse, match="the answer is not a detection result"):
            await client.detect(b"image")


async def test_certificates_are_verified(connect, tmp_path):
    """An authority that nobody trusts is no gateway; the right one is, also where it asks for a certificate."""
    authority, clients = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    server, mine = authority.issue(), clients.issue()
    credentials = grpc.ssl_server_credentials(
        [(server.key.read_bytes(), server.certificate.read_bytes())], clients.pem, require_client_auth=True
    )
    async with Service().serve(credentials=credentials) as url:
        async with connect(url, timeout_seconds=30) as client:
            with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                await client.detect(b"image")
        options = {"client_certificate": mine.certificate, "client_key": mine.key}
        async with connect(url, ca_certificate=authority.path, **options) as client:
            assert len(await client.detect(b"image")) == 1


async def test_closing_ends_what_is_under_way(connect):
    """With an error that says so, and not as if the gateway had failed."""
    service = Service(silence)
    async with service.serve() as url, connect(url) as client, asyncio.timeout(30):
        asking = asyncio.create_task(client.detect(b"image"))
        await until(lambda: service.requests)
        await close(client)
        with pytest.raises(RuntimeError, match="the client is closed"):
            await asking
        with pytest.raises(RuntimeError, match="the client is closed"):
            await client.detect(b"image")


async def test_leaving_a_batch_does_not_wait_for_what_is_under_way(connect):
    """Slow answers are nobody's any more."""

    async def nothing(_):
        pass

    async with (
        Service(nothing, *[silence] * 20).serve() as url,
        connect(url, concurrency=1) as client,
        asyncio.timeout(30),
    ):
        assert len(await client.all("detect_many", [b"image"] * 20, first=1)) == 1
        await until(lambda: not own_threads())


async def close(client):
    await (client.aclose if hasattr(client.client, "aclose") else client.close)()


# --- streams ----------------------------------------------------------------------------------------------------------

LETTERS = [bytes([letter]) for letter in b"abcdefghijklmnopqrst"]
ALL = "abcdefghijklmnopqrst"


def outcome(frames):
    """(index, dropped, error's code) of each frame."""
    return [(frame.index, frame.dropped, frame.error and frame.error.code) for frame in frames]


EVERY_ONE = [(index, 0, None) for index in range(len(LETTERS))]


async def test_frames_are_answered_in_order(connect):
    """With their options and the key, on one call, which ends as it should."""
    service = Service()
    async with service.serve() as url, connect(url, key="secret") as client:
        frames = await client.all("stream", LETTERS, score_threshold=0.5)
        await until(lambda: service.ended == 1)
    assert outcome(frames) == EVERY_ONE
    assert all(frame.detections.labels == ("pin-hole",) for frame in frames)
    assert ("".join(service.sent), service.streams, service.metadata[0]["x-api-key"]) == (ALL, 1, "secret")
    assert service.requests[0].parameters["score_threshold"].string_param == "0.5"
    assert service.requests[0].parameters["mode"].string_param == "ordered"


async def test_frames_may_come_from_anything(connect, kind, tmp_path):
    """Files, generators, and asynchronous ones for the client that is asynchronous."""
    (tmp_path / "a").write_bytes(b"a")

    async def camera():
        for letter in LETTERS:
            await asyncio.sleep(0)
            yield letter

    service = Service()
    async with service.serve() as url, connect(url) as client:
        assert outcome(await client.all("stream", [tmp_path / "a"])) == [(0, 0, None)]
        assert outcome(await client.all("stream", (letter for letter in LETTERS))) == EVERY_ONE
        if kind == "asyncio":
            assert outcome(await client.all("stream", camera())) == EVERY_ONE
        assert await client.all("stream", []) == []


async def test_a_frame_s_error_is_its_own(connect):
    """The stream goes on, and the frame is not tried again."""
    service = Service(answers(len(LETTERS), errors={"1": "invalid_image", "3": "overloaded"}))
    async with service.serve() as url, connect(url) as client:
        frames = await client.all("stream", LETTERS)
    codes = {1: "invalid_image", 3: "overloaded"}
    assert outcome(frames) == [(index, 0, codes.get(index)) for index in range(len(LETTERS))]
    assert frames[1].detections is None
    assert frames[3].error.retry_after_seconds == 3
    assert "".join(service.sent) == ALL


async def test_unanswered_frames_are_bounded(connect):
    """The gateway never gets more than it may hold, and the source is not drained."""
    pulled, go = [], threading.Event()

    def camera():
        for letter in LETTERS:
            pulled.append(letter)
            yield letter

    async def wait(requests, _):
        seen = [await anext(requests) for _ in range(WINDOW)]
        await until(go.is_set)
        for request in seen:
            yield stream_response(request.id)
        async for request in requests:
            yield stream_response(request.id)

    service = Service(wait)
    async with service.serve() as url, connect(url) as client:
        streaming = asyncio.create_task(client.all("stream", camera()))
        await until(lambda: len(service.requests) == WINDOW)
        await asyncio.sleep(0.1)
        assert (len(service.requests), len(pulled)) == (WINDOW, WINDOW + 1)
        go.set()
        assert outcome(await streaming) == EVERY_ONE


async def end(context):
    """Leave without having answered."""


async def unavailable(context):
    await context.abort(UNAVAILABLE, "the gateway shuts down")


@pytest.mark.parametrize("failure", [end, unavailable])
@pytest.mark.parametrize("count", [0, 1, 5])
async def test_a_stream_that_breaks_goes_on(connect, failure, count):
    """Every frame is answered once and in order, however often the call ends."""
    service = Service(answers(count, failure), answers(3, failure), answers(0, failure))
    async with service.serve() as url, connect(url) as client:
        assert outcome(await client.all("stream", LETTERS)) == EVERY_ONE
    assert service.streams == 4
    assert set(service.sent) == set(ALL)


async def test_a_gateway_that_dies_in_mid_stream_is_found_again(connect, unused_tcp_port, monkeypatch):
    """The server is gone for a while, with all its connections."""
    monkeypatch.setattr(attempts, "FIRST_BACKOFF_SECONDS", 0.2)
    service = Service(answers(5, silence))
    async with connect(f"grpc://127.0.0.1:{unused_tcp_port}", max_attempts=100) as client, asyncio.timeout(30):
        async with service.serve(unused_tcp_port):
            streaming = asyncio.create_task(client.all("stream", LETTERS))
            await until(lambda: len(service.requests) == 5)
        await asyncio.sleep(0.5)
        async with service.serve(unused_tcp_port):
            assert outcome(await streaming) == EVERY_ONE


async def test_attempts_without_progress_end(connect):
    """With the last error, after the answers that came before."""
    service = Service(answers(2, unavailable), *[answers(0, unavailable)] * 3)
    async with service.serve() as url, connect(url, max_attempts=3) as client:
        assert outcome(await client.all("stream", LETTERS, first=2)) == EVERY_ONE[:2]
        service.script = [answers(2, unavailable), *[answers(0, unavailable)] * 2]
        service.streams = 0
        with pytest.raises(Unreachable, match="the gateway shuts down"):
            await client.all("stream", LETTERS)
    assert service.streams == 3


async def test_a_refused_stream_is_told_at_once(connect):
    """A key that is not known will not be known the next time."""
    service = Service(answers(0, fails(grpc.StatusCode.UNAUTHENTICATED, "unauthorized")))
    async with service.serve() as url, connect(url) as client:
        with pytest.raises(Refused) as caught:
            await client.all("stream", LETTERS)
    assert (caught.value.code, service.streams) == ("unauthorized", 1)


async def test_a_silent_stream_times_out(connect):
    """Whether it ever answered or not; the call is ended."""
    service = Service(answers(0, silence), answers(3, silence))
    async with service.serve() as url, connect(url, timeout_seconds=1) as client, asyncio.timeout(30):
        for _ in range(2):
            with pytest.raises(TimedOut, match=r"the stream has not answered for 1 s"):
                await client.all("stream", LETTERS)
        await until(lambda: service.ended == 2)


async def test_a_camera_may_pause(connect):
    """No frame, no timeout."""

    def camera():
        for letter in LETTERS[:2]:
            yield letter
            threading.Event().wait(1.2)

    async with Service().serve() as url, connect(url, timeout_seconds=1) as client:
        assert len(await client.all("stream", camera())) == 2


async def test_answers_out_of_order_end_the_stream(connect):
    """Boxes of another frame would be worse than none."""

    async def swap(requests, _):
        first, second = await anext(requests), await anext(requests)
        yield stream_response(second.id)
        yield stream_response(first.id)

    async with Service(swap).serve() as url, connect(url) as client:
        with pytest.raises(InvalidResponse, match="the stream answers frame '1', which it was not asked"):
            await client.all("stream", LETTERS)


async def test_the_latest_frame_replaces_what_waits(connect):
    """While the gateway is busy only the newest is kept, and the next answer says how many were dropped."""
    go = threading.Event()

    def camera():
        yield from LETTERS[:WINDOW]
        go.wait(10)
        yield from LETTERS[WINDOW:]
        done.set()

    async def hold(requests, _):
        seen = [await anext(requests) for _ in range(WINDOW)]
        go.set()
        await until(done.is_set)
        for request in seen:
            yield stream_response(request.id)
        async for request in requests:
            yield stream_response(request.id)

    done = threading.Event()
    service = Service(hold)
    async with service.serve() as url, connect(url) as client:
        frames = []
        # all eight are sent one by one: a frame that is not sent yet would be replaced
        paced = _paced(camera(), lambda: len(service.requests))
        frames = await client.all("stream", paced, latest=True)
    last = len(LETTERS) - 1
    assert outcome(frames) == [*EVERY_ONE[:WINDOW], (last, last - WINDOW, None)]
    assert service.requests[-1].parameters["mode"].string_param == "latest"


def _paced(images, arrived):
    """The first eight one by one, each after the gateway has got the one before."""
    for index, image in enumerate(images):
        while index <= WINDOW and arrived() < min(index, WINDOW):
            threading.Event().wait(0.001)
        yield image


async def test_the_gateway_may_replace_frames_as_well(connect):
    """It answers a later one, and the client counts what it skipped."""

    async def skip(requests, _):
        seen = [await anext(requests) for _ in range(4)]
        yield stream_response(seen[0].id)
        yield stream_response(seen[3].id)
        async for _ in requests:
            pass

    service = Service(skip)
    async with service.serve() as url, connect(url) as client:
        frames = await client.all("stream", _paced(iter(LETTERS[:4]), lambda: len(service.requests)), latest=True)
    assert outcome(frames) == [(0, 0, None), (3, 2, None)]


async def test_after_a_break_only_the_latest_is_sent_again(connect):
    """The others are old by now."""

    async def read_and_leave(requests, _):
        for _frame in range(4):
            await anext(requests)
        return
        yield

    service = Service(read_and_leave)
    async with service.serve() as url, connect(url) as client:
        frames = await client.all("stream", _paced(iter(LETTERS[:4]), lambda: len(service.requests)), latest=True)
    assert outcome(frames) == [(3, 3, None)]
    assert service.sent == ["a", "b", "c", "d", "d"]


@pytest.mark.parametrize("latest", [False, True])
async def test_leaving_a_stream_ends_its_call(connect, latest):
    """And its threads and tasks, though the camera goes on for ever."""

    def camera():
        while not stopped.is_set():
            yield b"a"
            threading.Event().wait(0.001)

    stopped = threading.Event()
    service = Service()
    before = asyncio.all_tasks()
    async with service.serve() as url, connect(url) as client, asyncio.timeout(30):
        assert len(await client.all("stream", camera(), latest=latest, first=3)) == 3
        await until(lambda: service.ended == 1 and not own_threads())
        await until(lambda: not [task for task in asyncio.all_tasks() - before if "eagleeye" in task.get_name()])
    stopped.set()


async def test_an_abandoned_generator_of_frames_is_closed():
    """An asynchronous one gets its aclose()."""
    from eagleeye import AsyncClient  # noqa: PLC0415

    closed = asyncio.Event()

    async def camera():
        try:
            while True:
                yield b"a"
        finally:
            closed.set()

    async with Service().serve() as url, AsyncClient(url) as client, asyncio.timeout(30):
        async with contextlib.aclosing(client.stream(camera())) as frames:
            await anext(frames)
        assert closed.is_set()


async def test_what_the_camera_raises_comes_after_the_answers_before_it(connect):
    """As if the frames had come one by one."""

    def camera():
        yield b"a"
        yield b"b"
        raise OSError("the cable is out")

    async with Service().serve() as url, connect(url) as client:
        assert len(await client.all("stream", camera(), first=2)) == 2
        with pytest.raises(OSError, match="the cable is out"):
            await client.all("stream", camera())
        with pytest.raises(TypeError, match="an image is its bytes"):
            await client.all("stream", [b"a", "b.jpg"])


async def test_closing_the_client_ends_its_streams(connect):
    """With an error that says so."""
    go = threading.Event()

    def camera():
        yield b"a"
        go.wait(60)

    service = Service()
    async with service.serve() as url, connect(url) as client, asyncio.timeout(30):
        streaming = asyncio.create_task(client.all("stream", camera()))
        await until(lambda: service.requests)
        await asyncio.sleep(0.05)
        await close(client)
        with pytest.raises(RuntimeError, match="the client is closed"):
            await streaming
        go.set()
        await until(lambda: not own_threads())
