"""A file server that misbehaves on demand, on a loopback port of its own."""

import contextlib
import http.server
import threading
import time


class FileServer:
    """Serves `content` for every path, with Range and If-Range; `faults` is worked off first, one per request."""

    def __init__(self):
        self.content = b""
        self.etag = '"one"'
        self.faults = []
        self.requests = []  # (path, Range header or None)
        self._released = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @classmethod
    @contextlib.contextmanager
    def running(cls):
        server = cls()
        thread = threading.Thread(target=server._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server._released.set()
            server._server.shutdown()
            server._server.server_close()
            thread.join()

    def answer(self, handler):
        self.requests.append((handler.path, handler.headers.get("Range")))
        fault = self.faults.pop(0) if self.faults else self.whole
        fault(handler)

    def whole(self, handler, sent=None, announced=None):
        """As it should be; `sent` bytes only if that is given."""
        start = self._start(handler)
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(len(body) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(body if sent is None else body[:sent])
        handler.close_connection = True

    def _start(self, handler):
        wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        if wanted is None or condition != self.etag:
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def breaks_after(self, sent):
        return lambda handler: self.whole(handler, sent)

    def drips(self, block, pause_seconds):
        def drip(handler):
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(self.content)))
            handler.end_headers()
            for start in range(0, len(self.content), block):
                handler.wfile.write(self.content[start : start + block])
                handler.wfile.flush()
                time.sleep(pause_seconds)

        return drip

    def stalls_after(self, sent):
        def stall(handler):
            self.whole(handler, sent)
            handler.wfile.flush()
            self._released.wait(30)

        return stall

    def status(self, code, **headers):
        def answer(handler):
            handler.send_response(code)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return answer


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.owner.answer(self)

    def log_message(self, *_args):
        pass
