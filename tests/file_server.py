import http.server
import threading
from functools import partial
from types import SimpleNamespace

import pytest


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, ranges too; breaks the first answer off when told so."""

    def __init__(self, *args, state, **kwargs):
        self.state = state
        super().__init__(*args, directory=state.folder, **kwargs)

    def do_GET(self):
        self.state.requests.append(self.path)
        path = self.state.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        body, start = path.read_bytes(), 0
        if header := self.headers.get("Range"):
            start = int(header.removeprefix("bytes=").rstrip("-"))
            self.state.ranges.append(start)
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        body = body[start:]
        if self.state.break_off:
            self.state.break_off = False
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def file_server(tmp_path):
    """A server on 127.0.0.1 with a folder of files."""
    folder = tmp_path / "served"
    folder.mkdir()
    state = SimpleNamespace(folder=folder, requests=[], ranges=[], break_off=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, state=state))
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
