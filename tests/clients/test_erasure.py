"""A store with an erasure-coded storage policy: 4+2 on six devices."""

import json
import random
import subprocess

import boto3
import pytest
import swiftclient
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import KODIAK

BLOCK = 4 << 20
FRAGMENT = BLOCK // 4


@pytest.fixture(scope="module")
def erasure(tmp_path_factory):
    """The data folder, a Swift connection and an S3 client of such a store."""
    data = tmp_path_factory.mktemp("erasure") / "data"
    up = [KODIAK, "up", "--data", data, "--listen", "127.0.0.1:0", "-d", "--devices", "6", "--replicas", "3"]
    run = lambda *command: subprocess.run(command, check=True, capture_output=True)
    run(*up)
    run(KODIAK, "down", "--data", data)
    ring = data / "rings/object-1.ring"
    run(KODIAK, "ring", "create", ring, "--part-power", "8", "--replicas", "6")
    for number in range(1, 7):
        run(KODIAK, "ring", "add", ring, "--node", "local", "--device", f"d{number}")
    run(KODIAK, "ring", "rebalance", ring)
    config = data / "kodiak.toml"
    text = config.read_text()
    text = text.replace('"rings/object-0.ring"', '"rings/object-0.ring", "rings/object-1.ring"')
    protection = 'protection = ["replicated", { erasure = "4+2" }]'
    text = text.replace("object_rings = ", f"{protection}\nobject_rings = ", 1)
    assert protection in text
    config.write_text(text.replace('["Policy-0"]', '["plain", "coded"]'))
    run(*up)
    endpoints = json.loads((data / "endpoints.json").read_text())
    swift, s3 = endpoints["swift"], endpoints["s3"]
    connection = swiftclient.Connection(authurl=swift["auth_url"], user=swift["user"], key=swift["key"], retries=0)
    connection.put_container("coded", headers={"X-Storage-Policy": "coded"})
    client = boto3.client(
        "s3", endpoint_url=s3["url"], region_name=s3["region"],
        aws_access_key_id=s3["access_key"], aws_secret_access_key=s3["secret_key"],
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
    )
    yield data, connection, client
    run(KODIAK, "down", "--data", data)


@pytest.mark.parametrize("size", [0, 1, 300_000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 12_345])
def test_objects_and_their_ranges_are_whole(erasure, size):
    _, swift, _ = erasure
    content = random.Random(size).randbytes(size)
    swift.put_object("coded", f"o{size}", content)
    assert swift.get_object("coded", f"o{size}")[1] == content
    draw = random.Random(size + 1)
    edges = [edge for edge in (FRAGMENT, 2 * FRAGMENT, BLOCK, BLOCK + FRAGMENT) if edge < size]
    for middle in edges + [draw.randrange(size) for _ in range(5 if size else 0)]:
        begin, end = max(0, middle - draw.randrange(1, 100_000)), min(size - 1, middle + draw.randrange(100_000))
        got = swift.get_object("coded", f"o{size}", headers={"Range": f"bytes={begin}-{end}"})[1]
        assert got == content[begin:end + 1], (begin, end)


def test_multipart_uploads_and_copies_between_policies(erasure):
    _, swift, s3 = erasure
    parts = [random.Random(number).randbytes(5 << 20) for number in range(2)] + [b"end"]
    upload = s3.create_multipart_upload(Bucket="coded", Key="parts")["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        etag = s3.upload_part(Bucket="coded", Key="parts", UploadId=upload, PartNumber=number, Body=part)["ETag"]
        done.append({"PartNumber": number, "ETag": etag})
    s3.complete_multipart_upload(
        Bucket="coded", Key="parts", UploadId=upload, MultipartUpload={"Parts": done}
    )
    swift.put_container("plain", headers={"X-Storage-Policy": "plain"})
    s3.copy_object(Bucket="plain", Key="copy", CopySource="coded/parts")
    s3.copy_object(Bucket="coded", Key="back", CopySource="plain/copy")
    for bucket, key in (("coded", "parts"), ("plain", "copy"), ("coded", "back")):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"".join(parts)


def test_s3_knows_a_policy_as_a_storage_class(erasure):
    _, swift, s3 = erasure
    region = s3.meta.region_name
    s3.create_bucket(Bucket="by-location", CreateBucketConfiguration={"LocationConstraint": f"{region}:coded"})
    assert swift.head_container("by-location")["x-storage-policy"] == "coded"
    s3.put_object(Bucket="by-location", Key="o", Body=b"x", StorageClass="CODED")
    s3.put_object(Bucket="by-location", Key="unasked", Body=b"x", StorageClass="STANDARD")
    assert s3.head_object(Bucket="by-location", Key="o")["StorageClass"] == "CODED"
    assert {o["StorageClass"] for o in s3.list_objects_v2(Bucket="by-location")["Contents"]} == {"CODED"}
    s3.create_bucket(Bucket="by-default")
    assert swift.head_container("by-default")["x-storage-policy"] == "plain"
    with pytest.raises(ClientError, match="InvalidStorageClass"):
        s3.put_object(Bucket="by-default", Key="o", Body=b"x", StorageClass="CODED")
    with pytest.raises(ClientError, match="InvalidLocationConstraint"):
        s3.create_bucket(Bucket="nowhere", CreateBucketConfiguration={"LocationConstraint": f"{region}:other"})


def flip(data, content):
    """Flips a byte of this content wherever a device holds it; on how many."""
    found = 0
    for volume in data.glob("d*/volumes/*"):
        at = volume.read_bytes().find(content)
        if at >= 0:
            found += 1
            with volume.open("r+b") as file:
                file.seek(at)
                file.write(bytes([content[0] ^ 1]))
    return found


def test_as_many_damaged_fragments_as_there_is_parity_are_rebuilt_and_one_more_is_an_error(erasure):
    data, swift, _ = erasure
    content = random.Random(99).randbytes(BLOCK)
    swift.put_object("coded", "damaged", content)
    for number in range(2):
        assert flip(data, content[number * FRAGMENT:][:64]) == 1
        assert swift.get_object("coded", "damaged")[1] == content
        got = swift.get_object("coded", "damaged", headers={"Range": "bytes=10-20"})[1]
        assert got == content[10:21]
    assert flip(data, content[2 * FRAGMENT:][:64]) == 1
    with pytest.raises(Exception):
        swift.get_object("coded", "damaged")
    # What needs none of them is answered still.
    got = swift.get_object("coded", "damaged", headers={"Range": f"bytes={3 * FRAGMENT}-"})[1]
    assert got == content[3 * FRAGMENT:]


def test_a_code_that_does_not_fit_its_ring_is_refused(erasure):
    data, _, _ = erasure
    config = data / "wrong.toml"
    text = (data / "kodiak.toml").read_text()
    for wrong, message in (("4+3", "needs a ring of 7 replicas, but its ring has 6"), ("4", "not an erasure code")):
        config.write_text(text.replace('"4+2"', f'"{wrong}"'))
        checked = subprocess.run([KODIAK, "config", "check", config], capture_output=True, text=True)
        assert checked.returncode != 0 and message in checked.stderr, checked.stderr
