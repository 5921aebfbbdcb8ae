"""Streams of frames over a real channel: order, replacement, errors in their place, and each way that one ends."""

import asyncio
import contextlib
import dataclasses
import gc
import weakref

import grpc
import pytest
from structlog.testing import capture_logs
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway import errors, rpc_stream
from gateway.access import Access, Permitted
from gateway.rpc_server import serving_rpc
from gateway.sequences import MAX_SEQUENCES, WINDOW
from tests.conftest import at_rest
from tests.fakes import MODEL
from tests.gateway.conftest import LIMITS
from tests.gateway.test_rpc import SERVICE, infer_request, tensors, to_parameters, until


def frame(png, frame_id="", *, changes=(), **parameters):
    return infer_request(png, id=frame_id, parameters=to_parameters(**parameters), **dict(changes))


def shape(*sizes):
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": list(sizes)}]}


def told(answer):
    """Id, code (empty without an error) and parameters of an answer."""
    parameters = answer.infer_response.parameters
    values = {name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in parameters.items()}
    code = values.pop("code", "")
    assert bool(code) == bool(answer.error_message)
    return answer.infer_response.id, code, values


def ids(answers):
    return [answer.infer_response.id for answer in answers]


async def answers_to(rpc, *frames, **options):
    """All answers of a stream that is sent `frames`, and then half-closed."""
    async with asyncio.timeout(60):
        return [answer async for answer in rpc.ModelStreamInfer(iter(frames), **options)]


async def ending(call):
    """Status, stable code and text of a stream's end, and the ids of the answers that come before it."""
    answered = []

    async def read_all():
        async for answer in call:
            answered.append(answer.infer_response.id)  # noqa: PERF401 (an exception ends it, and what came counts)

    async with asyncio.timeout(60):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all()
    error = caught.value
    return error.code().name, dict(error.trailing_metadata()).get("eagleeye-code"), error.details(), answered


async def settled():
    """Time for what must not happen."""
    await asyncio.sleep(0.1)


def sample(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"eagleeye_{name}", labels)


@pytest.fixture
def opened(rpc):
    """Opens streams that a test writes to and reads from, and cancels them at its end."""
    calls = []

    def opened(**options):
        calls.append(rpc.ModelStreamInfer(**options))
        return calls[-1]

    yield opened
    for call in calls:
        call.cancel()


@pytest.fixture
def held(predictor):
    """A predictor that lets nothing through until `held.go` is set."""
    predictor.go.clear()
    return predictor


async def test_a_frame_is_answered_like_a_call(rpc, png):
    """The same outputs under the same id, and what only streams have."""
    (answer,) = await answers_to(rpc, frame(png, "mine", score_threshold=0.7))
    single = await rpc.ModelInfer(frame(png, "mine", score_threshold=0.7))
    assert tensors(answer.infer_response) == tensors(single)
    assert told(answer) == ("mine", "", {"triton_final_response": True, "dropped": 0})
    assert (answer.infer_response.model_name, answer.infer_response.model_version) == ("toy", "3")


async def test_every_frame_is_answered_in_order(rpc, png):
    """The default mode. The dense frames between take longer than the others."""
    names = [str(index) for index in range(40)]
    assert ids(await answers_to(rpc, *(frame(png, name) for name in names))) == names


async def test_a_few_frames_are_worked_on_at_a_time(opened, held, png):
    """Up to the window; the rest is not begun before answers have gone out."""
    call = opened()
    for index in range(WINDOW + 3):
        await call.write(frame(png, str(index)))
    await until(lambda: len(held.tensors) == WINDOW)
    await settled()
    assert len(held.tensors) == WINDOW
    held.go.set()
    await call.done_writing()
    assert ids([answer async for answer in call]) == [str(index) for index in range(WINDOW + 3)]


@pytest.mark.parametrize("given", [7, -1, "door", 0, ""])
async def test_the_sequence_is_echoed(rpc, png, given):
    """As it was given, also where it means the stream's own."""
    ((_, _, values),) = map(told, await answers_to(rpc, frame(png, sequence_id=given)))
    assert values == {"triton_final_response": True, "dropped": 0, "sequence_id": given}


async def test_sequences_do_not_wait_for_each_other(opened, predictor, png, monkeypatch):
    """One whose frame takes long does not hold back another; each keeps its own order."""
    predict, others_are_there = predictor.predict, asyncio.Event()

    async def slow_at_first(*request, **options):
        if not predictor.tensors:
            predictor.tensors.append(None)
            await others_are_there.wait()
        return await predict(*request, **options)

    monkeypatch.setattr(predictor, "predict", slow_at_first)
    call = opened()
    await call.write(frame(png, "a1", sequence_id="a"))
    await until(lambda: predictor.tensors)
    for name in ("b1", "b2", "a2"):
        await call.write(frame(png, name, sequence_id=name[0]))
    first = [await call.read(), await call.read()]
    others_are_there.set()
    last = [await call.read(), await call.read()]
    assert ids([*first, *last]) == ["b1", "b2", "a1", "a2"]


async def test_latest_replaces_what_waits(opened, held, frames_read, png):
    """The frame in work is answered, then the newest; its answer says how many it stands for."""
    call = opened()
    await call.write(frame(png, "0", mode="latest"))
    await until(lambda: held.tensors)
    for index in range(1, 10):
        await call.write(frame(png, str(index), mode="latest"))
    await call.done_writing()
    await until(lambda: len(frames_read) == 10)
    held.go.set()
    found = [told(answer) async for answer in call]
    assert [(name, values["dropped"]) for name, _, values in found] == [("0", 0), ("9", 8)]
    assert len(held.tensors) == 2, "nothing is spent on frames that nobody sees"


async def test_latest_keeps_cameras_apart(opened, held, frames_read, metrics, png):
    """Each sequence has its own newest frame."""
    call = opened()
    for index in range(3):
        for camera in ("a", "b"):
            await call.write(frame(png, f"{camera}{index}", mode="latest", sequence_id=camera))
        await until(lambda: len(held.tensors) == 2)
    await call.done_writing()
    await until(lambda: len(frames_read) == 6)
    held.go.set()
    found = [told(answer) async for answer in call]
    by_camera = {camera: [told[0] for told in found if told[0][0] == camera] for camera in ("a", "b")}
    assert by_camera == {"a": ["a0", "a2"], "b": ["b0", "b2"]}
    assert sample(metrics, "frames_dropped_total", model="toy") == 2


async def test_the_last_frame_is_always_answered(rpc, png):
    """However fast the frames come: whoever sends until the half-close sees the newest."""
    found = [told(answer) for answer in await answers_to(rpc, *(frame(png, str(i), mode="latest") for i in range(200)))]
    assert found[-1][0] == "199"
    assert sum(values["dropped"] + 1 for _, _, values in found) == 200


async def test_a_sequence_may_change_its_mode(opened, held, frames_read, png):
    """A frame's own mode says whether it may be replaced: ordered ones are all answered, in the order they came."""
    call = opened()
    await call.write(frame(png, "o0"))
    await until(lambda: held.tensors)
    for name in ("l1", "l2", "o3", "l4", "l5"):
        await call.write(frame(png, name, mode="latest" if name[0] == "l" else "ordered"))
    await call.done_writing()
    await until(lambda: len(frames_read) == 6)
    held.go.set()
    found = [told(answer) async for answer in call]
    assert [(name, values["dropped"]) for name, _, values in found] == [("o0", 0), ("o3", 2), ("l5", 1)]


BAD_FRAMES = {
    "no image": (b"hello", {}, {}, "unsupported_media_type", "JPEG, PNG, WebP and BMP"),
    "empty image": (b"", {}, {}, "invalid_image", "empty"),
    "too large": (bytes(LIMITS.max_bytes + 1), {}, {}, "image_too_large", "100,000 bytes"),
    "two images": (None, {}, shape(2), "invalid_parameter", "send 'image' as BYTES [1]"),
    "shape": (None, {}, shape(), "invalid_parameter", "must be BYTES [N]"),
    "unknown parameter": (None, {"treshold": 1.0}, {}, "invalid_parameter", "allowed are score_threshold"),
    "bad mode": (None, {"mode": "newest"}, {}, "invalid_parameter", "must be ordered or latest"),
    "bad sequence": (None, {"sequence_id": True}, {}, "invalid_parameter", "int64_param or a string_param"),
    "long sequence": (None, {"sequence_id": "x" * 129}, {}, "invalid_parameter", "up to 128"),
    "bad flag": (None, {"sequence_start": "yes"}, {}, "invalid_parameter", "sequence_start must be a bool_param"),
    "unknown model": (None, {}, {"model_name": "other"}, "model_not_found", "'other'"),
    "own deadline": (None, {"timeout_ms": 0}, {}, "invalid_parameter", "1 to 600000"),
}


@pytest.mark.parametrize("image, parameters, changes, code, says", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_a_bad_frame_is_told_in_its_place(rpc, png, image, parameters, changes, code, says):
    """With the code and the text that a call would have; the frames around it are answered."""
    bad = frame(png if image is None else image, "bad", changes=changes, **parameters)
    before, answer, after = await answers_to(rpc, frame(png, "before"), bad, frame(png, "after"))
    assert ids((before, after)) == ["before", "after"]
    name, found, values = told(answer)
    assert (name, found, values["request_id"], values["dropped"]) == ("bad", code, "bad", 0)
    assert values["triton_final_response"]
    assert says in answer.error_message
    assert told(before)[1] == told(after)[1] == ""


async def test_garbage_is_told_in_its_place(channel, png):
    """Bytes that are no message at all."""
    call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    good = frame(png, "good").SerializeToString()
    answers = [service_pb2.ModelStreamInferResponse.FromString(each) async for each in call(iter([b"\xff" * 50, good]))]
    assert [told(answer)[:2] for answer in answers] == [("", "invalid_parameter"), ("good", "")]


@pytest.mark.parametrize(
    "error, code, retry_after",
    [
        (lambda: errors.Overloaded("full", retry_after_seconds=7), "overloaded", 7),
        (lambda: errors.TritonUnavailable("gone"), "triton_unavailable", 1),
        (lambda: RuntimeError("secret"), "internal", None),
    ],
)
async def test_what_fails_inside_is_told_in_its_place(rpc, predictor, png, error, code, retry_after):
    """With the seconds to wait where there are some, without internals, and the stream goes on."""
    predictor.error = error()
    with capture_logs():
        (answer,) = await answers_to(rpc, frame(png))
    _, found, values = told(answer)
    assert (found, values.get("retry_after")) == (code, retry_after)
    assert "secret" not in answer.error_message
    predictor.error = None
    assert told((await answers_to(rpc, frame(png)))[0])[1] == ""


async def test_a_frame_has_its_own_deadline(opened, held, png):
    """From its arrival; the stream goes on."""
    call = opened()
    await call.write(frame(png, "late", timeout_ms=50))
    answer = await call.read()
    assert told(answer)[:2] == ("late", "deadline_exceeded")
    assert "50 ms" in answer.error_message
    held.go.set()
    await call.write(frame(png, "next"))
    assert told(await call.read())[:2] == ("next", "")


async def test_waiting_counts_towards_the_deadline(opened, held, png):
    """A frame that waited for longer than it may is not begun."""
    call = opened()
    await call.write(frame(png, "0", mode="latest"))
    await until(lambda: held.tensors)
    await call.write(frame(png, "1", mode="latest", timeout_ms=50))
    await asyncio.sleep(0.2)
    held.go.set()
    assert [told(await call.read())[:2] for _ in range(2)] == [("0", ""), ("1", "deadline_exceeded")]
    assert len(held.tensors) == 1


async def test_the_calls_deadline_ends_the_stream(opened, held, metrics, png):
    """With what is in work, whatever the frame's own deadline."""
    seconds = 0.3
    while not held.tensors:  # on a busy machine the call may end before its frame has come
        call = opened(timeout=seconds)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call.write(frame(png, timeout_ms=60_000))
        assert (await ending(call))[0] == "DEADLINE_EXCEEDED"
        seconds *= 2
    await until(lambda: sample(metrics, "streams") == 0 and sample(metrics, "inflight", model="toy") == 0)


async def test_half_close_at_once_is_an_empty_answer(rpc, metrics):
    """No frames, no answers, OK."""
    assert await answers_to(rpc) == []
    assert sample(metrics, "streams") == 0


async def test_ten_thousand_cameras_of_one_frame(rpc):
    """Ids that never come back cost nothing; each frame is answered with its error."""
    names = [str(index) for index in range(10_000)]
    answers = await answers_to(rpc, *(frame(b"", name, sequence_id=name) for name in names))
    assert sorted(ids(answers)) == sorted(names)
    assert {told(answer)[1] for answer in answers} == {"invalid_image"}


async def test_what_waits_counts_as_held(opened, held, png, metrics):
    """Also frames of a stream, until they are answered or replaced, or the stream is gone."""
    call = opened()
    await call.write(frame(png, "0", mode="latest"))
    await until(lambda: held.tensors)
    in_work = sample(metrics, "held_bytes")
    for name in "12":
        await call.write(frame(png, name, mode="latest"))
    await until(lambda: sample(metrics, "held_bytes") == 2 * in_work)
    await settled()
    assert sample(metrics, "held_bytes") == 2 * in_work
    call.cancel()
    await until(lambda: sample(metrics, "held_bytes") == 0)


async def test_a_frame_without_room_is_refused_in_its_place(rpc, rpc_face, png, monkeypatch):
    """As overloaded, and the stream goes on."""
    size = frame(png, "0").ByteSize()
    monkeypatch.setattr(rpc_face.core.memory, "_max_bytes", 60 * size)
    large = frame(png + bytes(60 * size), "large")
    answers = await answers_to(rpc, frame(png, "0"), large, frame(png, "1"))
    assert [told(answer)[:2] for answer in answers] == [("0", ""), ("large", "overloaded"), ("1", "")]


async def test_too_many_cameras_end_the_stream(opened, held, frames_read, png):
    """INVALID_ARGUMENT that says how many are allowed, after what was read has been answered."""
    call = opened()
    for index in range(MAX_SEQUENCES + 1):
        await call.write(frame(png, str(index), mode="latest", sequence_id=index + 1))
    await until(lambda: len(held.tensors) == WINDOW and len(frames_read) == MAX_SEQUENCES + 1)
    held.go.set()
    status, code, text, answered = await ending(call)
    assert (status, code) == ("INVALID_ARGUMENT", "invalid_parameter")
    assert f"of {MAX_SEQUENCES} sequences" in text
    assert sorted(map(int, answered)) == list(range(MAX_SEQUENCES))


def frames_held():
    """Frames of streams that are still in memory."""
    gc.collect()
    return sum(type(each) is rpc_stream.StreamFrame for each in gc.get_objects())  # lazy objects resent `isinstance`


@pytest.mark.parametrize("mode", ["ordered", "latest"])
async def test_a_reader_that_never_reads_is_held_back(opened, predictor, metrics, png, mode):
    """In the end no frame is begun any more, and few are held; in the default mode the sender has to wait as well."""
    call = opened()
    sent = 0

    async def send():
        nonlocal sent
        while True:
            await call.write(frame(png, "x" * 2000, mode=mode))
            sent += 1

    sending = asyncio.create_task(send())
    begun = await at_rest(lambda: len(predictor.tensors))
    assert frames_held() <= WINDOW + 1
    if mode == "latest":
        before = sent
        await until(lambda: sent > before + WINDOW)
    else:
        await at_rest(lambda: sent)
    assert len(predictor.tensors) == begun
    sending.cancel()
    call.cancel()
    await until(lambda: sample(metrics, "streams") == 0)
    assert frames_held() == 0


async def test_a_client_that_leaves_takes_its_work_along(opened, held, metrics, png):
    """Predictions are cancelled; no task, no frame and no stream stays behind."""
    before = len(asyncio.all_tasks())
    call = opened()
    for index in range(WINDOW + 1):
        await call.write(frame(png, str(index)))
    await until(lambda: len(held.tensors) == WINDOW)
    call.cancel()
    await until(lambda: held.cancelled == WINDOW)
    await until(lambda: sample(metrics, "streams") == 0 and len(asyncio.all_tasks()) <= before)
    assert frames_held() == 0
    assert sample(metrics, "inflight", model="toy") == 0


async def test_a_stream_leaves_nothing_behind(rpc, png, monkeypatch):
    """Its object goes with it, without waiting for the garbage collector's turn of years."""
    made = weakref.WeakSet()
    start = rpc_stream.FrameStream.__init__

    def noting(self, *given):
        made.add(self)
        start(self, *given)

    monkeypatch.setattr(rpc_stream.FrameStream, "__init__", noting)
    for _ in range(5):
        await answers_to(rpc, frame(png), frame(png, mode="latest"))
    assert len(made) > 0
    await until(lambda: gc.collect() >= 0 and not made)


async def test_a_drain_ends_streams_after_their_answers(opened, held, lifecycle, png):
    """What was read is answered, then UNAVAILABLE says to connect again; also a stream that is idle."""
    idle, busy = opened(), opened()
    await idle.wait_for_connection()
    for index in range(WINDOW + 1):
        await busy.write(frame(png, str(index)))
    await until(lambda: len(held.tensors) == WINDOW)
    lifecycle.drain()
    status, code, text, _ = await ending(idle)
    assert (status, code) == ("UNAVAILABLE", "shutting_down")
    assert "connect again" in text
    held.go.set()
    status, code, _, answered = await ending(busy)
    assert (status, code) == ("UNAVAILABLE", "shutting_down")
    assert answered == [str(index) for index in range(WINDOW + 1)]


async def test_a_drain_answers_the_newest_frame(opened, held, lifecycle, frames_read, png):
    """One that waits has been read as well; what comes after the drain has not."""
    call = opened()
    for index in range(3):
        await call.write(frame(png, str(index), mode="latest"))
    await until(lambda: held.tensors and len(frames_read) == 3)
    lifecycle.drain()
    await asyncio.sleep(2 * rpc_stream._LOOK_INTERVAL_SECONDS)
    await call.write(frame(png, "late", mode="latest"))
    held.go.set()
    assert (await ending(call))[3] == ["0", "2"]


@pytest.mark.parametrize("grace_seconds, is_busy", [(60, False), (0.2, True)], ids=["idle", "in work"])
async def test_a_stream_does_not_keep_the_server(rpc_face, held, metrics, png, grace_seconds, is_busy):
    """An idle one is told within a moment; what never ends is cut off when the time of grace is over."""
    async with asyncio.timeout(60):
        async with serving_rpc(rpc_face, host="127.0.0.1", port=0, grace_seconds=grace_seconds) as port:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
            if is_busy:
                await call.write(frame(png))
            await until(lambda: sample(metrics, "streams") == 1 and len(held.tensors) == is_busy)
        assert (await ending(call))[0] == "UNAVAILABLE"
        await channel.close()


async def test_streams_are_counted_and_logged(rpc, metrics, png):
    """A line and a count a frame, as for calls; and one line for the stream, which is no request of its own."""
    with capture_logs() as logs:
        await answers_to(rpc, frame(png, "one", sequence_id="door"), frame(b"x", "two"))
        await until(lambda: any(line["event"] == "request" for line in logs))
    two, one = sorted((line for line in logs if line["event"] == "detect"), key=lambda line: line["code"] == "ok")
    assert one.items() >= {"request_id": "one", "sequence": "door", "code": "ok", "method": "ModelStreamInfer"}.items()
    assert one.items() >= {"model": "toy", "images": 1, "detections": 2, "dropped": 0, "face": "grpc"}.items()
    assert two.items() >= {"request_id": "two", "sequence": 0, "code": "unsupported_media_type"}.items()
    (stream,) = (line for line in logs if line["event"] == "request")
    assert stream.items() >= {"frames": 2, "answered": 2, "dropped": 0, "code": "ok", "status": "OK"}.items()
    for code in ("ok", "unsupported_media_type"):
        assert sample(metrics, "requests_total", face="grpc", model="toy", code=code) == 1
    assert sample(metrics, "request_seconds_count", face="grpc", model="toy") == 2


async def test_open_streams_are_counted(opened, metrics):
    """While they are open."""
    call = opened()
    await call.wait_for_connection()
    await until(lambda: sample(metrics, "streams") == 1)
    await call.done_writing()
    await until(lambda: sample(metrics, "streams") == 0)


@pytest.fixture
def access(keyring, clock):
    return Access(keyring.path, clock)


@pytest.fixture
async def guarded(rpc_face, predictor, access):
    """The stub of a server that asks for keys and serves two models."""
    predictor.models["other"] = dataclasses.replace(MODEL, name="other")
    core = dataclasses.replace(rpc_face.core, predictor=Permitted(predictor), access=access)
    core.detector._predictor = core.predictor
    face = dataclasses.replace(rpc_face, core=core)
    async with (
        serving_rpc(face, host="127.0.0.1", port=0, grace_seconds=5) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def as_caller(keyring, access, name, **limits):
    """The options of a call with a new key."""
    secret = keyring.add(name, **limits)
    await access.reload()
    return {"metadata": (("x-api-key", secret),)}


async def test_a_stream_needs_a_key(guarded, png):
    """As every call does."""
    assert (await ending(guarded.ModelStreamInfer(iter([frame(png)]))))[:2] == ("UNAUTHENTICATED", "unauthorized")


async def test_each_frame_takes_a_token(guarded, keyring, access, clock, png):
    """The call's own is the first frame's. One over the rate is told so in its place, with the seconds to wait."""
    options = await as_caller(keyring, access, "one", rate=0.5, burst=2)
    answers = await answers_to(guarded, *(frame(png, str(index)) for index in range(3)), **options)
    assert [told(answer)[1] for answer in answers] == ["", "", "rate_limited"]
    assert told(answers[2])[2]["retry_after"] == 2
    clock.advance(2)
    assert [told(answer)[1] for answer in await answers_to(guarded, frame(png), **options)] == [""]


async def test_a_key_reaches_its_models_only(guarded, keyring, access, png):
    """Frame by frame, as if the others were not there."""
    options = await as_caller(keyring, access, "one", models=("toy",))
    frames = (frame(png, changes={"model_name": name}) for name in ("toy", "other", ""))
    answers = await answers_to(guarded, *frames, **options)
    assert [told(answer)[1] for answer in answers] == ["", "model_not_found", ""]


async def test_a_change_of_a_key_counts_for_open_streams(guarded, keyring, access, png):
    """From the next frame on."""
    options = await as_caller(keyring, access, "one", models=("toy",))
    call = guarded.ModelStreamInfer(**options)
    other = frame(png, changes={"model_name": "other"})
    await call.write(other)
    assert told(await call.read())[1] == "model_not_found"
    (key,) = access._callers.values()
    keyring.write(dataclasses.replace(key.key, models=None))
    await access.reload()
    await call.write(other)
    assert told(await call.read())[1] == ""
    call.cancel()


@pytest.mark.parametrize("sends", [False, True], ids=["idle", "with a frame in work"])
async def test_a_removed_key_ends_its_stream(guarded, keyring, access, held, png, sends):
    """UNAUTHENTICATED within about a second, without waiting for what is in work."""
    call = guarded.ModelStreamInfer(**await as_caller(keyring, access, "one"))
    await call.wait_for_connection()
    if sends:
        await call.write(frame(png))
        await until(lambda: held.tensors)
    keyring.remove("one")
    await access.reload()
    async with asyncio.timeout(30):
        assert (await ending(call))[:2] == ("UNAUTHENTICATED", "unauthorized")
    assert held.cancelled == sends


async def test_the_next_frame_of_a_removed_key_ends_its_stream(guarded, keyring, access, predictor, png, monkeypatch):
    """Without being worked on, and before the next look at the keys."""
    monkeypatch.setattr(rpc_stream, "_LOOK_INTERVAL_SECONDS", 60)
    call = guarded.ModelStreamInfer(**await as_caller(keyring, access, "one"))
    await call.write(frame(png, "before"))
    await until(lambda: predictor.tensors)
    keyring.remove("one")
    await access.reload()
    await call.write(frame(png, "after"))
    assert (await ending(call))[:2] == ("UNAUTHENTICATED", "unauthorized")
    assert len(predictor.tensors) == 1
