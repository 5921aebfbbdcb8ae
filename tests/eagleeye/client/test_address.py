"""Addresses and certificates are checked before anything is sent."""

import ssl

import pytest

from eagleeye.client.address import Address, Tls
from tests.certificates import Authority


@pytest.mark.parametrize(
    "url, expected",
    [
        ("http://127.0.0.1:8080", ("http", "127.0.0.1", 8080, "")),
        ("http://host", ("http", "host", 80, "")),
        ("https://Host/", ("https", "host", 443, "")),
        ("https://host/eagleeye/", ("https", "host", 443, "/eagleeye")),
        ("grpc://[::1]", ("grpc", "::1", 8081, "")),
        ("grpcs://host:9", ("grpcs", "host", 9, "")),
    ],
)
def test_addresses_are_read(url, expected):
    """Scheme, host, port and what comes before the gateway's own paths."""
    address = Address.parse(url)
    assert (address.scheme, address.host, address.port, address.path) == expected


def test_an_address_is_written_as_it_is_used():
    """IPv6 needs brackets."""
    assert str(Address.parse("http://[::1]:8080/a/")) == "http://[::1]:8080/a"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8080",
        "ftp://host",
        "http://",
        "http://host:x",
        "http://host:0",
        "http://host:99999",
        "http://user:secret@host",
        "http://host?a=b",
        "http://host/#a",
        "http://ho st",
        "grpc://host/path",
        "http://[::1",
        "",
        None,
        b"http://host",
    ],
)
def test_what_is_no_address_is_refused(url):
    """With how one looks."""
    with pytest.raises(ValueError, match=r"is no address of a gateway, which looks like http://127.0.0.1:8080"):
        Address.parse(url)


HTTPS = Address.parse("https://host")


def test_plain_addresses_take_no_certificates(tmp_path):
    """They would be ignored."""
    with pytest.raises(ValueError, match="are for https:// and grpcs:// addresses, and this is http://host:80"):
        Tls(ca_certificate=tmp_path / "ca.pem").context(Address.parse("http://host"))
    assert Tls().context(Address.parse("grpc://host")) is None


def test_everything_is_verified(tmp_path):
    """By default, and with an authority of one's own."""
    for tls in (Tls(), Tls(ca_certificate=Authority(tmp_path).path)):
        context = tls.context(HTTPS)
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_an_authority_of_one_s_own_is_the_only_one(tmp_path):
    """The system's are not trusted beside it."""
    assert len(Tls(ca_certificate=Authority(tmp_path).path).context(HTTPS).get_ca_certs()) == 1


def test_files_that_tls_cannot_use_are_named(tmp_path):
    """Missing, or no PEM file, or one without the other."""
    pair = Authority(tmp_path).issue()
    (tmp_path / "text.pem").write_text("hello")
    with pytest.raises(FileNotFoundError, match=r"missing.pem"):
        Tls(ca_certificate=tmp_path / "missing.pem").context(HTTPS)
    with pytest.raises(ValueError, match=r"text.pem: not what TLS needs, as a PEM file"):
        Tls(ca_certificate=tmp_path / "text.pem").context(HTTPS)
    with pytest.raises(ValueError, match=r"text.pem and .*: not what TLS needs"):
        Tls(client_certificate=tmp_path / "text.pem", client_key=pair.key).context(HTTPS)
    with pytest.raises(ValueError, match="client_certificate and client_key are given together"):
        Tls(client_certificate=pair.certificate).context(HTTPS)
