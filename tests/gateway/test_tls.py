"""TLS and mutual TLS on both faces, with real certificates; and what happens when they are renewed."""

import asyncio
import contextlib
import ssl

import aiohttp
import grpc
import pytest
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.files import TlsFiles
from gateway.rest.app import application
from gateway.rpc_server import serving_rpc
from gateway.tls import Tls, TlsError
from tests.certificates import HOST, Authority

FACES = ["rest", "grpc"]
JUNK = "no certificate, and no key"


@pytest.fixture
def authority(tmp_path):
    """The one that signs the server's certificates."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path):
    """One that nobody has a reason to trust."""
    return Authority(tmp_path / "stranger")


@pytest.fixture
def files(tmp_path, authority):
    """The files that the gateway is told, with a first certificate in them."""
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    install(authority.issue(), files)
    return files


@pytest.fixture
def serve(rest_face, rpc_face):
    """Serves both faces with the TLS of some files, for as long as the test runs; yields what renews it, and ports."""

    @contextlib.asynccontextmanager
    async def serve(files):
        tls = Tls(files)
        server = TestServer(application(rest_face), scheme="https")
        await server.start_server(ssl=tls.for_rest())
        async with server, serving_rpc(rpc_face, host=HOST, port=0, grace_seconds=5, tls=tls) as port:
            yield tls, {"rest": server.port, "grpc": port}

    return serve


def install(pair, files):
    """Put a certificate and its key in the place of those that are there."""
    for source, target in ((pair.certificate, files.certificate), (pair.key, files.key)):
        fresh = target.with_suffix(".new")
        fresh.write_bytes(source.read_bytes())
        fresh.replace(target)


async def shown(port):
    """The certificate that a server shows to whoever comes."""
    return await asyncio.to_thread(ssl.get_server_certificate, (HOST, port), timeout=30)


async def ask(face, port, trusted, pair=None):
    """Whether a caller who trusts an authority is answered; it shows a certificate of its own if it has one."""
    try:
        async with asyncio.timeout(30):
            return await {"rest": ask_rest, "grpc": ask_grpc}[face](port, trusted, pair)
    except (aiohttp.ClientError, grpc.aio.AioRpcError):
        return False


async def ask_rest(port, trusted, pair):
    context = ssl.create_default_context(cadata=trusted.pem.decode())
    if pair:
        context.load_cert_chain(pair.certificate, pair.key)
    async with aiohttp.ClientSession() as session, session.get(f"https://{HOST}:{port}/healthz", ssl=context) as answer:
        return answer.status == 200


async def ask_grpc(port, trusted, pair):
    credentials = grpc.ssl_channel_credentials(
        trusted.pem, pair and pair.key.read_bytes(), pair and pair.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(f"{HOST}:{port}", credentials) as channel:
        rpc = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return (await rpc.ServerLive(service_pb2.ServerLiveRequest())).live


@pytest.mark.parametrize("face", FACES)
async def test_who_trusts_the_authority_is_served(serve, files, authority, stranger, face):
    """Whoever trusts another one hangs up."""
    async with serve(files) as (_, ports):
        assert await ask(face, ports[face], authority)
        assert not await ask(face, ports[face], stranger)


@pytest.mark.parametrize("face", FACES)
async def test_plain_text_is_not_served(serve, files, face):
    """A caller who forgot the s of https gets no answer in the clear."""
    async with serve(files) as (_, ports):
        reader, writer = await asyncio.open_connection(HOST, ports[face])
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            answer = await reader.read()
        writer.close()
    assert b"alive" not in answer
    assert b"HTTP/1.1 200" not in answer


@pytest.mark.parametrize("version, is_served", [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
@pytest.mark.parametrize("face", FACES)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
async def test_old_versions_of_tls_are_refused(serve, files, authority, face, version, is_served):
    """1.2 is the oldest that counts as safe (RFC 8996)."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"] if face == "grpc" else ["http/1.1"])
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    async with serve(files) as (_, ports):
        try:
            _, writer = await asyncio.open_connection(HOST, ports[face], ssl=context)
        except (ssl.SSLError, ConnectionError):
            assert not is_served
        else:
            assert is_served
            writer.transport.abort()


@pytest.mark.parametrize("face", FACES)
async def test_mutual_tls_asks_for_a_certificate(serve, files, authority, tmp_path, face):
    """One that the clients' authority signed, be it another than the server's."""
    clients, others = Authority(tmp_path / "clients"), Authority(tmp_path / "others")
    files = TlsFiles(files.certificate, files.key, clients.path)
    async with serve(files) as (_, ports):
        assert await ask(face, ports[face], authority, clients.issue())
        assert not await ask(face, ports[face], authority)
        assert not await ask(face, ports[face], authority, others.issue())
        assert not await ask(face, ports[face], authority, authority.issue())


@pytest.mark.parametrize("face", FACES)
async def test_a_renewed_certificate_is_shown(serve, files, authority, face):
    """To each new connection, while one that is open goes on."""
    async with serve(files) as (tls, ports):
        before = await shown(ports[face])
        credentials = grpc.ssl_channel_credentials(authority.pem)
        async with grpc.aio.secure_channel(f"{HOST}:{ports['grpc']}", credentials) as channel:
            rpc = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert (await rpc.ServerLive(service_pb2.ServerLiveRequest())).live
            renewed = authority.issue()
            install(renewed, files)
            await tls.reload()
            assert (await rpc.ServerLive(service_pb2.ServerLiveRequest())).live
        after = await shown(ports[face])
        assert after != before
        assert renewed.certificate.read_text().startswith(after)
        assert await ask(face, ports[face], authority)


async def test_what_kubernetes_does_counts_as_a_renewal(serve, tmp_path, authority):
    """The files of a mounted Secret are links into a folder, which is itself a link that is put elsewhere."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        install(authority.issue(), TlsFiles(tmp_path / folder / "tls.crt", tmp_path / folder / "tls.key"))
    (tmp_path / "..data").symlink_to("first")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    async with serve(TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")) as (tls, ports):
        (tmp_path / "..data.new").symlink_to("second")
        (tmp_path / "..data.new").replace(tmp_path / "..data")
        await tls.reload()
        for port in ports.values():
            assert (tmp_path / "second" / "tls.crt").read_text().startswith(await shown(port))


@pytest.mark.parametrize("broken", ["certificate", "key"])
@pytest.mark.parametrize("content", [None, "", JUNK])
async def test_a_broken_renewal_changes_nothing(serve, files, authority, broken, content):
    """The log says why, once; what comes after it and is right counts again."""
    path = getattr(files, broken)
    async with serve(files) as (tls, ports):
        before = await shown(ports["rest"])
        path.unlink()
        if content is not None:
            path.write_text(content)
        with capture_logs() as logs:
            await tls.reload()
            await tls.reload()
        (error,) = logs
        assert (error["log_level"], error["event"]) == ("error", "the certificate stays as it was")
        assert str(path) in error["reason"]
        assert [await shown(port) for port in ports.values()] == [before] * 2
        install(authority.issue(), files)
        await tls.reload()
        after = [await shown(port) for port in ports.values()]
    assert after[0] == after[1] != before


async def test_half_a_renewal_changes_nothing(serve, files, authority):
    """A new certificate waits for its key."""
    renewed = authority.issue()
    async with serve(files) as (tls, ports):
        before = await shown(ports["rest"])
        files.certificate.write_bytes(renewed.certificate.read_bytes())
        await tls.reload()
        assert [await shown(port) for port in ports.values()] == [before] * 2
        files.key.write_bytes(renewed.key.read_bytes())
        await tls.reload()
        assert before not in [await shown(port) for port in ports.values()]


@pytest.mark.parametrize("face", FACES)
async def test_another_authority_replaces_the_one_before(serve, files, authority, tmp_path, face):
    """Whoever had a certificate of the old one is no longer let in."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    trusted = tmp_path / "client-ca.pem"
    trusted.write_bytes(old.pem)
    async with serve(TlsFiles(files.certificate, files.key, trusted)) as (tls, ports):
        assert await ask(face, ports[face], authority, old.issue())
        trusted.write_bytes(new.pem)
        await tls.reload()
        assert await ask(face, ports[face], authority, new.issue())
        assert not await ask(face, ports[face], authority, old.issue())


def encrypted(key):
    """The same key, under a passphrase."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x"))
    return serialization.load_pem_private_key(key, None).private_bytes(*form)


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_a_file_that_is_not_there_is_named(files, authority, tmp_path, which):
    """With the reason."""
    given = {"certificate": files.certificate, "key": files.key, "client_ca": authority.path}
    absent = tmp_path / "absent.pem"
    with pytest.raises(TlsError, match=r"absent\.pem can't be read: No such file or directory$"):
        Tls(TlsFiles(**given | {which: absent}))


@pytest.mark.parametrize(
    "which, says",
    [
        ("certificate", "holds no certificate in PEM form"),
        ("key", "holds no private key in PEM form, without a passphrase"),
        ("client_ca", "holds no certificate in PEM form"),
    ],
)
@pytest.mark.parametrize("content", [b"", JUNK.encode(), b"\xff\x00\xfe", "DER", "other kind"])
def test_a_file_that_is_not_pem_is_named(files, authority, tmp_path, which, says, content):
    """Also one that holds the other of the two, or the same as bytes."""
    given = {"certificate": files.certificate, "key": files.key, "client_ca": authority.path}
    if content == "DER":
        content = ssl.PEM_cert_to_DER_cert(authority.pem.decode())
    if content == "other kind":
        content = (files.certificate if which == "key" else files.key).read_bytes()
    wrong = tmp_path / "wrong.pem"
    wrong.write_bytes(content)
    with pytest.raises(TlsError, match=rf"wrong\.pem {says}$"):
        Tls(TlsFiles(**given | {which: wrong}))


def test_a_key_under_a_passphrase_is_refused(files):
    """OpenSSL would ask for it on the terminal."""
    files.key.write_bytes(encrypted(files.key.read_bytes()))
    with pytest.raises(TlsError, match="without a passphrase"):
        Tls(files)


def test_a_key_of_another_certificate_is_refused(files, authority):
    """Both files are named."""
    files.key.write_bytes(authority.issue().key.read_bytes())
    with pytest.raises(TlsError, match=r"the key .*tls\.key does not belong to the certificate .*tls\.crt"):
        Tls(files)


def test_words_around_a_certificate_are_let_be(files, authority):
    """In any language, as authorities like to write them."""
    files.certificate.write_bytes("Gültig für: wörk\n".encode() + files.certificate.read_bytes())
    Tls(TlsFiles(files.certificate, files.key, authority.path))
