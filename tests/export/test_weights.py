"""Official checkpoints by name, against a server that breaks, stalls, redirects and lies."""

import hashlib
import json
import multiprocessing
import random
import socket
import urllib.parse
import urllib.request

import pytest
from click.testing import CliRunner

from eagleeye.cli import main
from export.download import Patience, _NoDowngrade, download
from export.errors import DownloadError, OptionError
from export.labels import read_labels
from export.official import CHECKPOINTS, COCO_LABELS
from export.repository import find_published
from export.variants import VARIANTS
from export.weights import WeightsSettings, official_checkpoint
from tests.export.file_server import FileServer

CONTENT = b"PK\x03\x04" + random.Random(0).randbytes(300_000)
NAME = "damoyolo_tinynasL20_T_420.pth"
QUICK = Patience(stall_seconds=2, attempts=3, pause_seconds=0.01)


@pytest.fixture
def server():
    with FileServer.running() as server:
        server.content = CONTENT
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Whatever proxy the machine has is none of these tests'."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def settings(server, tmp_path):
    return WeightsSettings(tmp_path / "weights", tmp_path / "lock" / "weights.lock.json", server.url, QUICK)


@pytest.fixture
def fetch(settings, lines):
    def fetch(variant="T", weights="official", **changes):
        changed = {name: getattr(settings, name) for name in WeightsSettings.__slots__} | changes
        return official_checkpoint(variant, weights, WeightsSettings(**changed), lines.append)

    return fetch


def pins(settings):
    return json.loads(settings.lock_file.read_text())


def left(settings):
    return sorted(path.name for path in settings.directory.iterdir())


def test_every_variant_has_an_address():
    """One https address each, and a distilled one of the general models; the files' names tell them apart."""
    published = [row for kinds in CHECKPOINTS.values() for row in kinds.values()]

    assert list(CHECKPOINTS) == list(VARIANTS)
    assert all("official" in kinds for kinds in CHECKPOINTS.values())
    assert [name for name, kinds in CHECKPOINTS.items() if len(kinds) == 2] == ["T", "S", "M", "L"]
    assert len({row.file_name for row in published}) == len(published) == 12
    assert {urllib.parse.urlsplit(row.url).scheme for row in published} == {"https"}
    assert all(row.file_name.endswith(".pth") for row in published)


def test_coco_labels():
    """The 80 names in the order of COCO's categories."""
    labels = read_labels(COCO_LABELS)

    assert len(labels) == 80
    assert (labels[0], labels[5], labels[39], labels[79]) == ("person", "bus", "bottle", "toothbrush")


def test_first_use_pins(fetch, settings, server, lines):
    """The file arrives whole; its address, size and digest go into the lock file and are told."""
    path = fetch()

    digest = hashlib.sha256(CONTENT).hexdigest()
    assert path == settings.directory / NAME
    assert path.read_bytes() == CONTENT
    assert left(settings) == [NAME]
    assert pins(settings) == {
        NAME: {"url": CHECKPOINTS["T"]["official"].url, "size_bytes": len(CONTENT), "sha256": digest}
    }
    assert server.requests == [(f"/{NAME}", None)]
    assert lines[0] == f"downloading {server.url}/{NAME}"
    assert "0.3 MB of 0.3 MB (100%)" in lines[1]
    assert lines[-1] == f"{path}: 0.3 MB, SHA-256 {digest}, pinned in {settings.lock_file}"


def test_second_use_asks_nobody(fetch, server):
    """What is there and fits its pin is not fetched again."""
    first = fetch()

    assert fetch() == first
    assert len(server.requests) == 1


def test_pins_of_others_stay(fetch, settings):
    """A further checkpoint is one more entry."""
    fetch()
    fetch("S", "official-distilled")

    assert sorted(pins(settings)) == [NAME, "damoyolo_tinynasL25_S_477.pth"]


def test_wrong_hash(fetch, settings, server):
    """Another file than the pinned one is refused and removed, and the pin stays."""
    fetch().unlink()
    before = pins(settings)
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])

    with pytest.raises(DownloadError, match=r"SHA-256 \w{64}, but .*weights.lock.json pins 300004 bytes and \w{64}"):
        fetch()

    assert left(settings) == []
    assert pins(settings) == before


def test_damage_on_the_disk_is_mended(fetch, lines):
    """A file that no longer fits its pin is fetched again."""
    path = fetch()
    path.write_bytes(CONTENT[:1000])

    assert fetch().read_bytes() == CONTENT
    assert f"{path} is damaged; it is replaced" in lines


def test_broken_transfers_are_resumed(fetch, server, lines):
    """A transfer that breaks goes on from where it broke, as often as it brings something."""
    server.faults = [server.breaks_after(100_000)] * 3

    path = fetch()

    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, *(f"bytes={n}00000-" for n in (1, 2, 3))]
    assert "the transfer ended after 200000 of 300004 bytes; trying again" in lines


def test_next_run_resumes(fetch, settings, server, lines):
    """What one run left the next one goes on from."""
    server.faults = [server.breaks_after(200_000), *[server.status(503)] * 3]
    with pytest.raises(DownloadError, match="the server answers 503 Service Unavailable; tried 3 times"):
        fetch()
    assert left(settings) == [f"{NAME}.part", f"{NAME}.part.json"]

    assert fetch().read_bytes() == CONTENT
    assert server.requests[-1] == (f"/{NAME}", "bytes=200000-")
    assert f"{NAME}: going on after 0.2 MB" in lines


def test_changed_file_is_begun_anew(fetch, server):
    """Where the server's file is another one by now, nothing of the old one is used."""
    server.faults = [server.breaks_after(200_000), *[server.status(503)] * 3]
    with pytest.raises(DownloadError):
        fetch()
    server.content, server.etag = b"PK\x03\x04" + bytes(250_000), '"two"'

    assert fetch().read_bytes() == server.content


def test_without_validator_begun_anew(fetch, server):
    """A server that names no version of its file gets no Range: the rest might be another file's."""
    server.etag = ""
    server.faults = [server.breaks_after(100_000)]

    assert fetch().read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, None]


def test_wrong_part_is_begun_anew(fetch, server):
    """A server that sends another part than was asked for spoils nothing."""

    def wrong_part(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 5-9/300004")
        handler.send_header("Content-Length", "5")
        handler.end_headers()
        handler.wfile.write(b"wrong")

    server.faults = [server.breaks_after(100_000), wrong_part]

    assert fetch().read_bytes() == CONTENT


def test_part_longer_than_the_file(fetch, server):
    """A part that reaches beyond the file (416) is dropped."""
    server.faults = [server.breaks_after(100_000), server.status(416)]

    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed(fetch, server, code):
    """To wherever they lead, also when resuming."""
    server.faults = [server.status(code, Location=f"{server.url}/elsewhere"), server.breaks_after(100_000)]

    assert fetch().read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == [f"/{NAME}", "/elsewhere", f"/{NAME}"]
    assert server.requests[-1][1] == "bytes=100000-"


@pytest.mark.parametrize(
    "target, words",
    [("file:///etc/passwd", "the server answers 302"), ("ftp://127.0.0.1/x", "less safe; refused")],
)
def test_redirects_out_of_http_are_refused(fetch, server, target, words):
    """A redirect to the file system or to FTP is no download."""
    server.faults = [server.status(302, Location=target)]

    with pytest.raises(DownloadError, match=words):
        fetch()


def test_redirects_never_leave_https():
    """What was asked for over https is not taken from a place that can be forged."""
    request = urllib.request.Request("https://weights.example/a")

    with pytest.raises(DownloadError, match=r"redirects to http://weights\.example/b, which is less safe"):
        _NoDowngrade().redirect_request(request, None, 302, "Found", {}, "http://weights.example/b")


def test_redirects_without_end(fetch, server):
    """A circle ends with a message."""
    server.faults = [server.status(302, Location="/again")] * 50

    with pytest.raises(DownloadError, match="the server answers 302"):
        fetch()


def test_slow_answers(fetch, server, lines, monkeypatch):
    """A slow server is waited for while bytes come, and the progress is told."""
    monkeypatch.setattr("export.download.REPORT_SECONDS", 0.05)
    server.faults = [server.drips(50_000, 0.1)]

    assert fetch().read_bytes() == CONTENT
    assert len([line for line in lines if line.startswith(f"{NAME}: ")]) > 3


def test_stalls_are_resumed(fetch, server, lines):
    """A server that falls silent is asked again, for the rest."""
    server.faults = [server.stalls_after(100_000)]

    assert fetch().read_bytes() == CONTENT
    assert "nothing arrived for 2 s; trying again" in lines
    assert server.requests[-1][1] == "bytes=100000-"


@pytest.mark.parametrize(
    "code, attempts, words",
    [(404, 1, "404 Not Found"), (403, 1, "403 Forbidden"), (407, 1, "proxy wants a login"), (500, 3, "tried 3 times")],
)
def test_refusals(fetch, server, code, attempts, words):
    """What no retry can mend is told at once, with another way; what may pass is tried again."""
    server.faults = [server.status(code)] * 9

    with pytest.raises(DownloadError, match=words) as failure:
        fetch()

    assert len(server.requests) == attempts
    assert "name the file with --checkpoint, or its directory with --weights-mirror" in str(failure.value)


@pytest.mark.parametrize(
    "content, words",
    [(b" <!doctype html><title>Login</title>", "a web page"), (b"", "nothing"), (b"GIF89a", "something else")],
)
def test_no_checkpoint(fetch, settings, server, content, words):
    """What is no PyTorch file is neither kept nor pinned."""
    server.content = content

    with pytest.raises(DownloadError, match=f"not a PyTorch file but {words}"):
        fetch()

    assert left(settings) == []
    assert not settings.lock_file.exists()


def test_endless_answers(fetch, server, monkeypatch):
    """Neither an answer that says it is huge nor one without a length fills the disk."""
    monkeypatch.setattr("export.download.MAX_BYTES", 200_000)

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT)
        handler.close_connection = True

    server.faults = [server.whole, endless]
    with pytest.raises(DownloadError, match=r"has 0.3 MB; more than 0.2 MB are refused"):
        fetch()
    with pytest.raises(DownloadError, match="has no end"):
        fetch()


def test_no_server(fetch, unused_tcp_port):
    """A refused connection."""
    with pytest.raises(DownloadError, match="nothing answers at the server; tried 3 times"):
        fetch(mirror=f"http://127.0.0.1:{unused_tcp_port}")


def test_offline(fetch, monkeypatch):
    """No name server: in plain words, at once."""

    def unknown(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(DownloadError, match=r"no address is known for the server, so this machine is offline"):
        fetch(mirror=None)


def test_proxy_is_used_and_named(fetch, server, monkeypatch, unused_tcp_port):
    """The usual variables are honoured; a proxy that is away is named, without its password."""
    monkeypatch.setenv("http_proxy", server.url)
    assert fetch(mirror="http://weights.example").read_bytes() == CONTENT
    assert server.requests[0][0] == f"http://weights.example/{NAME}"

    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{unused_tcp_port}")
    with pytest.raises(DownloadError, match=f"nothing answers at the proxy 127.0.0.1:{unused_tcp_port}") as failure:
        fetch("S", mirror="http://weights.example")
    assert "secret" not in str(failure.value)


def test_mirror_directory(fetch, settings, tmp_path, server):
    """A directory serves as a mirror, without network, and what it holds is pinned all the same."""
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / NAME).write_bytes(CONTENT)

    assert fetch(mirror=str(tmp_path / "mirror")).read_bytes() == CONTENT
    assert pins(settings)[NAME]["size_bytes"] == len(CONTENT)
    with pytest.raises(DownloadError, match=r"holds no damoyolo_nano_small\.pth\. Fetch https://"):
        fetch("Ns", mirror=str(tmp_path / "mirror"))
    assert server.requests == []


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"variant": "Ns", "weights": "official-distilled"},
            "Ns was not published as 'official-distilled'; T, S, M, L",
        ),
        ({"weights": "best"}, "no weights 'best'; choose from official, official-distilled"),
        ({"mirror": "ftp://weights.example"}, "must be a directory or begin with http:// or https://"),
    ],
)
def test_impossible_options(fetch, changes, words):
    """Told before anything is fetched."""
    with pytest.raises(OptionError, match=words):
        fetch(**changes)


@pytest.mark.parametrize("text", ["{", "[]", '{"a.pth": {}}'])
def test_unreadable_lock_file(fetch, settings, text):
    """A damaged lock file is not taken for an empty one."""
    settings.lock_file.parent.mkdir()
    settings.lock_file.write_text(text)

    with pytest.raises(DownloadError, match="the lock file"):
        fetch()


def test_unwritable_folder(fetch):
    """The disk's refusal is told with its place."""
    with pytest.raises(DownloadError, match="cannot write /proc/weights"):
        fetch(directory=type(COCO_LABELS)("/proc/weights"))


def test_export_by_name(server, tmp_path, shipped):
    """`eagleeye export --weights official` fetches, pins and publishes under a name of its own."""
    server.content = shipped.checkpoint.read_bytes()
    arguments = [
        "--variant", "Ns", "--weights", "official", "--weights-mirror", server.url, "--size", 64,
        "--weights-folder", tmp_path / "weights", "--weights-lock", tmp_path / "weights.lock.json",
        "--labels", shipped.labels, "--repository", tmp_path / "models",
    ]  # fmt: skip

    done = CliRunner().invoke(main, ["export", *map(str, arguments)])

    assert done.exit_code == 0, done.output
    assert find_published(tmp_path / "models", "damoyolo_ns_coco").parameter("checkpoint_sha256") in done.stderr
    assert json.loads((tmp_path / "weights.lock.json").read_text())["damoyolo_nano_small.pth"]["size_bytes"] == 5820399


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "name either a file with --checkpoint, or --weights official"),
        (["--weights", "official", "--checkpoint", __file__], "name either a file with --checkpoint, or --weights"),
        (["--checkpoint", __file__], "Missing option '--labels', which a --checkpoint needs"),
        (["--checkpoint", __file__, "--labels", __file__], "Missing option '--name', which a --checkpoint needs"),
        (["--weights", "best"], "'best' is not one of 'official', 'official-distilled'"),
    ],
)
def test_usage_errors(arguments, words):
    """Both or none, or too little, is a usage error."""
    done = CliRunner().invoke(main, ["export", "--variant", "Ns", *arguments])

    assert (done.exit_code, words in done.stderr) == (2, True), done.stderr


def _fetch_once(settings):
    official_checkpoint("T", "official", settings, lambda _line: None)


def test_two_at_once(settings, server):
    """Two processes fetch the file once: the second one waits, and finds it."""
    server.faults = [server.drips(50_000, 0.05)]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fetch_once, args=(settings,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.requests) == 1


def test_download_keeps_what_is_there(tmp_path, server):
    """A transfer that fails leaves an existing target as it was."""
    target = tmp_path / "file"
    target.write_bytes(b"before")
    server.faults = [server.status(404)]

    with pytest.raises(DownloadError):
        download(f"{server.url}/file", target, lambda _line: None, QUICK)

    assert target.read_bytes() == b"before"
