"""The S3 API by boto3, with its default checksums."""

import concurrent.futures
import hashlib
import random

import boto3
import botocore
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError


def code(call, **arguments):
    """The code of the error that a call must give."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def body(size, seed=1):
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 4096, 262_144, 262_145, 4_194_304, 9_000_001])
def test_what_is_put_is_got(s3, bucket, size):
    data = body(size)
    put = s3.put_object(Bucket=bucket, Key="a/b c+ü", Body=data, Metadata={"color": "blue"}, ContentType="x/y")
    got = s3.get_object(Bucket=bucket, Key="a/b c+ü")
    assert got["Body"].read() == data
    assert got["ETag"] == put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert (got["Metadata"], got["ContentType"]) == ({"color": "blue"}, "x/y")
    if size > 100:
        part = s3.get_object(Bucket=bucket, Key="a/b c+ü", Range=f"bytes={size - 70}-{size - 20}")
        assert part["Body"].read() == data[-70:-19]
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert s3.head_object(Bucket=bucket, Key="a/b c+ü")["ContentLength"] == size


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_kept_and_checked(s3, bucket, algorithm):
    if algorithm in ("CRC32C", "CRC64NVME"):
        pytest.importorskip("awscrt", reason="boto3 makes this checksum only with awscrt")
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello", ChecksumAlgorithm=algorithm)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"]
    wrong = {f"Checksum{algorithm}": head[f"Checksum{algorithm}"]}
    assert code(s3.put_object, Bucket=bucket, Key="k", Body=b"hellO", **wrong) == "BadDigest"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"hello"


def test_multipart_in_any_order_with_a_part_replaced(s3, bucket):
    parts = [body(5 << 20, seed) for seed in (1, 2)] + [body(77, 3)]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m", Metadata={"k": "v"})["UploadId"]
    name = dict(Bucket=bucket, Key="m", UploadId=upload)
    s3.upload_part(PartNumber=2, Body=b"replaced", **name)
    tags = {n: s3.upload_part(PartNumber=n, Body=parts[n - 1], **name)["ETag"] for n in (3, 2, 1)}
    listed = s3.list_parts(**name)["Parts"]
    assert [(p["PartNumber"], p["Size"]) for p in listed] == [(n, len(parts[n - 1])) for n in (1, 2, 3)]
    assert [u["Key"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["m"]
    chosen = [{"PartNumber": n, "ETag": tags[n]} for n in (1, 2, 3)]
    wrong = [dict(chosen[0], ETag='"0"')] + chosen[1:]
    assert code(s3.complete_multipart_upload, MultipartUpload={"Parts": wrong}, **name) == "InvalidPart"
    backwards = {"Parts": chosen[::-1]}
    assert code(s3.complete_multipart_upload, MultipartUpload=backwards, **name) == "InvalidPartOrder"
    done = s3.complete_multipart_upload(MultipartUpload={"Parts": chosen}, **name)
    again = s3.complete_multipart_upload(MultipartUpload={"Parts": chosen}, **name)
    assert again["ETag"] == done["ETag"] and done["ETag"].endswith('-3"')
    got = s3.get_object(Bucket=bucket, Key="m")
    assert got["Body"].read() == b"".join(parts) and got["Metadata"] == {"k": "v"}
    assert s3.get_object(Bucket=bucket, Key="m", PartNumber=2)["Body"].read() == parts[1]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    assert code(s3.list_parts, **name) == "NoSuchUpload"


def test_an_aborted_upload_is_gone_and_small_parts_are_refused(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    name = dict(Bucket=bucket, Key="m", UploadId=upload)
    tags = [s3.upload_part(PartNumber=n, Body=b"small", **name)["ETag"] for n in (1, 2)]
    parts = {"Parts": [{"PartNumber": n + 1, "ETag": tag} for n, tag in enumerate(tags)]}
    assert code(s3.complete_multipart_upload, MultipartUpload=parts, **name) == "EntityTooSmall"
    s3.abort_multipart_upload(**name)
    assert code(s3.upload_part, PartNumber=1, Body=b"x", **name) == "NoSuchUpload"
    assert code(s3.head_object, Bucket=bucket, Key="m") == "404"


def test_copies_keep_or_replace_metadata_and_heed_conditions(s3, bucket):
    data = body(6_000_000)
    etag = s3.put_object(Bucket=bucket, Key="a", Body=data, Metadata={"k": "1"})["ETag"]
    source = {"Bucket": bucket, "Key": "a"}
    s3.copy_object(Bucket=bucket, Key="b", CopySource=source)
    assert s3.head_object(Bucket=bucket, Key="b")["Metadata"] == {"k": "1"}
    s3.copy_object(Bucket=bucket, Key="b", CopySource=source, MetadataDirective="REPLACE", Metadata={"k": "2"})
    got = s3.get_object(Bucket=bucket, Key="b")
    assert got["Metadata"] == {"k": "2"} and got["Body"].read() == data
    refused = dict(Bucket=bucket, Key="c", CopySource=source, CopySourceIfNoneMatch=etag)
    assert code(s3.copy_object, **refused) == "PreconditionFailed"
    assert code(s3.copy_object, Bucket=bucket, Key="a", CopySource=source) == "InvalidRequest"


def test_only_one_of_many_conditional_writers_wins(s3, bucket):
    def write(number):
        try:
            s3.put_object(Bucket=bucket, Key="once", Body=str(number).encode(), IfNoneMatch="*")
            return number
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"
            return None

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        winners = [number for number in pool.map(write, range(32)) if number is not None]
    assert len(winners) == 1
    assert s3.get_object(Bucket=bucket, Key="once")["Body"].read() == str(winners[0]).encode()
    etag = s3.head_object(Bucket=bucket, Key="once")["ETag"]
    s3.put_object(Bucket=bucket, Key="once", Body=b"next", IfMatch=etag)
    assert code(s3.put_object, Bucket=bucket, Key="once", Body=b"late", IfMatch=etag) == "PreconditionFailed"


def test_listings_page_and_roll_up(s3, bucket):
    keys = sorted(f"{top}/{number:02}" for top in "abc" for number in range(7)) + ["z"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 5})
    assert [o["Key"] for page in pages for o in page["Contents"]] == keys
    pages = s3.get_paginator("list_objects").paginate(Bucket=bucket, PaginationConfig={"PageSize": 5})
    assert [o["Key"] for page in pages for o in page["Contents"]] == keys
    rolled = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in rolled["CommonPrefixes"]] == ["a/", "b/", "c/"]
    assert [o["Key"] for o in rolled["Contents"]] == ["z"]
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert len(deleted["Deleted"]) == len(keys)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_conditional_reads(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    assert code(s3.get_object, Bucket=bucket, Key="k", IfNoneMatch=etag) == "304"
    assert code(s3.get_object, Bucket=bucket, Key="k", IfMatch='"0"') == "PreconditionFailed"
    assert code(s3.get_object, Bucket=bucket, Key="k", Range="bytes=5-") == "InvalidRange"


def test_presigned_urls_work_until_they_expire_and_only_as_signed(s3, bucket):
    name = {"Bucket": bucket, "Key": "p"}
    put = s3.generate_presigned_url("put_object", Params=name, ExpiresIn=60)
    assert requests.put(put, data=b"by url").status_code == 200
    get = s3.generate_presigned_url("get_object", Params=name, ExpiresIn=60)
    assert requests.get(get).content == b"by url"
    assert requests.get(get.replace("/p?", "/q?")).status_code == 403
    assert requests.delete(get).status_code == 403
    assert "<Code>AccessDenied</Code>" in requests.get(get.split("?")[0]).text
    expired = s3.generate_presigned_url("get_object", Params=name, ExpiresIn=-1)
    assert "expired" in requests.get(expired).text


def test_virtual_hosts_and_path_style_are_the_same(store, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = store.endpoints["s3"]["url"]
    signed = boto3.client(
        "s3",
        endpoint_url=url.replace("127.0.0.1", "localhost"),
        aws_access_key_id=store.endpoints["s3"]["access_key"],
        aws_secret_access_key=store.endpoints["s3"]["secret_key"],
        region_name=store.endpoints["s3"]["region"],
        config=Config(s3={"addressing_style": "virtual"}),
    )
    link = signed.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    host = link.split("/")[2]
    assert host.startswith(f"{bucket}.localhost")
    port = url.rsplit(":", 1)[1]
    local = link.replace(host, f"127.0.0.1:{port}", 1)
    assert requests.get(local, headers={"Host": host}).content == b"x"


def test_a_wrong_secret_key_region_or_user_is_refused(store):
    def client(access=None, secret=None, region=None):
        s3 = store.endpoints["s3"]
        return boto3.client("s3", endpoint_url=s3["url"], aws_access_key_id=access or s3["access_key"],
                            aws_secret_access_key=secret or s3["secret_key"], region_name=region or s3["region"])

    assert code(client(secret="wrong").list_buckets) == "SignatureDoesNotMatch"
    assert code(client(access="nobody").list_buckets) == "InvalidAccessKeyId"
    assert code(client(region="mars-1").list_buckets) == "AuthorizationHeaderMalformed"


def test_bad_names_and_missing_things_have_their_codes(s3, bucket):
    assert code(s3.create_bucket, Bucket=bucket) == "BucketAlreadyOwnedByYou"
    assert code(s3.list_objects_v2, Bucket="not-there-at-all") == "NoSuchBucket"
    assert code(s3.get_object, Bucket=bucket, Key="none") == "NoSuchKey"
    assert code(s3.put_object, Bucket=bucket, Key="k" * 1025, Body=b"") == "KeyTooLongError"
    assert code(s3.put_object, Bucket=bucket, Key="k", Body=b"", Metadata={"a": "x" * 3000}) == "MetadataTooLarge"
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert code(s3.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
    # A bucket's name is checked by boto3 itself unless that is switched off.
    loose = s3.meta.events
    loose.unregister("before-parameter-build.s3", botocore.handlers.validate_bucket_name)
    assert code(s3.create_bucket, Bucket="Bad_Name") == "InvalidBucketName"


def test_attributes(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello")
    wanted = ["ETag", "Checksum", "ObjectSize", "StorageClass"]
    found = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=wanted)
    assert found["ObjectSize"] == 5 and found["Checksum"]["ChecksumCRC32"]
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
