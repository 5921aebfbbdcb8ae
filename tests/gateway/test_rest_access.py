"""Keys, limits, the admin port and other origins' pages, over real HTTP."""

import dataclasses

import pytest
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from gateway.access import Access, Permitted
from gateway.detector import Detector
from gateway.rest.access import OPEN_PATHS
from gateway.rest.app import admin_application, application
from tests.fakes import MODEL
from tests.gateway.conftest import LIMITS, admission
from tests.gateway.test_rest import problem


@pytest.fixture
def access(keyring, clock):
    return Access(keyring.path, clock)


@pytest.fixture
def permitted(predictor):
    """What the gateway puts in front of Triton when keys are on; two models are served."""
    predictor.models["other"] = dataclasses.replace(MODEL, name="other")
    return Permitted(predictor)


@pytest.fixture
async def serve():
    """Starts real servers; returns a client of each."""
    clients = []

    async def serve(app):
        clients.append(TestClient(TestServer(app, handler_cancellation=True)))
        await clients[-1].start_server()
        return clients[-1]

    yield serve
    for client in clients:
        await client.close()


@pytest.fixture
async def guarded(serve, rest_face, access, permitted, metrics):
    """A client of a server that asks for keys."""
    async with Detector(permitted, LIMITS, admission(metrics), metrics, threads=1) as detector:
        core = dataclasses.replace(rest_face.core, detector=detector, predictor=permitted, access=access)
        yield await serve(application(dataclasses.replace(rest_face, core=core)))


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/models", "/metrics", "/v2", "/nothing"])
async def test_no_key_is_unauthorized(guarded, path):
    """401 that names the scheme, whatever is behind the path."""
    response = await guarded.get(path)
    status, code, detail = await problem(response)
    assert (status, code) == (401, "unauthorized")
    assert "X-API-Key" in detail
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_a_wrong_key_is_unauthorized(guarded, keyring, access, png):
    """However it is sent; a large body is not waited for."""
    secret = keyring.add("one")
    await access.reload()
    for headers in (bearer(secret + "x"), {"X-API-Key": "x"}, {"Authorization": f"Basic {secret}"}):
        response = await guarded.post("/v1/detect", data=png, headers=headers)
        assert (await problem(response))[:2] == (401, "unauthorized")


async def test_a_known_key_is_let_in(guarded, keyring, access, png):
    """By either header, on every route."""
    secret = keyring.add("one")
    await access.reload()
    for headers in (bearer(secret), {"X-API-Key": secret}):
        assert (await guarded.post("/v1/detect?model=toy", data=png, headers=headers)).status == 200
        assert (await guarded.get("/v1/models", headers=headers)).status == 200
        assert (await guarded.get("/metrics", headers=headers)).status == 200


async def test_a_key_that_is_removed_stops_working(guarded, keyring, access):
    """While the gateway runs, and on a connection that it has used before."""
    secret = keyring.add("one")
    await access.reload()
    assert (await guarded.get("/v1/models", headers=bearer(secret))).status == 200
    keyring.remove("one")
    await access.reload()
    assert (await guarded.get("/v1/models", headers=bearer(secret))).status == 401


async def test_probes_and_the_description_need_no_key(guarded):
    """An orchestrator has none, and a newcomer has to read somewhere that one is needed."""
    assert {path: (await guarded.get(path)).status for path in OPEN_PATHS} == dict.fromkeys(OPEN_PATHS, 200)


async def test_what_needs_no_key_names_no_model(guarded):
    """Names are for those who may use them."""
    for path in OPEN_PATHS:
        text = await (await guarded.get(path)).text(errors="replace")
        assert "toy" not in text
        assert "other" not in text.split('"')


async def test_a_rate_limit_is_kept_to_the_request(guarded, keyring, access, clock):
    """Two at once and one a second: the third is refused until a second has passed; every answer says what is left."""
    headers = bearer(keyring.add("one", rate=1, burst=2))
    await access.reload()

    async def ask():
        response = await guarded.get("/v1/models", headers=headers)
        assert response.headers["RateLimit-Policy"] == '"key";q=2;w=2'
        return response.status, response.headers["RateLimit"], response.headers.get("Retry-After")

    assert await ask() == (200, '"key";r=1;t=1', None)
    assert await ask() == (200, '"key";r=0;t=1', None)
    assert await ask() == (429, '"key";r=0;t=1', "1")
    clock.advance(0.999)
    assert await ask() == (429, '"key";r=0;t=1', "1")
    clock.advance(0.001)
    assert await ask() == (200, '"key";r=0;t=1', None)
    clock.advance(60)
    assert await ask() == (200, '"key";r=1;t=1', None)


async def test_a_refusal_by_rate_is_a_problem(guarded, keyring, access, png):
    """429 that says when to come back; the log has the key's name, and the caller's haste is no warning."""
    headers = {"X-API-Key": keyring.add("hasty", rate=0.1)}
    await access.reload()
    await guarded.get("/v1/models", headers=headers)
    with capture_logs() as logs:
        response = await guarded.post("/v1/detect", data=png, headers=headers)
    status, code, detail = await problem(response)
    assert (status, code) == (429, "rate_limited")
    assert "10 s" in detail
    assert response.headers["Retry-After"] == "10"
    (line,) = logs
    assert line.items() >= {"key": "hasty", "code": "rate_limited", "log_level": "info"}.items()


async def test_errors_tell_the_quota_as_well(guarded, keyring, access):
    """A request that fails has been counted."""
    headers = {"X-API-Key": keyring.add("one", rate=5)}
    await access.reload()
    response = await guarded.get("/nothing", headers=headers)
    assert (response.status, response.headers["RateLimit"]) == (404, '"key";r=4;t=1')


async def test_a_key_without_a_rate_has_no_quota(guarded, keyring, access):
    """And no headers of one."""
    headers = {"X-API-Key": keyring.add("one")}
    await access.reload()
    response = await guarded.get("/v1/models", headers=headers)
    assert not {"RateLimit", "RateLimit-Policy"} & set(response.headers)


async def test_a_key_sees_its_models_only(guarded, keyring, access, png):
    """What it may not use is as if it were not there: in lists, look-ups, detections and the words of errors."""
    headers = {"X-API-Key": keyring.add("one", models=("toy",))}
    everything = {"X-API-Key": keyring.add("two")}
    await access.reload()

    async def names(headers):
        listed = await (await guarded.get("/v1/models", headers=headers)).json()
        return [model["name"] for model in listed["models"]]

    assert await names(headers) == ["toy"]
    assert await names(everything) == ["other", "toy"]
    for response in (
        await guarded.get("/v1/models/other", headers=headers),
        await guarded.get("/v2/models/other", headers=headers),
        await guarded.post("/v1/detect?model=other", data=png, headers=headers),
    ):
        assert response.status == 404
        assert "served are: toy" in await response.text()
    response = await guarded.post("/v1/detect", data=png, headers=headers)
    assert (await response.json())["model"]["name"] == "toy"
    assert (await guarded.post("/v1/detect", data=png, headers=everything)).status == 404  # it must name one of two


async def test_the_log_line_has_the_name_of_the_key(guarded, keyring, access, metrics, png):
    """And an unknown key has none; refused detections are counted."""
    secret = keyring.add("camera-7")
    await access.reload()
    with capture_logs() as logs:
        await guarded.post("/v1/detect?model=toy", data=png, headers=bearer(secret))
        await guarded.post("/v1/detect?model=toy", data=png)
    assert [(line["code"], line.get("key")) for line in logs] == [("ok", "camera-7"), ("unauthorized", None)]
    labels = {"face": "rest", "model": "", "code": "unauthorized"}
    assert metrics.registry.get_sample_value("eagleeye_requests_total", labels) == 1


async def test_an_admin_port_serves_probes_and_nothing_else(serve, rest_face, access):
    """Without a key; and the face's own port no longer has them."""
    face = dataclasses.replace(rest_face, core=dataclasses.replace(rest_face.core, access=access), has_admin_port=True)
    main, admin = await serve(application(face)), await serve(admin_application(face, dict))
    probes = ("/healthz", "/readyz", "/metrics")
    assert [(await admin.get(path)).status for path in probes] == [200] * 3
    assert [(await admin.get(path)).status for path in ("/v1/models", "/docs", "/v2/health/live")] == [404] * 3
    assert (await problem(await admin.post("/v1/detect")))[:2] == (404, "not_found")
    assert [(await main.get(path)).status for path in probes] == [404, 404, 401]


async def test_without_an_admin_port_and_keys_everything_is_open(rest):
    """As on a laptop."""
    assert [(await rest.get(path)).status for path in ("/healthz", "/metrics", "/v1/models")] == [200] * 3


ORIGIN = "https://board.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}


@pytest.fixture
def shared(serve, rest_face, access):
    """Makes a client of a server that asks for keys and lets pages from some origins call it."""
    core = dataclasses.replace(rest_face.core, access=access)

    async def shared(*origins):
        return await serve(application(dataclasses.replace(rest_face, core=core, cors_origins=origins)))

    return shared


def cors(response):
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control-")}


async def test_a_preflight_is_answered_without_a_key(shared):
    """A browser asks it without one, and is told what it may send."""
    client = await shared(ORIGIN)
    response = await client.options("/v1/detect", headers={"Origin": ORIGIN, **PREFLIGHT})
    assert response.status == 204
    allowed = cors(response)
    assert allowed["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in allowed["Access-Control-Allow-Methods"]
    headers = allowed["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "x-api-key", "content-type", "inference-header-content-length"} <= set(headers)
    assert allowed["Access-Control-Max-Age"] == "600"
    assert response.headers["Vary"] == "Origin"


async def test_an_allowed_page_reads_answers_and_errors(shared, keyring, access):
    """With the headers that tell of limits; a refusal that a page can't read would look like a network that is down."""
    client = await shared(ORIGIN)
    secret = keyring.add("page", rate=1)
    await access.reload()
    for headers, status in (({}, 401), ({"X-API-Key": secret}, 200), ({"X-API-Key": secret}, 429)):
        response = await client.get("/v1/models", headers={"Origin": ORIGIN, **headers})
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy"} <= set(exposed)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://board.example", f"{ORIGIN}.evil.example", "null"])
async def test_other_pages_get_no_permission(shared, origin):
    """Neither before a request nor after it; what is told apart by origin says so to caches."""
    client = await shared(ORIGIN)
    asked = await client.options("/v1/detect", headers={"Origin": origin, **PREFLIGHT})
    answered = await client.get("/healthz", headers={"Origin": origin})
    assert (asked.status, answered.status) == (401, 200)
    assert cors(asked) == cors(answered) == {}
    assert asked.headers["Vary"] == answered.headers["Vary"] == "Origin"


async def test_any_page_may_call_where_all_are_allowed(shared):
    """But never with cookies."""
    client = await shared("*")
    response = await client.get("/healthz", headers={"Origin": "null"})
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert "Vary" not in response.headers


async def test_no_page_may_call_by_default(rest):
    """Nothing is allowed that was not asked for."""
    asked = await rest.options("/v1/detect", headers={"Origin": ORIGIN, **PREFLIGHT})
    assert asked.status == 405
    assert cors(asked) == cors(await rest.get("/healthz", headers={"Origin": ORIGIN})) == {}
