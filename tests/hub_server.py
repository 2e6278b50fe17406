"""A Hugging Face Hub on 127.0.0.1, as far as its real client needs one: download, push, and what can go wrong."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".skops")


class HubServer:
    """Serves `root`/owner/name/file at any revision, and writes there what is pushed.

    Attributes
    ----------
    asked : list of str
        Methods and paths of all requests.
    private : dict of str to str
        Repo -> the token that opens it.
    cut : set of str
        Files whose next download breaks off halfway.
    damaged : set of str
        Files that arrive with another first byte than announced.
    xet_hash : str or None
        If given, files are announced as kept in Xet storage under this hash; their content is not served from there.
    """

    def __init__(self, root):
        self.root, self.asked, self.private, self.cut, self.damaged = root, [], {}, set(), set()
        self.objects, self.xet_hash = {}, None
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}"

    def folder(self, repo):
        path = self.root / repo
        path.mkdir(parents=True, exist_ok=True)
        return path

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._download(body=False)

    def do_GET(self):
        self._download(body=True)

    def do_PUT(self):
        self.hub.asked.append(f"PUT {self.path}")
        self.hub.objects[self.path.rsplit("/", 1)[1]] = self._content()
        self._answer(200)

    def do_POST(self):
        self.hub.asked.append(f"POST {self.path}")
        content = self._content()
        path = self.path.split("?")[0]
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if "Authorization" not in self.headers:
            return self._answer(401)
        if path == "/api/repos/create":
            asked = json.loads(content)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if self._is_closed(repo):
                return self._answer(403)
            self.hub.folder(repo)
            return self._json({"url": f"{self.hub.url}/{repo}", "id": repo, "name": repo})
        if match := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/preupload/[\w.-]+", path):
            files = json.loads(content)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            return self._json({"files": modes})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [self._upload(wanted) for wanted in json.loads(content)["objects"]]
            return self._json({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/commit/[\w.-]+", path):
            for line in content.splitlines():
                self._commit(self.hub.folder(match[1]), json.loads(line))
            url = f"{self.hub.url}/{match[1]}/commit/{COMMIT}"
            return self._json({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        return self._answer(404)

    def _upload(self, wanted):
        upload = {"href": f"{self.hub.url}/lfs/{wanted['oid']}", "header": {}}
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": upload}}

    def _commit(self, folder, line):
        value = line["value"]
        if line["key"] == "file":
            (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
        elif line["key"] == "lfsFile":
            stored = self.hub.objects[value["oid"]]
            assert hashlib.sha256(stored).hexdigest() == value["oid"]
            (folder / value["path"]).write_bytes(stored)

    def _is_closed(self, repo):
        token = self.hub.private.get(repo)
        return token is not None and self.headers.get("Authorization") != f"Bearer {token}"

    def _download(self, body):
        self.hub.asked.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", self.path)
        if not match:
            return self._answer(404)
        repo, revision, name = match.groups()
        if self._is_closed(repo):
            return self._answer(401, {"X-Error-Code": "RepoNotFound"})
        if not (self.hub.root / repo).is_dir():
            return self._answer(404, {"X-Error-Code": "RepoNotFound"})
        if revision == "absent":
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        file = self.hub.root / repo / name
        if not file.is_file():
            return self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = file.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(content)),
        }
        if self.hub.xet_hash:
            headers |= {"X-Xet-Hash": self.hub.xet_hash, "X-Xet-Refresh-Route": f"/api/models/{repo}/xet-read-token/v1"}
        if name in self.hub.damaged:
            content = bytes([content[0] ^ 255]) + content[1:]
        if not body:
            return self._answer(200, headers)
        if name in self.hub.cut:
            self.hub.cut.discard(name)
            content = content[: len(content) // 2]
            self.close_connection = True
        return self._answer(200, headers, content)

    def _content(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, value):
        content = json.dumps(value).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        return self._answer(200, headers, content)

    def _answer(self, status, headers=None, content=b""):
        self.send_response(status)
        for key, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass
