"""The S3 API by MinIO's client, which signs, chunks and parses in its own way."""

import datetime
import filecmp
import io
import random

import minio
import pytest
import requests
from minio.commonconfig import REPLACE, ComposeSource, CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error


def body(size, seed=3):
    return random.Random(seed).randbytes(size)


@pytest.fixture
def client(store):
    s3 = store.endpoints["s3"]
    host = s3["url"].removeprefix("http://")
    return minio.Minio(
        host, access_key=s3["access_key"], secret_key=s3["secret_key"], region=s3["region"], secure=False
    )


def code(call, *arguments, **named):
    """The code of the error that a call must give."""
    with pytest.raises(S3Error) as caught:
        call(*arguments, **named)
    return caught.value.code


def put(client, bucket, name, data, **named):
    return client.put_object(bucket, name, io.BytesIO(data), len(data), **named)


def read(client, bucket, name, **named):
    answer = client.get_object(bucket, name, **named)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


def test_buckets_are_made_found_and_removed(client):
    client.make_bucket("minio-buckets")
    assert client.bucket_exists("minio-buckets") and not client.bucket_exists("minio-none")
    assert "minio-buckets" in [bucket.name for bucket in client.list_buckets()]
    assert code(client.make_bucket, "minio-buckets") == "BucketAlreadyOwnedByYou"
    client.remove_bucket("minio-buckets")
    assert code(client.remove_bucket, "minio-buckets") == "NoSuchBucket"


@pytest.mark.parametrize("size", [0, 1, 300_000, 11_000_000])
def test_what_is_put_is_got(client, bucket, size):
    data = body(size)
    name = "dir/ü + %25 ~"
    done = put(client, bucket, name, data, content_type="x/y", metadata={"color": "blue"}, part_size=5 << 20)
    assert read(client, bucket, name) == data
    stat = client.stat_object(bucket, name)
    assert (stat.size, stat.content_type, stat.etag) == (size, "x/y", done.etag)
    assert stat.metadata["x-amz-meta-color"] == "blue"
    assert ("-" in done.etag) == (size > 5 << 20)
    if size > 1000:
        assert read(client, bucket, name, offset=500, length=77) == data[500:577]


def test_a_stream_of_unknown_length_is_uploaded_in_parts(client, bucket):
    data = body(12_345_678)
    client.put_object(bucket, "stream", io.BytesIO(data), -1, part_size=5 << 20)
    assert read(client, bucket, "stream") == data


def test_files_go_up_and_come_back(client, bucket, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(body(7_000_000))
    client.fput_object(bucket, "file", str(there), part_size=5 << 20)
    client.fget_object(bucket, "file", str(back))
    assert filecmp.cmp(there, back, shallow=False)


def test_objects_are_listed_recursively_or_by_folder_and_removed_at_once(client, bucket):
    names = sorted(f"{top}/{number}" for top in ("a", "b", "ü ö") for number in range(4)) + ["z"]
    for name in names:
        put(client, bucket, name, b"x")
    listed = list(client.list_objects(bucket, recursive=True))
    assert sorted(one.object_name for one in listed) == sorted(names) and {one.size for one in listed} == {1}
    assert sorted(one.object_name for one in client.list_objects(bucket)) == ["a/", "b/", "z", "ü ö/"]
    assert [one.object_name for one in client.list_objects(bucket, prefix="a/", start_after="a/1")] == ["a/2", "a/3"]
    assert not list(client.remove_objects(bucket, [DeleteObject(name) for name in names]))
    assert not list(client.list_objects(bucket, recursive=True))


def test_copies_and_compositions(client, bucket):
    first, second = body(6 << 20, 1), body(5_500_000, 2)
    put(client, bucket, "first", first, metadata={"k": "1"})
    put(client, bucket, "second", second)
    client.copy_object(bucket, "copy", CopySource(bucket, "first"))
    assert client.stat_object(bucket, "copy").metadata["x-amz-meta-k"] == "1"
    client.copy_object(bucket, "copy", CopySource(bucket, "first"), metadata={"k": "2"}, metadata_directive=REPLACE)
    assert client.stat_object(bucket, "copy").metadata["x-amz-meta-k"] == "2"
    sources = [ComposeSource(bucket, "first"), ComposeSource(bucket, "second", offset=100, length=5_300_000)]
    client.compose_object(bucket, "both", sources)
    assert read(client, bucket, "both") == first + second[100:5_300_100]
    etag = client.stat_object(bucket, "first").etag
    refused = CopySource(bucket, "first", not_match_etag=etag)
    assert code(client.copy_object, bucket, "c", refused) == "PreconditionFailed"


def test_presigned_urls(client, bucket):
    minute = datetime.timedelta(minutes=1)
    assert requests.put(client.presigned_put_object(bucket, "by url", expires=minute), data=b"sent").ok
    url = client.presigned_get_object(bucket, "by url", expires=minute)
    assert requests.get(url).content == b"sent"
    shown = client.presigned_get_object(bucket, "by url", response_headers={"response-content-type": "a/b"})
    assert requests.get(shown).headers["content-type"] == "a/b"
    assert requests.get(url.replace("X-Amz-Expires=60", "X-Amz-Expires=600")).status_code == 403


def test_tags_of_objects_and_buckets(client, bucket):
    def tags(**pairs):
        made = Tags.new_object_tags()
        made.update(pairs)
        return made

    put(client, bucket, "o", b"x", tags=tags(a="1"))
    before = client.stat_object(bucket, "o").last_modified
    assert client.get_object_tags(bucket, "o") == {"a": "1"}
    client.set_object_tags(bucket, "o", tags(b="2 + 3", c=""))
    assert client.get_object_tags(bucket, "o") == {"b": "2 + 3", "c": ""}
    stat = client.stat_object(bucket, "o")
    assert stat.metadata["x-amz-tagging-count"] == "2" and stat.last_modified == before
    client.delete_object_tags(bucket, "o")
    assert not client.get_object_tags(bucket, "o")
    assert not client.get_bucket_tags(bucket)
    owner = Tags.new_bucket_tags()
    owner["owner"] = "me"
    client.set_bucket_tags(bucket, owner)
    assert client.get_bucket_tags(bucket) == {"owner": "me"}
    client.delete_bucket_tags(bucket)
    assert not client.get_bucket_tags(bucket)


def test_missing_things_have_their_codes(client, bucket):
    assert code(client.stat_object, bucket, "none") == "NoSuchKey"
    assert code(client.get_object, bucket, "none") == "NoSuchKey"
    assert code(client.get_bucket_policy, bucket) == "NoSuchBucketPolicy"
    assert client.get_bucket_encryption(bucket) is None
    assert client.get_bucket_lifecycle(bucket) is None
    assert code(client.get_bucket_replication, "minio-none") == "NoSuchBucket"
