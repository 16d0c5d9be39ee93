"""Requests to S3 that nobody should send: each gets its error, and nothing that is stored changes."""

import base64
import datetime
import hashlib
import socket

import pytest
from signing import (SIGNED_CHUNKS, SIGNED_TRAILER, UNSIGNED, UNSIGNED_TRAILER, Signer, crc32)

BEFORE = b"before"
PIECES = [bytes([number]) * 70_000 for number in (1, 2, 3)]
WHOLE = b"".join(PIECES)
CHECKSUM = "x-amz-checksum-crc32"


@pytest.fixture
def place(s3, bucket):
    """The path of an object that must stay as it is."""
    s3.put_object(Bucket=bucket, Key="k", Body=BEFORE)
    yield f"/{bucket}/k"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == BEFORE
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]


@pytest.fixture
def signer(store):
    return Signer(store.endpoints["s3"])


def put(signer, path, body, headers=(), payload=None):
    """Signs and sends a PUT."""
    payload = payload or hashlib.sha256(body).hexdigest()
    return signer.send("PUT", path, signer.headers("PUT", path, payload, headers), body)


def streamed(signer, path, mode, pieces, trailers=(), announced=CHECKSUM, length=None, change=lambda body: body):
    """Sends a body in chunks after it was changed."""
    headers = {"x-amz-decoded-content-length": len(b"".join(pieces)) if length is None else length,
               "content-encoding": "aws-chunked"}
    if mode != SIGNED_CHUNKS and announced:
        headers["x-amz-trailer"] = announced
    headers = signer.headers("PUT", path, mode, headers)
    body = change(signer.chunks(pieces, trailers, signed=mode != UNSIGNED_TRAILER))
    return signer.send("PUT", path, headers, body)


def trailer_of(mode, data=WHOLE):
    return [] if mode == SIGNED_CHUNKS else [(CHECKSUM, crc32(data))]


@pytest.mark.parametrize("mode", [SIGNED_CHUNKS, SIGNED_TRAILER, UNSIGNED_TRAILER])
def test_the_signer_of_these_tests_is_believed(signer, s3, bucket, mode):
    assert streamed(signer, f"/{bucket}/good", mode, PIECES, trailer_of(mode)).status == 200
    assert s3.get_object(Bucket=bucket, Key="good")["Body"].read() == WHOLE


def test_unsigned_requests_may_do_nothing(signer, place):
    for method in ("GET", "PUT", "DELETE", "POST"):
        answer = signer.send(method, place, body=b"x" if method in ("PUT", "POST") else b"")
        assert (answer.status, answer.code) == (403, "AccessDenied"), method
    assert signer.send("OPTIONS", place).status == 403
    assert signer.send("GET", "/").code == "AccessDenied"


def test_old_and_future_requests_are_refused(store, place):
    for minutes in (16, -16):
        late = Signer(store.endpoints["s3"], datetime.timedelta(minutes=minutes))
        assert put(late, place, b"late").code == "RequestTimeTooSkewed"
    url = Signer(store.endpoints["s3"], datetime.timedelta(seconds=100)).presign(place, 60)
    assert Signer(store.endpoints["s3"]).send("GET", url).code == "AccessDenied"


def test_a_signature_is_good_for_its_request_only(signer, place):
    headers = signer.headers("PUT", place, hashlib.sha256(b"signed").hexdigest(), {"content-type": "a/b"})
    assert signer.send("PUT", place, headers, b"replay").code == "XAmzContentSHA256Mismatch"
    assert signer.send("PUT", place + "2", headers, b"signed").code == "SignatureDoesNotMatch"
    assert signer.send("PUT", place + "?partNumber=1", headers, b"signed").code == "SignatureDoesNotMatch"
    assert signer.send("DELETE", place, headers).code == "SignatureDoesNotMatch"
    changed = dict(headers, **{"content-type": "a/c"})
    assert signer.send("PUT", place, changed, b"signed").code == "SignatureDoesNotMatch"
    added = dict(headers, **{"x-amz-meta-new": "x"})
    assert signer.send("PUT", place, added, b"signed").code == "AccessDenied"
    unsigned = dict(headers, **{"x-amz-content-sha256": UNSIGNED})
    assert signer.send("PUT", place, unsigned, b"replay").code == "SignatureDoesNotMatch"
    signature = headers["authorization"]
    for broken in (signature[:-1], signature[:-2] + "zz", signature.replace("Signature=", "S="), "AWS4-HMAC-SHA256"):
        answer = signer.send("PUT", place, dict(headers, authorization=broken), b"signed")
        assert answer.status in (400, 403) and answer.code, broken
    presigned = signer.presign(place, 60)
    assert signer.send("GET", presigned.replace("Expires=60", "Expires=61")).code == "SignatureDoesNotMatch"
    assert signer.send("PUT", presigned, body=b"x").code == "SignatureDoesNotMatch"


def test_digests_that_do_not_fit_are_refused(signer, place):
    md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert put(signer, place, b"body", {"content-md5": md5}).code == "BadDigest"
    assert put(signer, place, b"body", {"content-md5": "nonsense"}).code == "InvalidDigest"
    assert put(signer, place, b"body", {CHECKSUM: crc32(b"other")}).code == "BadDigest"
    assert put(signer, place, b"body", {CHECKSUM: "nonsense"}).code == "InvalidRequest"
    two = {CHECKSUM: crc32(b"body"), "x-amz-checksum-crc32c": crc32(b"body")}
    assert put(signer, place, b"body", two).code == "InvalidRequest"
    assert put(signer, place, b"body", payload="nonsense").code == "InvalidArgument"


@pytest.mark.parametrize("mode", [SIGNED_CHUNKS, SIGNED_TRAILER, UNSIGNED_TRAILER])
def test_chunks_that_are_wrong_are_refused(signer, place, mode):
    def refused(*codes, trailers=trailer_of(mode), **named):
        answer = streamed(signer, place, mode, PIECES, trailers, **named)
        assert answer.code in codes, (answer.status, answer.body)

    swapped = lambda body: body.replace(PIECES[1], PIECES[1][:-1] + b"x")
    refused("SignatureDoesNotMatch", "BadDigest", change=swapped)
    shorter = "IncompleteBody" if mode == UNSIGNED_TRAILER else "SignatureDoesNotMatch"
    refused(shorter, change=lambda body: body.replace(b"11170", b"1116f", 1))
    refused("IncompleteBody", length=len(WHOLE) + 1)
    refused("IncompleteBody", length=len(WHOLE) - 1)
    refused("IncompleteBody", change=lambda body: body[:100_000])
    refused("IncompleteBody", change=lambda body: body + b"more")
    refused("IncompleteBody", change=lambda body: b"x" * 5000 + body)
    if mode != UNSIGNED_TRAILER:
        wrong = lambda body: body.replace(b"chunk-signature=", b"chunk-signature=0", 1)
        refused("SignatureDoesNotMatch", change=wrong)
        refused("SignatureDoesNotMatch", change=lambda body: body.replace(b"chunk-signature", b"chunk-other", 1))


def test_trailers_that_are_wrong_are_refused(signer, place):
    for mode in (SIGNED_TRAILER, UNSIGNED_TRAILER):
        right = trailer_of(mode)
        assert streamed(signer, place, mode, PIECES, [(CHECKSUM, crc32(b"other"))]).code == "BadDigest"
        assert streamed(signer, place, mode, PIECES, [(CHECKSUM, "nonsense")]).code == "InvalidRequest"
        other = [("x-amz-checksum-crc32c", right[0][1])]
        assert streamed(signer, place, mode, PIECES, other).code == "MalformedTrailerError"
        assert streamed(signer, place, mode, PIECES, right, announced=None).code == "MalformedTrailerError"
        assert streamed(signer, place, mode, PIECES, right, announced="x-amz-meta-a").code == "InvalidRequest"
        two = right + [("x-amz-meta-a", "b")]
        assert streamed(signer, place, mode, PIECES, two).code == "MalformedTrailerError"
        broken = lambda body: body.replace(b"crc32:", b"crc32 ")
        assert streamed(signer, place, mode, PIECES, right, change=broken).code == "MalformedTrailerError"
    assert streamed(signer, place, UNSIGNED_TRAILER, PIECES).code == "MalformedTrailerError"
    assert streamed(signer, place, SIGNED_CHUNKS, PIECES, trailer_of(SIGNED_TRAILER)).code == "MalformedTrailerError"
    forged = lambda body: body.replace(crc32(WHOLE).encode(), crc32(b"x").encode())
    assert streamed(signer, place, SIGNED_TRAILER, PIECES, trailer_of(SIGNED_TRAILER),
                    change=forged).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("mode", ["sha256", UNSIGNED, SIGNED_CHUNKS, SIGNED_TRAILER, UNSIGNED_TRAILER])
@pytest.mark.parametrize("sent", [0, 10, 80_000])
def test_a_body_that_is_cut_short_stores_nothing(signer, place, mode, sent):
    headers = {} if mode in ("sha256", UNSIGNED) else {"x-amz-decoded-content-length": len(WHOLE)}
    if mode in (SIGNED_TRAILER, UNSIGNED_TRAILER):
        headers["x-amz-trailer"] = CHECKSUM
    payload = hashlib.sha256(WHOLE).hexdigest() if mode == "sha256" else mode
    headers = signer.headers("PUT", place, payload, headers)
    body = WHOLE
    if mode in (SIGNED_CHUNKS, SIGNED_TRAILER, UNSIGNED_TRAILER):
        body = signer.chunks(PIECES, trailer_of(mode), signed=mode != UNSIGNED_TRAILER)
    host, port = signer.host.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        lines = [f"PUT {place} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()),
                 f"content-length: {len(body)}"]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body[:sent])
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
        assert b" 200 " not in answer


def test_lengths_that_are_no_lengths_are_refused(signer, place):
    for length in ("-1", "x", "1, 2", str(6 << 30)):
        headers = signer.headers("PUT", place, UNSIGNED)
        answer = signer.send("PUT", place, headers | {"content-length": length})
        assert answer.status == 400, length
    headers = signer.headers("PUT", place, UNSIGNED) | {"transfer-encoding": "chunked"}
    host, port = signer.host.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        lines = [f"PUT {place} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        assert b" 411 " in connection.recv(65536)


def test_expect_continue_is_answered_before_the_body(signer, place):
    headers = signer.headers("PUT", "/no-such-bucket/k", UNSIGNED) | {"expect": "100-continue",
                                                                      "content-length": 5}
    host, port = signer.host.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        lines = ["PUT /no-such-bucket/k HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")


def test_keys_that_are_no_text_are_refused(signer, place):
    bucket = place.rsplit("/", 1)[0]
    for key in ("%ff", "a%00b", "%c3%28", "%ed%a0%80"):
        path = f"{bucket}/{key.upper() if key[0] == '%' else key}"
        assert put(signer, path, b"x").code == "InvalidURI", key
    assert put(signer, f"{bucket}/{'k' * 1025}", b"x").code == "KeyTooLongError"


BOMB = '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)) + "]>"


@pytest.mark.parametrize("document", [
    BOMB + "<Delete><Object><Key>&j;</Key></Object></Delete>",
    '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&x;</Key></Object></Delete>',
    "<Delete>" + "<Object>" * 200_000,
    "<Delete>" + "<Object><Key>k</Key></Object>" * 1001 + "</Delete>",
    "<Delete><Object><Key>" + "k" * (9 << 20) + "</Key></Object></Delete>",
    "<Delete><Object><Key>k</Key></Object>",
    "<Delete><Object><Key>&unknown;</Key></Object></Delete>",
    "<Other/>",
    "",
    "k",
], ids=["bomb", "external", "deep", "1001", "large", "open", "entity", "other", "empty", "text"])
def test_documents_that_are_wrong_delete_nothing(signer, place, document):
    path = place.rsplit("/", 1)[0] + "?delete"
    body = document.encode()
    headers = signer.headers("POST", path, hashlib.sha256(body).hexdigest())
    answer = signer.send("POST", path, headers, body)
    assert (answer.status, answer.code) == (400, "MalformedXML")


def test_more_parts_than_there_may_be_are_refused(signer, s3, place, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    part = "<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>"
    etag = hashlib.md5(b"x").hexdigest()

    def complete(numbers):
        body = ("<CompleteMultipartUpload>" + "".join(part.format(number, etag) for number in numbers) +
                "</CompleteMultipartUpload>").encode()
        path = f"/{bucket}/m?uploadId={upload}"
        return signer.send("POST", path, signer.headers("POST", path, hashlib.sha256(body).hexdigest()), body)

    assert complete(range(1, 10_002)).code == "MalformedXML"
    assert complete([1, 1]).code == "InvalidPartOrder"
    assert complete([1]).code == "InvalidPart"
    assert complete([-1]).code == "MalformedXML"
    for number in ("0", "10001", "-1", "x", ""):
        path = f"/{bucket}/m?partNumber={number}&uploadId={upload}"
        assert put(signer, path, b"x").code == "InvalidArgument", number
    s3.abort_multipart_upload(Bucket=bucket, Key="m", UploadId=upload)
