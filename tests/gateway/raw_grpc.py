"""Calls of bytes that gRPC's own libraries would not send."""

import socket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
NO_MESSAGE = bytes(5)


def frame(kind, flags, stream, payload):
    """RFC 9113, section 4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name, value):
    """A header field that is in no table, as it is (RFC 7541, section 6.2.2); both are shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call(address, path, metadata=()):
    """Make a call with an empty message, and give the bytes of the whole answer, up to its status."""
    host, _, port = address.rpartition(":")
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *metadata,
    )
    head = b"".join(field(name, value) for name, value in fields)
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            PREFACE
            + frame(SETTINGS, 0, 0, b"")
            + frame(HEADERS, END_HEADERS, 1, head)
            + frame(DATA, END_STREAM, 1, NO_MESSAGE)
        )
        answer = b""
        while b"grpc-status" not in answer:
            received = connection.recv(65536)
            assert received, "hung up without a status"
            answer += received
    return answer
