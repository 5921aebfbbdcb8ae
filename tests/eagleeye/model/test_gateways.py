"""Waiting for gateways, and asking them, against servers that do as they are told."""

import contextlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eagleeye.model.gateways import GatewayError, Gateways


@contextlib.contextmanager
def gateway(answers, status=200):
    """One that gives these answers one after the other, the last one again and again; its address and what it saw."""
    rest, seen = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("X-API-Key")))
            body = json.dumps(rest.pop(0) if len(rest) > 1 else rest[0]).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def test_all_gateways_are_waited_for():
    """Until each of them shows the shares, in whatever unit its weights are."""
    with gateway([{"weights": {"1": 100}}, {"weights": {"1": 19, "2": 1}}]) as (one, seen):  # noqa: SIM117
        with gateway([{"weights": {"1": 95, "2": 5}}]) as (other, _):
            Gateways([f"{one}/", other], key="secret").until_weights("my ns", {1: 95, 2: 5}, 30)

    assert seen == [("/v1/models/my%20ns", "secret")] * 2


def test_a_gateway_that_does_not_follow_is_told():
    """With what it says, and why that may be."""
    with gateway([{"weights": {"1": 100}}]) as (url, _), pytest.raises(GatewayError) as caught:
        Gateways([url]).until_weights("ns", {2: 100}, 0.01)

    assert str(caught.value).startswith(
        f"{url} still gives 100 % to version 1 after 0.01 s, and not 100 % to version 2"
    )
    assert "--rollout-file" in str(caught.value)


def test_a_refusal_is_told_with_its_reason(unused_tcp_port):
    """A key that is missing, or nobody who listens."""
    with gateway([{"detail": "a key is needed"}], 401) as (url, _), pytest.raises(GatewayError) as caught:
        Gateways([url]).get("/v1/shadow")
    assert str(caught.value) == f"{url}/v1/shadow answers 401: a key is needed"

    with pytest.raises(GatewayError, match=f"cannot ask http://127.0.0.1:{unused_tcp_port}/v1/shadow: .*refused"):
        Gateways([f"http://127.0.0.1:{unused_tcp_port}"]).get("/v1/shadow")


@pytest.mark.parametrize("answer", [[], "weights", {"weights": ["1"]}, {"weights": {"1": "all"}}])
def test_an_answer_that_no_gateway_gives_is_told(answer):
    """Somebody else listens there."""
    with gateway([answer]) as (url, _), pytest.raises(GatewayError, match="answers what no gateway does"):
        Gateways([url]).until_weights("ns", {}, 1)


def test_a_server_that_does_not_speak_http_is_told():
    """Such as Triton's gRPC port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak_http_2():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"\0\0\22\4\n\n")

        thread = threading.Thread(target=speak_http_2)
        thread.start()
        with pytest.raises(GatewayError, match="does not speak HTTP; name the port of the gateway's REST face"):
            Gateways([f"http://127.0.0.1:{server.getsockname()[1]}"]).get("/v1/shadow")
        thread.join()


@pytest.mark.parametrize("url", ["a:1", "grpc://a:1", "http://", "http://[::1", "http://a:b", "http://a:99999"])
def test_what_is_no_address_is_refused(url):
    """As it was given, and with an example."""
    with pytest.raises(GatewayError, match=f"{re.escape(repr(url))} is no address of a gateway's REST face, such as"):
        Gateways([url])


@pytest.mark.parametrize("key", ["ключ", "a\nb"])
def test_a_key_that_no_header_holds_is_refused(key):
    """In words of ours, and without the key."""
    with pytest.raises(GatewayError, match=r"^the key must be a text of printable ASCII characters$"):
        Gateways(["http://a"], key)


def test_an_address_with_a_blank_is_told():
    """In one line, as it was given."""
    with pytest.raises(GatewayError, match="cannot ask http://a b/v1/shadow: "):
        Gateways(["http://a b"]).get("/v1/shadow")


def test_authorities_that_are_none_are_named(tmp_path):
    """By their file."""
    with pytest.raises(GatewayError, match="cannot read the authorities in"):
        Gateways([], ca_certificate=tmp_path / "nothing.pem")
