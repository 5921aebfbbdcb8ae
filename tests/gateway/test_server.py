"""The gateway as a process: what stops its start, and who it lets in."""

import dataclasses
import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

import click
import grpc
import pytest
from click.testing import CliRunner
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.__main__ import gateway as gateway_command
from gateway.settings import Origins, Seconds, ServingSettings, Settings, refuse_open_doors
from tests.certificates import Authority
from tests.gateway import raw_grpc
from triton_runtime.up import UpSettings, up

COMMAND = [sys.executable, "-m", "gateway", "--triton-url", "127.0.0.1:1", "--http-port", "0", "--grpc-port", "0"]


SERVICE = "inference.GRPCInferenceService"


@pytest.mark.parametrize("command, settings", [(gateway_command, Settings), (up, UpSettings)])
def test_help_shows_every_setting_in_its_group(command, settings):
    """Settings stand under headings, in the order in which they are declared there."""
    text = CliRunner().invoke(command, ["--help"]).output
    expected = {}
    for field in dataclasses.fields(settings):
        expected.setdefault(field.metadata["group"], []).append(f"--{field.name.replace('_', '-')}")
    shown = {}
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            shown[line.removesuffix(":")] = []
        elif line.startswith("  --"):
            shown[list(shown)[-1]].append(line.split()[0])
    assert shown == {**expected, "Other": ["--help"]}


class Gateway:
    """A gateway that runs, its log, and where its faces listen."""

    command: ClassVar = COMMAND

    def __init__(self, log, *options):
        self._log = log
        options = ("--log-format", "json", "--drain-seconds", "0", *options)
        with log.open("wb") as out:
            self.process = subprocess.Popen([*self.command, *options], stdout=out, stderr=out)
        faces = {"rest", "grpc", "admin"} if "--admin-port" in options else {"rest", "grpc"}
        while not faces <= self.addresses.keys():
            assert self.process.poll() is None, self.output
            time.sleep(0.02)

    @property
    def output(self):
        return self._log.read_text()

    @property
    def addresses(self):
        """By face; a line that is still being written does not count."""
        lines = [json.loads(line) for line in self.output.splitlines(keepends=True) if line.endswith("}\n")]
        return {line["face"]: line.get("url", line.get("address")) for line in lines if line["event"] == "listening"}

    def get(self, face, path, **headers):
        """Status and body of a GET."""
        url = self.addresses[face].replace("0.0.0.0", "127.0.0.1") + path
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def send(self, data):
        """The answer to bytes that may be no HTTP."""
        host, _, port = self.addresses["rest"].removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(data)
            return connection.makefile("rb").readline()


@pytest.fixture
def start(tmp_path):
    """Starts gateways, and sees to it that none outlives the test."""
    started = []

    def start(*options):
        started.append(Gateway(tmp_path / f"{len(started)}.log", *options))
        return started[-1]

    yield start
    for gateway in started:
        gateway.process.terminate()
        gateway.process.wait(60)


def refusal(*command):
    """The one line with which a command ends that must not start."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    return line


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
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    (line,) = [line for line in ended.stderr.splitlines() if not any(word in line for word in ("listening", "triton"))]
    assert ended.returncode == 1
    assert line.startswith("Error: can't listen: ")
    assert str(port) in line


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "soon"])
@pytest.mark.parametrize("least", [{}, {"min_open": True}])
def test_a_time_ends(text, least):
    """With `inf` a gateway would drain for ever."""
    with pytest.raises(click.BadParameter):
        Seconds(min=0, **least).convert(text, None, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "2001:db8::7", "board.example", ""])
@pytest.mark.parametrize("face", ["http", "grpc"])
def test_an_address_that_others_reach_needs_keys(face, host):
    """Whatever is not sure to be this machine alone; with keys, or if that is wanted, it may be had."""
    hosts = {"http_host": "127.0.0.1", "grpc_host": "127.0.0.1"} | {f"{face}_host": host}
    refuse_open_doors(ServingSettings(**hosts, keys_file=Path("keys.json")))
    refuse_open_doors(ServingSettings(**hosts, insecure=True))
    with pytest.raises(click.ClickException, match=f"--{face}-host"):
        refuse_open_doors(ServingSettings(**hosts))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_an_address_that_only_this_machine_reaches_needs_none(host):
    """A laptop is served as it always was."""
    refuse_open_doors(ServingSettings(http_host=host, grpc_host=host))


@pytest.mark.parametrize("option, host", [("--http-host", "0.0.0.0"), ("--grpc-host", "::")])
def test_a_public_address_without_keys_is_refused(option, host):
    """In one line that says what would be allowed."""
    line = refusal(*COMMAND, option, host)
    assert line.startswith(f"Error: {option} {host!r} can be reached from other machines")
    assert "--keys-file" in line
    assert "--insecure" in line


def test_up_refuses_a_public_address_as_well(tmp_path):
    """Before it starts or writes anything."""
    state = tmp_path / "state"
    line = refusal(sys.executable, "-m", "eagleeye", "up", "--http-host", "0.0.0.0", "--state-directory", str(state))
    assert line.startswith("Error: --http-host '0.0.0.0' can be reached from other machines")
    assert not state.exists()


def test_insecure_serves_everyone(start):
    """Whoever says so gets it."""
    gateway = start("--http-host", "0.0.0.0", "--grpc-host", "0.0.0.0", "--insecure")
    assert gateway.get("rest", "/v1/models")[0] == 200


def test_a_public_address_with_keys_asks_for_them(start, keyring):
    """And takes a key that is added while it runs."""
    gateway = start("--http-host", "0.0.0.0", "--keys-file", str(keyring.path))
    assert gateway.get("rest", "/v1/models")[0] == 401
    secret = keyring.add("late")
    deadline = time.monotonic() + 60
    while gateway.get("rest", "/v1/models", X_API_Key=secret)[0] != 200:
        assert time.monotonic() < deadline, gateway.output
        time.sleep(0.05)


def test_a_broken_keys_file_stops_the_start(keyring):
    """In one line that names the entry and what is allowed."""
    keyring.path.write_text('{"version": 1, "keys": [{"name": "camera-7", "sha256": "?"}]}')
    line = refusal(*COMMAND, "--keys-file", str(keyring.path))
    assert line.startswith("Error: ")
    assert "keys[0] 'camera-7': 'sha256' must be 64 lower-case hexadecimal digits" in line


def test_a_broken_rollout_file_stops_the_start(tmp_path):
    """In one line that names the file, the model and what is allowed."""
    path = tmp_path / "rollout.json"
    path.write_text('{"models": {"ns": {"weights": {"3": -5}}}}')
    line = refusal(*COMMAND, "--rollout-file", str(path))
    assert line.startswith(f"Error: the rollout file {path} is wrong: models['ns']: 'weights': the weight of version 3")


@pytest.mark.parametrize("origins", ["https://a.example/path", "a.example", "*,https://a.example", "null"])
def test_an_origin_that_no_browser_sends_is_refused(origins):
    """It would silently allow nothing."""
    with pytest.raises(click.BadParameter, match="is no origin such as"):
        Origins().convert(origins, None, None)


@pytest.mark.parametrize(
    "text, origins",
    [
        ("", ()),
        ("*", ("*",)),
        ("https://A.example, http://127.0.0.1:3000", ("https://a.example", "http://127.0.0.1:3000")),
    ],
)
def test_origins_are_a_list(text, origins):
    """Separated by commas, in lower case as browsers write them."""
    assert Origins().convert(text, None, None) == origins


def test_an_admin_port_is_a_port_of_its_own(start, keyring):
    """It serves probes and metrics without a key, and nothing else does."""
    gateway = start("--admin-port", "0", "--keys-file", str(keyring.path), "--cors-origins", "https://a.example")
    assert gateway.get("admin", "/healthz")[0] == 200
    assert gateway.get("admin", "/readyz")[0] == 503  # there is no Triton
    assert "eagleeye_inflight" in gateway.get("admin", "/metrics")[1]
    (triton,) = json.loads(gateway.get("admin", "/v1/triton")[1])["endpoints"]
    assert (triton["endpoint"], triton["state"]) == ("127.0.0.1:1", "lost")
    assert gateway.get("admin", "/v1/models")[0] == 404
    assert gateway.get("rest", "/v1/triton")[0] in {401, 404}
    assert gateway.get("rest", "/healthz")[0] == 404


def test_no_key_gets_into_logs_or_metrics(start, keyring):
    """Whether known or not, wherever it is sent, and even if the request is no HTTP; the key's name does."""
    known, unknown = keyring.add("camera-7", rate=1000), "an-unknown-secret"
    gateway = start("--keys-file", str(keyring.path))
    for secret in (known, unknown):
        for headers in ({"X_API_Key": secret}, {"Authorization": f"Bearer {secret}"}, {"Authorization": secret}):
            gateway.get("rest", "/v1/models/toy", **headers)
            gateway.get("rest", f"/v1/detect?key={secret}", **headers)
        for malformed in (
            f"Authorization: Bearer {secret}\0",
            f"X-API-Key {secret}",
            f"Content-Length: {secret}",
            f"X-API-Key: {secret}{'x' * 20_000}",
        ):
            answer = gateway.send(f"GET / HTTP/1.1\r\nHost: x\r\n{malformed}\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.0 400 ")
        with grpc.insecure_channel(gateway.addresses["grpc"]) as channel:
            rpc = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for metadata in ((("x-api-key", secret),), (("authorization", f"Bearer {secret}"),)):
                with pytest.raises(grpc.RpcError):
                    rpc.ModelInfer(service_pb2.ModelInferRequest(), metadata=metadata)
    status, metrics = gateway.get("rest", "/metrics", X_API_Key=known)
    assert status == 200
    assert 'code="unauthorized"' in metrics
    assert gateway.output.count('"key":"camera-7"') == 6
    assert gateway.output.count("malformed request: ") == 8
    for secret in (known, unknown):
        assert secret not in gateway.output
        assert secret not in metrics


@pytest.mark.parametrize(
    "path", [b"/inference.GRPCInferenceService/\xff\xfe", b"\xff", b"/\xff/ServerLive", b"no path", b"/"], ids=repr
)
def test_a_path_that_is_none_ends_its_call_only(start, path):
    """One that is not UTF-8 stopped the whole server of gRPC 1.84 and 1.85."""
    gateway = start()
    assert b"grpc-status" in raw_grpc.call(gateway.addresses["grpc"], path)
    with grpc.insecure_channel(gateway.addresses["grpc"]) as channel:
        rpc = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert rpc.ServerLive(service_pb2.ServerLiveRequest(), timeout=60, wait_for_ready=False).live


class Crashing(Gateway):
    """One whose gRPC server ends at the first call, as 1.84 did where the call's path was not UTF-8."""

    program = """
import asyncio

create_task = asyncio.BaseEventLoop.create_task

def failing(loop, coroutine, **options):
    if coroutine.__qualname__ == "_schedule_rpc_coro":
        coroutine.close()
        raise ValueError("out of luck")
    return create_task(loop, coroutine, **options)

asyncio.BaseEventLoop.create_task = failing
from gateway.__main__ import gateway
gateway()
"""
    command: ClassVar = [sys.executable, "-c", program, *COMMAND[3:]]


def test_a_grpc_server_that_ends_by_itself_ends_the_gateway(tmp_path):
    """REST drains as ever, and the exit code tells whoever keeps the process; the log says why."""
    gateway = Crashing(tmp_path / "gateway.log")
    try:
        with grpc.insecure_channel(gateway.addresses["grpc"]) as channel, pytest.raises(grpc.RpcError):
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=60)
        assert gateway.process.wait(60) == 1
    finally:
        gateway.process.kill()
        gateway.process.wait()
    *log, last = gateway.output.splitlines()
    events = [json.loads(line) for line in log if line.startswith("{")]
    (crash,) = [event for event in events if event["event"].startswith("the gRPC server has ended by itself")]
    assert "out of luck" in crash["exception"]
    assert [event["event"] for event in events[events.index(crash) + 1 :]] == ["draining", "stopping"]
    assert last == "Error: the gRPC server has ended by itself; the log says why"


def test_metadata_that_are_no_text_are_not_quoted(start, keyring):
    """GRPC would log a traceback with the bytes, which may hold a key."""
    secret = keyring.add("camera-7").encode()
    gateway = start("--keys-file", str(keyring.path))
    for metadata in ((b"x-api-key", b"\xff" + secret), (b"authorization", b"Bearer \xff" + secret)):
        answer = raw_grpc.call(gateway.addresses["grpc"], f"/{SERVICE}/ServerMetadata".encode(), [metadata])
        assert b"unauthorized" in answer
    assert secret.decode() not in gateway.output
    assert "Traceback" not in gateway.output
    assert "metadata that are not UTF-8" in gateway.output


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "authority")


def ask_rest(gateway, trusted, pair=None):
    """Status of a GET over TLS."""
    context = ssl.create_default_context(cadata=trusted.pem.decode())
    if pair:
        context.load_cert_chain(pair.certificate, pair.key)
    with urllib.request.urlopen(gateway.addresses["rest"] + "/v2/health/live", timeout=60, context=context) as response:
        return response.status


def ask_grpc(gateway, trusted, pair=None):
    """Whether it says that it lives, over TLS."""
    given = (pair.key.read_bytes(), pair.certificate.read_bytes()) if pair else (None, None)
    with grpc.secure_channel(gateway.addresses["grpc"], grpc.ssl_channel_credentials(trusted.pem, *given)) as channel:
        rpc = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return rpc.ServerLive(service_pb2.ServerLiveRequest(), timeout=60).live


def shown(gateway, face):
    """The certificate that a face shows."""
    host, _, port = gateway.addresses[face].removeprefix("https://").rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=60)


def test_one_set_of_files_serves_both_faces_with_tls(start, authority):
    """A renewal is taken up while the gateway runs; the admin port stays as it is."""
    pair, renewed = authority.issue(), authority.issue()
    gateway = start("--tls-certificate", pair.certificate, "--tls-key", pair.key, "--admin-port", "0")
    assert ask_rest(gateway, authority) == 200
    assert ask_grpc(gateway, authority)
    assert gateway.get("admin", "/healthz")[0] == 200
    pair.key.write_bytes(renewed.key.read_bytes())
    pair.certificate.write_bytes(renewed.certificate.read_bytes())
    deadline = time.monotonic() + 60
    for face in ("rest", "grpc"):
        while not renewed.certificate.read_text().startswith(shown(gateway, face)):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_mutual_tls_opens_an_address_to_those_with_a_certificate(start, authority, tmp_path):
    """It needs neither keys nor --insecure, and lets nobody else in."""
    pair, clients = authority.issue(), Authority(tmp_path / "clients")
    files = ("--tls-certificate", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", clients.path)
    gateway = start(*files, "--http-host", "127.0.0.1", "--grpc-host", "127.0.0.1")
    refuse_open_doors(
        ServingSettings(
            http_host="0.0.0.0", tls_certificate=pair.certificate, tls_key=pair.key, tls_client_ca=clients.path
        )
    )
    assert ask_rest(gateway, authority, clients.issue()) == 200
    assert ask_grpc(gateway, authority, clients.issue())
    with pytest.raises(OSError, match=r"certificate required|EOF|reset|closed"):
        ask_rest(gateway, authority)
    with pytest.raises(grpc.RpcError):
        ask_grpc(gateway, authority)


def test_tls_alone_does_not_open_an_address(authority):
    """Whoever may listen is one thing, who may ask another."""
    pair = authority.issue()
    settings = ServingSettings(http_host="0.0.0.0", tls_certificate=pair.certificate, tls_key=pair.key)
    with pytest.raises(click.ClickException, match="--tls-client-ca"):
        refuse_open_doors(settings)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"--tls-key": "key"}, "--tls-certificate and --tls-key go together"),
        ({"--tls-certificate": "certificate"}, "--tls-certificate and --tls-key go together"),
        ({"--tls-client-ca": "certificate"}, "--tls-client-ca needs --tls-certificate and --tls-key"),
        ({"--tls-certificate": "absent", "--tls-key": "key"}, "can't be read: No such file or directory"),
        ({"--tls-certificate": "key", "--tls-key": "key"}, "holds no certificate in PEM form"),
        ({"--tls-certificate": "certificate", "--tls-key": "other"}, "does not belong to the certificate"),
    ],
)
def test_wrong_tls_files_stop_the_start(authority, tmp_path, given, says):
    """In one line that says what is wrong."""
    pair, other = authority.issue(), authority.issue()
    files = {"certificate": pair.certificate, "key": pair.key, "other": other.key, "absent": tmp_path / "absent"}
    line = refusal(*COMMAND, *(f"{option}={files[name]}" for option, name in given.items()))
    assert line.startswith("Error: ")
    assert says in line


def test_up_with_mutual_tls_needs_an_admin_port(authority, tmp_path):
    """Nobody gave `eagleeye up` a certificate with which to ask."""
    pair, state = authority.issue(), tmp_path / "state"
    files = ("--tls-certificate", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", authority.path)
    line = refusal(sys.executable, "-m", "eagleeye", "up", *files, "--state-directory", state)
    assert line.startswith("Error: --tls-client-ca needs --admin-port")
    assert not state.exists()
