"""A bucket server of this machine: the part of Google Cloud Storage's JSON API that gcsfs and TensorStore use."""

from email import message_from_bytes
from http import server
import itertools
import json
import pathlib
import re
import socket
import socketserver
import ssl
import subprocess
import threading
from urllib import parse


class Store:
    """Objects by "bucket/name": (content, generation)."""

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.lock = threading.RLock()
        self.generations = itertools.count(1)
        self.uploads: dict[str, tuple[str, dict, bytearray]] = {}
        self.requests: list[str] = []  # the path of each

    def put(self, key: str, content: bytes, query: dict) -> tuple[int, dict]:
        with self.lock:
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != self.objects.get(key, (b"", 0))[1]:
                return 412, {}
            self.objects[key] = (bytes(content), next(self.generations))
            return 200, self.describe(key)

    def delete(self, key: str) -> int:
        with self.lock:
            return 204 if self.objects.pop(key, None) else 404

    def describe(self, key: str) -> dict:
        content, generation = self.objects[key]
        bucket, _, name = key.partition("/")
        moment = "2026-01-01T00:00:00.000Z"
        fields = {"kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(content))}
        fields |= {"generation": str(generation), "metageneration": "1", "timeCreated": moment, "updated": moment}
        return fields | {"id": key, "etag": str(generation), "storageClass": "STANDARD"}

    def list(self, bucket: str, query: dict) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        with self.lock:
            for key in sorted(self.objects):
                name = key.partition("/")[2]
                outside = not key.startswith(f"{bucket}/") or not name.startswith(prefix)
                outside |= name < query.get("startOffset", "") or name <= query.get("pageToken", "")
                if outside or ("endOffset" in query and name >= query["endOffset"]):
                    continue
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
                else:
                    items.append(self.describe(key))
        page = {"kind": "storage#objects", "prefixes": sorted(prefixes), "items": items}
        limit = int(query.get("maxResults", 1000))
        if len(items) > limit:
            page |= {"items": items[:limit], "nextPageToken": items[limit - 1]["name"]}
        return page


class Handler(server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *arguments):
        pass

    def reply(self, code: int, content=b"", **headers):
        if isinstance(content, dict):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json"} | headers
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if code not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD" and code not in (204, 304):
            self.wfile.write(content)

    def handle_any(self):
        self.store.requests.append(self.path)
        url = parse.urlsplit(self.path)
        self.query = dict(parse.parse_qsl(url.query, keep_blank_values=True))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = re.sub("^/(download|upload)", "", url.path)
        if path.startswith("/batch"):
            return self.batch()
        found = re.fullmatch(r"/storage/v1/b/([^/]+)(/o(?:/(.+))?)?", path)
        if not found:
            return self.reply(404)
        bucket, objects, name = found.groups()
        if not objects:
            return self.reply(200, {"kind": "storage#bucket", "name": bucket, "id": bucket})
        if self.command == "PUT" or (self.command == "POST" and not name):
            return self.upload(bucket)
        if not name:
            return self.reply(200, self.store.list(bucket, self.query))
        source, rewrite, target = re.fullmatch(r"(.*?)(?:/(rewriteTo|copyTo)/(.*))?", name).groups()
        key = f"{bucket}/{parse.unquote(source)}"
        if self.command == "DELETE":
            return self.reply(self.store.delete(key))
        with self.store.lock:
            if key not in self.store.objects:
                return self.reply(404, {"error": {"code": 404, "message": f"{key} is not there"}})
            content, generation = self.store.objects[key]
            fields = self.store.describe(key)
        if rewrite:
            to_bucket, to_name = re.fullmatch(r"b/([^/]+)/o/(.+)", target).groups()
            _, made = self.store.put(f"{to_bucket}/{parse.unquote(to_name)}", content, self.query)
            return self.reply(200, {"done": True, "resource": made} if rewrite == "rewriteTo" else made)
        if self.query.get("ifGenerationNotMatch") == str(generation):
            return self.reply(304)
        if self.query.get("ifGenerationMatch", str(generation)) != str(generation):
            return self.reply(412)
        if self.query.get("alt") != "media":
            return self.reply(200, fields)
        headers = {"x_goog_generation": str(generation), "ETag": str(generation)}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.reply(200, content, **headers)
        first, last = wanted.groups()
        start = int(first) if first else max(0, len(content) - int(last))
        stop = min(len(content), int(last) + 1) if first and last else len(content)
        if start >= len(content):
            return self.reply(416)
        span = {"Content_Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        return self.reply(206, content[start:stop], **headers, **span)

    def upload(self, bucket: str):
        kind = self.query.get("uploadType")
        if self.command == "PUT" or "upload_id" in self.query:
            key, query, content = self.store.uploads[self.query["upload_id"]]
            content += self.body
            if re.search(r"/\*$", self.headers.get("Content-Range", "")):  # more is to come
                return self.reply(308, Range=f"bytes=0-{len(content) - 1}")
            return self.reply(*self.store.put(key, bytes(content), query))
        if kind == "resumable":
            name = self.query.get("name") or json.loads(self.body)["name"]
            number = str(next(self.store.generations))
            self.store.uploads[number] = (f"{bucket}/{name}", self.query, bytearray())
            host = self.headers["Host"]
            there = f"http://{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}"
            return self.reply(200, {}, Location=there)
        if kind == "multipart":
            whole = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + self.body
            fields, media = message_from_bytes(whole).get_payload()
            name = json.loads(fields.get_payload(decode=True))["name"]
            # The parser would change line ends: the bytes behind the part's head, up to the boundary.
            boundary = re.search(r"boundary=['\"]?([^'\";]+)", self.headers["Content-Type"])[1].encode()
            part = self.body.split(b"--" + boundary)[2]
            content = re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1]
            assert media is not None
            content = re.sub(rb"\r?\n$", b"", content)
            return self.reply(*self.store.put(f"{bucket}/{name}", content, self.query))
        return self.reply(*self.store.put(f"{bucket}/{self.query['name']}", self.body, self.query))

    def batch(self):
        """Several deletions in one request."""
        parts = []
        names = re.findall(rb"DELETE [^ ]*/b/([^/ ]+)/o/([^? ]+)", self.body)
        ids = re.findall(rb"(?i)content-id: <?([^>\r\n]*)>?", self.body)
        for number, (bucket, name) in enumerate(names):
            code = self.store.delete(f"{bucket.decode()}/{parse.unquote(name.decode())}")
            label = ids[number].decode() if number < len(ids) else str(number)
            head = f"Content-Type: application/http\r\nContent-ID: <response-{label}>\r\n\r\n"
            parts.append(f"--split\r\n{head}HTTP/1.1 {code} Done\r\nContent-Length: 0\r\n\r\n\r\n")
        text = "".join(parts) + "--split--\r\n"
        self.reply(200, text.encode(), Content_Type="multipart/mixed; boundary=split")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any  # noqa: N815


def start() -> tuple[server.ThreadingHTTPServer, Store]:
    """A server on a free port of this machine; `server_port` is its number."""
    store = Store()
    handler = type("HandlerOfStore", (Handler,), {"store": store})
    running = server.ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    return running, store


def variables(running: server.ThreadingHTTPServer) -> dict[str, str]:
    """The environment in which gs:// is this server, for whatever reads or writes it."""
    address = f"http://localhost:{running.server_port}"
    return {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs
        "TENSORSTORE_GCS_HTTP_URL": address,  # Orbax
        "EPATH_USE_TF": "false",  # epath through gcsfs, as TensorFlow's own client cannot be told another address
        "NO_GCE_CHECK": "true",
        "GCE_METADATA_HOST": "localhost:1",
        "GCE_METADATA_ROOT": "localhost:1",
    }


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy that answers for every server itself: it decrypts what comes, and passes it to the bucket server."""

    context: ssl.SSLContext
    port: int

    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with (
            self.context.wrap_socket(self.connection, server_side=True) as client,
            socket.create_connection(("localhost", self.port)) as there,
        ):
            back = threading.Thread(target=self.copy, args=(there, client), daemon=True)
            back.start()
            self.copy(client, there)
            back.join()

    def copy(self, source, target):
        try:
            while content := source.recv(2**16):
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # the other side has gone
            pass


def for_tensorflow(running: server.ThreadingHTTPServer, folder: pathlib.Path) -> dict[str, str]:
    """The environment in which gs:// is this server for TensorFlow's own client, which knows only Google's address.

    `folder` is for a certificate in the name of that address; openssl makes it.
    """
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    name = ["-subj", "/CN=www.googleapis.com", "-addext", "subjectAltName=DNS:www.googleapis.com"]
    subprocess.run([*command, *name], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = type("TunnelToStore", (Tunnel,), {"context": context, "port": running.server_port})
    proxy = socketserver.ThreadingTCPServer(("localhost", 0), handler)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    address = f"http://localhost:{proxy.server_address[1]}"
    names = {"https_proxy": address, "HTTPS_PROXY": address, "no_proxy": "", "NO_PROXY": ""}
    return names | {"CURL_CA_BUNDLE": str(certificate), "NO_GCE_CHECK": "true", "GCE_METADATA_HOST": "localhost:1"}
