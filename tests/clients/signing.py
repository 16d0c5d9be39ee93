"""Signature version 4 by hand, so that tests can sign what no client would send."""

import base64
import dataclasses
import datetime
import hashlib
import hmac
import http.client
import re
import urllib.parse
import zlib

UNSIGNED = "UNSIGNED-PAYLOAD"
SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
EMPTY = hashlib.sha256(b"").hexdigest()


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def crc32(data):
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


@dataclasses.dataclass
class Answer:
    """What the server said."""

    status: int
    headers: dict
    body: bytes

    @property
    def code(self):
        """The code of an error."""
        found = re.search(b"<Code>(.*?)</Code>", self.body)
        return found and found[1].decode()


class Signer:
    """Signs requests and chunks, at `age` before now."""

    def __init__(self, endpoint, age=datetime.timedelta()):
        self.host = endpoint["url"].removeprefix("http://")
        self.access = endpoint["access_key"]
        self.region = endpoint["region"]
        now = datetime.datetime.now(datetime.timezone.utc) - age
        self.time, self.date = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        self.scope = f"{self.date}/{self.region}/s3/aws4_request"
        key = mac(("AWS4" + endpoint["secret_key"]).encode(), self.date)
        self.key = mac(mac(mac(key, self.region), "s3"), "aws4_request")
        self.previous = ""

    def sign(self, kind, *lines):
        text = "\n".join((kind, self.time, self.scope, *lines))
        self.previous = mac(self.key, text).hex()
        return self.previous

    def headers(self, method, path, payload, headers=()):
        """All headers of a request whose `path` (with its query) is encoded as it is signed."""
        path, _, query = path.partition("?")
        pairs = sorted(pair if "=" in pair else pair + "=" for pair in query.split("&") if pair)
        headers = {name.lower(): str(value) for name, value in dict(headers).items()}
        headers |= {"host": self.host, "x-amz-date": self.time, "x-amz-content-sha256": payload}
        names = sorted(headers)
        canonical = [method, path, "&".join(pairs), *(f"{name}:{headers[name].strip()}" for name in names), "",
                     ";".join(names), payload]
        hashed = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
        signature = self.sign("AWS4-HMAC-SHA256", hashed)
        headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={self.access}/{self.scope},"
                                    f"SignedHeaders={';'.join(names)},Signature={signature}")
        return headers

    def chunks(self, pieces, trailers=(), signed=True):
        """A body in chunks; sign the request first, since each signature continues the one before."""
        body = b""
        for piece in [*pieces, b""]:
            extension = ""
            if signed:
                hashed = hashlib.sha256(piece).hexdigest()
                chunk = self.sign("AWS4-HMAC-SHA256-PAYLOAD", self.previous, EMPTY, hashed)
                extension = f";chunk-signature={chunk}"
            body += f"{len(piece):x}{extension}\r\n".encode() + piece + (b"\r\n" if piece else b"")
        for name, value in trailers:
            body += f"{name}:{value}\r\n".encode()
        if signed and trailers:
            hashed = hashlib.sha256("".join(f"{n}:{v}\n" for n, v in trailers).encode()).hexdigest()
            body += f"x-amz-trailer-signature:{self.sign('AWS4-HMAC-SHA256-TRAILER', self.previous, hashed)}\r\n".encode()
        return body + b"\r\n"

    def presign(self, path, expires, method="GET"):
        """A presigned path."""
        query = urllib.parse.urlencode({
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{self.access}/{self.scope}",
            "X-Amz-Date": self.time, "X-Amz-Expires": expires, "X-Amz-SignedHeaders": "host",
        }, quote_via=urllib.parse.quote, safe="")
        canonical = "\n".join((method, path, query, f"host:{self.host}", "", "host", UNSIGNED))
        signature = self.sign("AWS4-HMAC-SHA256", hashlib.sha256(canonical.encode()).hexdigest())
        return f"{path}?{query}&X-Amz-Signature={signature}"

    def send(self, method, path, headers=(), body=b""):
        """Sends a request as it is; an answer that comes before the body is sent counts too."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"host": self.host, "content-length": len(body), **dict(headers)}.items():
            connection.putheader(name, str(value))
        try:
            connection.endheaders(body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = connection.getresponse()
        try:
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()
