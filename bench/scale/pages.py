"""Times pages of listings through HTTP: one connection, a request that never changes, nothing parsed inside."""

import datetime
import hashlib
import hmac
import json
import socket
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

TURNS, TURN = 15, 20


class Wrong(Exception):
    """An answer that is not as it must be."""


class Connection:
    """One kept connection."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.host = parts.netloc
        self.socket = socket.create_connection((parts.hostname, parts.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, request):
        """The body of an answer with a length."""
        self.socket.sendall(request)
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            self.receive(received)
        head = received[:end].decode("latin-1").lower().split("\r\n")
        if " 200 " not in head[0] + " ":
            raise Wrong(head[0])
        lengths = [line.split(":")[1] for line in head if line.startswith("content-length:")]
        if not lengths:
            raise Wrong("an answer without a length")
        whole = end + 4 + int(lengths[0])
        while len(received) < whole:
            self.receive(received)
        return bytes(received[end + 4:whole])

    def receive(self, received):
        data = self.socket.recv(1 << 20)
        if not data:
            raise Wrong("the connection was closed")
        received += data


class SwiftApi:
    name = "Swift, JSON"

    def __init__(self, endpoints):
        login = endpoints["swift"]
        headers = {"X-Auth-User": login["user"], "X-Auth-Key": login["key"]}
        with urllib.request.urlopen(urllib.request.Request(login["auth_url"], headers=headers)) as answer:
            self.token, self.url = answer.headers["X-Auth-Token"], answer.headers["X-Storage-Url"]

    def request(self, container, prefix="", delimiter="", after=""):
        fields = {"format": "json", "limit": 1000, "prefix": prefix, "delimiter": delimiter, "marker": after}
        query = urllib.parse.urlencode({name: value for name, value in fields.items() if value})
        path = urllib.parse.urlsplit(self.url).path
        host = urllib.parse.urlsplit(self.url).netloc
        return (f"GET {path}/{container}?{query} HTTP/1.1\r\nhost: {host}\r\n"
                f"x-auth-token: {self.token}\r\n\r\n").encode()

    @staticmethod
    def entries(body):
        return [entry.get("name") or entry["subdir"] for entry in json.loads(body)]


class S3Api:
    name = "S3, XML"

    def __init__(self, endpoints):
        self.entry = endpoints["s3"]
        self.url = self.entry["url"]

    def request(self, container, prefix="", delimiter="", after=""):
        fields = {"delimiter": delimiter, "list-type": "2", "max-keys": "1000", "prefix": prefix,
                  "start-after": after}
        quote = urllib.parse.quote
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(fields.items()) if value)
        host = urllib.parse.urlsplit(self.url).netloc
        empty = hashlib.sha256(b"").hexdigest()
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": stamp}
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        signed = ";".join(headers)
        canonical = f"GET\n/{container}\n{query}\n{lines}\n{signed}\n{empty}"
        scope = f"{stamp[:8]}/{self.entry['region']}/s3/aws4_request"
        key = ("AWS4" + self.entry["secret_key"]).encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={self.entry['access_key']}/{scope}, "
                                    f"SignedHeaders={signed}, Signature={signature}")
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"GET /{container}?{query} HTTP/1.1\r\n{head}\r\n".encode()

    @staticmethod
    def entries(body):
        space = "{http://s3.amazonaws.com/doc/2006-03-01/}"
        tree = ElementTree.fromstring(body)
        return [key.text for key in tree.iterfind(f"{space}Contents/{space}Key")] + [
            key.text for key in tree.iterfind(f"{space}CommonPrefixes/{space}Prefix")]


class Page:
    """One page of one container, asked for again and again."""

    def __init__(self, api, want, **query):
        self.connection, self.request, self.took = Connection(api.url), api.request(**query), []
        names = api.entries(self.connection.exchange(self.request))
        if len(names) != want or names != sorted(names):
            raise Wrong(f"{api.name} {query}: {len(names)} entries in place of {want}, or out of order")
        self.want, self.cpu = want, 0

    def turn(self, cpu_seconds):
        """A few requests in a row."""
        before = cpu_seconds()
        for _ in range(TURN):
            begun = time.perf_counter()
            self.connection.exchange(self.request)
            self.took.append(time.perf_counter() - begun)
        self.cpu += cpu_seconds() - before

    def figures(self):
        """p50 and p99 in milliseconds, and the server's processor time for each."""
        took, count = sorted(self.took), len(self.took)
        return {"entries": self.want, "p50_ms": took[count // 2] * 1e3, "p99_ms": took[count * 99 // 100] * 1e3,
                "server_cpu_ms": self.cpu / count * 1e3}


def measure(pages, cpu_seconds):
    """Times pages in turns, so that what disturbs the machine disturbs all of them."""
    for _ in range(TURNS):
        for page in pages:
            page.turn(cpu_seconds)
    return [page.figures() for page in pages]
