"""Versions of objects, by boto3 and by python-swiftclient."""

import time

import pytest
import requests
from botocore.exceptions import ClientError


def failure(call, **arguments):
    """The error that a call must give."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response


def code(call, **arguments):
    return failure(call, **arguments)["Error"]["Code"]


def set_versioning(s3, bucket, status):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


@pytest.fixture
def versioned(s3, bucket):
    """A bucket that keeps versions."""
    set_versioning(s3, bucket, "Enabled")
    return bucket


def put(s3, bucket, key, body, **arguments):
    return s3.put_object(Bucket=bucket, Key=key, Body=body, **arguments)["VersionId"]


def read(s3, bucket, key, version=None):
    named = {"VersionId": version} if version else {}
    return s3.get_object(Bucket=bucket, Key=key, **named)["Body"].read()


def listed(s3, bucket, **arguments):
    """All versions: key, id, whether it is the latest, whether it is a marker; in the listing's order."""
    page = s3.list_object_versions(Bucket=bucket, **arguments)
    entries = [(v["Key"], v["VersionId"], v["IsLatest"], False, v["LastModified"]) for v in page.get("Versions", [])]
    entries += [(m["Key"], m["VersionId"], m["IsLatest"], True, m["LastModified"]) for m in page.get("DeleteMarkers", [])]
    return sorted(entry[:4] for entry in entries)


def test_a_bucket_says_whether_it_keeps_versions(s3, bucket):
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    for status in ("Enabled", "Suspended", "Enabled"):
        set_versioning(s3, bucket, status)
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == status


@pytest.mark.parametrize("size", [10, 300_000, 9_000_001])
def test_every_version_is_read_as_it_was_written(s3, versioned, size):
    bodies = [bytes([n]) * size for n in range(3)]
    ids = [put(s3, versioned, "k", body, Metadata={"n": str(n)}) for n, body in enumerate(bodies)]
    assert len(set(ids)) == 3
    # Longer than replaced blocks are left alone.
    time.sleep(3.5)
    for n, (id, body) in enumerate(zip(ids, bodies)):
        got = s3.get_object(Bucket=versioned, Key="k", VersionId=id)
        assert (got["Body"].read(), got["VersionId"], got["Metadata"]) == (body, id, {"n": str(n)})
        assert s3.head_object(Bucket=versioned, Key="k", VersionId=id)["ContentLength"] == size
    current = s3.get_object(Bucket=versioned, Key="k")
    assert (current["Body"].read(), current["VersionId"]) == (bodies[2], ids[2])
    part = s3.get_object(Bucket=versioned, Key="k", VersionId=ids[0], Range="bytes=3-5")
    assert part["Body"].read() == bodies[0][3:6]
    assert listed(s3, versioned) == sorted(("k", id, id == ids[2], False) for id in ids)
    assert [o["Size"] for o in s3.list_objects_v2(Bucket=versioned)["Contents"]] == [size]


def test_a_deletion_leaves_a_marker_whose_deletion_undoes_it(s3, versioned):
    first, second = put(s3, versioned, "k", b"1"), put(s3, versioned, "k", b"2")
    deleted = s3.delete_object(Bucket=versioned, Key="k")
    marker = deleted["VersionId"]
    assert deleted["DeleteMarker"] is True and marker not in (first, second)
    gone = failure(s3.get_object, Bucket=versioned, Key="k")
    assert gone["Error"]["Code"] == "NoSuchKey"
    assert gone["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    assert gone["ResponseMetadata"]["HTTPHeaders"]["x-amz-version-id"] == marker
    of_marker = failure(s3.get_object, Bucket=versioned, Key="k", VersionId=marker)
    assert of_marker["Error"]["Code"] == "MethodNotAllowed"
    assert of_marker["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    assert s3.list_objects_v2(Bucket=versioned)["KeyCount"] == 0
    assert listed(s3, versioned) == sorted(
        [("k", marker, True, True), ("k", second, False, False), ("k", first, False, False)]
    )
    undone = s3.delete_object(Bucket=versioned, Key="k", VersionId=marker)
    assert (undone["DeleteMarker"], undone["VersionId"]) == (True, marker)
    assert read(s3, versioned, "k") == b"2"
    # What is not there is deleted already.
    assert s3.delete_object(Bucket=versioned, Key="k", VersionId=marker)["VersionId"] == marker


def test_the_deletion_of_the_current_version_brings_back_the_one_before(s3, versioned):
    ids = [put(s3, versioned, "k", str(n).encode()) for n in range(3)]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[2])
    assert read(s3, versioned, "k") == b"1"
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[0])
    assert listed(s3, versioned) == [("k", ids[1], True, False)]
    assert code(s3.get_object, Bucket=versioned, Key="k", VersionId=ids[0]) == "NoSuchVersion"
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[1])
    assert code(s3.get_object, Bucket=versioned, Key="k") == "NoSuchKey"
    assert listed(s3, versioned) == []


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_an_object_from_before_is_the_null_version(s3, bucket, size):
    old, new = b"o" * size, b"n" * size
    s3.put_object(Bucket=bucket, Key="k", Body=old)
    set_versioning(s3, bucket, "Enabled")
    assert s3.head_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    assert listed(s3, bucket) == [("k", "null", True, False)]
    id = put(s3, bucket, "k", new)
    time.sleep(3.5)
    assert listed(s3, bucket) == sorted([("k", id, True, False), ("k", "null", False, False)])
    assert (read(s3, bucket, "k"), read(s3, bucket, "k", "null")) == (new, old)
    s3.delete_object(Bucket=bucket, Key="k", VersionId=id)
    time.sleep(3.5)
    assert read(s3, bucket, "k") == old
    assert s3.head_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert listed(s3, bucket) == []


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_suspended_bucket_has_one_null_version(s3, versioned, size):
    bodies = [bytes([n]) * size for n in range(4)]
    id = put(s3, versioned, "k", bodies[0])
    set_versioning(s3, versioned, "Suspended")
    assert put(s3, versioned, "k", bodies[1]) == "null"
    assert put(s3, versioned, "k", bodies[2]) == "null"
    time.sleep(3.5)
    assert listed(s3, versioned) == sorted([("k", "null", True, False), ("k", id, False, False)])
    assert (read(s3, versioned, "k"), read(s3, versioned, "k", id)) == (bodies[2], bodies[0])
    # Enabled again: null stays, until a suspended bucket replaces it wherever it is.
    set_versioning(s3, versioned, "Enabled")
    later = put(s3, versioned, "k", bodies[3])
    assert read(s3, versioned, "k", "null") == bodies[2]
    set_versioning(s3, versioned, "Suspended")
    put(s3, versioned, "k", bodies[1])
    assert read(s3, versioned, "k", "null") == bodies[1]
    assert [entry[1] for entry in listed(s3, versioned)].count("null") == 1
    deleted = s3.delete_object(Bucket=versioned, Key="k")
    assert (deleted["DeleteMarker"], deleted["VersionId"]) == (True, "null")
    expected = [("k", "null", True, True), ("k", id, False, False), ("k", later, False, False)]
    assert listed(s3, versioned) == sorted(expected)
    s3.delete_object(Bucket=versioned, Key="k", VersionId="null")
    time.sleep(3.5)
    assert (read(s3, versioned, "k"), read(s3, versioned, "k", id)) == (bodies[3], bodies[0])


def test_versions_are_listed_page_by_page(s3, versioned):
    for key in ("a", "b/1", "b/2", "c"):
        for n in range(3):
            put(s3, versioned, key, str(n).encode())
    s3.delete_object(Bucket=versioned, Key="b/1")
    whole = listed(s3, versioned)
    assert len(whole) == 13
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=versioned, PaginationConfig={"PageSize": 2})
    found, latest = [], []
    for page in pages:
        for entry in page.get("Versions", []) + page.get("DeleteMarkers", []):
            found.append((entry["Key"], entry["VersionId"]))
            latest += [entry["Key"]] if entry["IsLatest"] else []
    assert sorted(found) == [entry[:2] for entry in whole]
    assert sorted(latest) == ["a", "b/1", "b/2", "c"]
    page = s3.list_object_versions(Bucket=versioned, Delimiter="/")
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["b/"]
    assert {v["Key"] for v in page["Versions"]} == {"a", "c"}
    # A delimiter that ids hold, too.
    page = s3.list_object_versions(Bucket=versioned, Delimiter="1")
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["b/1"]
    assert [v["Key"] for v in page["Versions"]] == ["a"] * 3 + ["b/2"] * 3 + ["c"] * 3
    page = s3.list_object_versions(Bucket=versioned, Prefix="b/", MaxKeys=1, KeyMarker="b/1")
    assert [(v["Key"], v["IsLatest"]) for v in page["Versions"]] == [("b/2", True)]
    assert page["IsTruncated"]


def test_a_batch_deletes_versions_and_leaves_markers(s3, versioned):
    a, b = put(s3, versioned, "a", b"1"), put(s3, versioned, "b", b"1")
    objects = [{"Key": "a", "VersionId": a}, {"Key": "b"}]
    done = s3.delete_objects(Bucket=versioned, Delete={"Objects": objects})["Deleted"]
    done = {entry["Key"]: entry for entry in done}
    assert done["a"]["VersionId"] == a and "DeleteMarker" not in done["a"]
    marker = done["b"]["DeleteMarkerVersionId"]
    assert done["b"]["DeleteMarker"] is True
    assert listed(s3, versioned) == sorted([("b", marker, True, True), ("b", b, False, False)])
    objects = [{"Key": "b", "VersionId": marker}]
    done = s3.delete_objects(Bucket=versioned, Delete={"Objects": objects})["Deleted"]
    assert done == [{"Key": "b", "VersionId": marker, "DeleteMarker": True, "DeleteMarkerVersionId": marker}]
    assert read(s3, versioned, "b") == b"1"


def test_a_version_can_be_copied(s3, versioned):
    old, new = put(s3, versioned, "k", b"old", Metadata={"a": "b"}), put(s3, versioned, "k", b"new")
    source = {"Bucket": versioned, "Key": "k", "VersionId": old}
    copy = s3.copy_object(Bucket=versioned, Key="k", CopySource=source)
    assert copy["CopySourceVersionId"] == old and copy["VersionId"] not in (old, new)
    got = s3.get_object(Bucket=versioned, Key="k")
    assert (got["Body"].read(), got["Metadata"]) == (b"old", {"a": "b"})
    assert len(listed(s3, versioned)) == 3
    upload = s3.create_multipart_upload(Bucket=versioned, Key="m")["UploadId"]
    named = dict(Bucket=versioned, Key="m", UploadId=upload)
    part = s3.upload_part_copy(PartNumber=1, CopySource=source, **named)
    assert part["CopySourceVersionId"] == old
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    source["VersionId"] = marker
    assert code(s3.copy_object, Bucket=versioned, Key="x", CopySource=source) == "InvalidRequest"


def test_multipart_uploads_become_versions(s3, versioned):
    ids, bodies = [], []
    for n in range(2):
        parts = [bytes([n]) * (5 << 20), bytes([n + 9]) * 1000]
        upload = s3.create_multipart_upload(Bucket=versioned, Key="m")["UploadId"]
        named = dict(Bucket=versioned, Key="m", UploadId=upload)
        tags = [s3.upload_part(PartNumber=i + 1, Body=part, **named)["ETag"] for i, part in enumerate(parts)]
        wanted = {"Parts": [{"PartNumber": i + 1, "ETag": tag} for i, tag in enumerate(tags)]}
        done = s3.complete_multipart_upload(MultipartUpload=wanted, **named)
        again = s3.complete_multipart_upload(MultipartUpload=wanted, **named)
        assert again["VersionId"] == done["VersionId"]
        ids.append(done["VersionId"])
        bodies.append(b"".join(parts))
    time.sleep(3.5)
    assert [read(s3, versioned, "m", id) for id in ids] == bodies
    assert read(s3, versioned, "m") == bodies[1]
    assert listed(s3, versioned) == sorted([("m", ids[1], True, False), ("m", ids[0], False, False)])
    s3.delete_object(Bucket=versioned, Key="m", VersionId=ids[1])
    time.sleep(3.5)
    assert read(s3, versioned, "m") == bodies[0]


def test_conditions_are_of_the_current_version(s3, versioned):
    put(s3, versioned, "k", b"1")
    assert code(s3.put_object, Bucket=versioned, Key="k", Body=b"2", IfNoneMatch="*") == "PreconditionFailed"
    etag = s3.head_object(Bucket=versioned, Key="k")["ETag"]
    s3.put_object(Bucket=versioned, Key="k", Body=b"2", IfMatch=etag)
    assert code(s3.put_object, Bucket=versioned, Key="k", Body=b"3", IfMatch=etag) == "PreconditionFailed"
    s3.delete_object(Bucket=versioned, Key="k")
    s3.put_object(Bucket=versioned, Key="k", Body=b"4", IfNoneMatch="*")
    assert read(s3, versioned, "k") == b"4"


def test_a_bucket_with_versions_is_not_empty(s3, versioned):
    id = put(s3, versioned, "k", b"1")
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    assert code(s3.delete_bucket, Bucket=versioned) == "BucketNotEmpty"
    for version in (id, marker):
        s3.delete_object(Bucket=versioned, Key="k", VersionId=version)
    s3.delete_bucket(Bucket=versioned)
    s3.create_bucket(Bucket=versioned)
    assert "Status" not in s3.get_bucket_versioning(Bucket=versioned)
    assert listed(s3, versioned) == []


def test_what_is_no_version_is_refused(s3, versioned):
    put(s3, versioned, "k", b"1")
    assert code(s3.get_object, Bucket=versioned, Key="k", VersionId="nonsense") == "InvalidArgument"
    missing = "1234567890.12345"
    assert code(s3.get_object, Bucket=versioned, Key="k", VersionId=missing) == "NoSuchVersion"
    assert code(s3.get_object, Bucket=versioned, Key="k", VersionId="null") == "NoSuchVersion"


def test_hidden_names_are_neither_shown_nor_named(s3, swift, versioned):
    put(s3, versioned, "k", b"1")
    assert all(not b["Name"].startswith("\0") for b in s3.list_buckets()["Buckets"])
    for parameters in ({}, {"prefix": "\0versions"}, {"marker": "\0"}):
        assert all(not c["name"].startswith("\0") for c in swift.get_account(**parameters)[1])
    url, token = swift.get_auth()
    answer = requests.get(f"{url}/%00versions%00{versioned}", headers={"X-Auth-Token": token})
    assert answer.status_code == 412


def test_swift_and_s3_see_the_same_versions(s3, swift, versioned):
    id = put(s3, versioned, "k", b"1")
    headers, body = swift.get_object(versioned, "k", query_string=f"version-id={id}")
    assert (body, headers["x-object-version-id"]) == (b"1", id)
    swift.put_object(versioned, "k", b"22")
    rows = swift.get_container(versioned, query_string="versions&format=json")[1]
    assert [(row["bytes"], row["is_latest"]) for row in rows] == [(2, True), (1, False)]
    assert rows[1]["version_id"] == id
    assert listed(s3, versioned) == sorted(("k", r["version_id"], r["is_latest"], False) for r in rows)
    assert swift.head_container(versioned)["x-container-bytes-used"] == "3"
    time.sleep(0.5)
    shown = {row["name"]: row["bytes"] for row in swift.get_account()[1]}
    assert shown[versioned] == 3


def test_s3_keeps_copies_where_swift_says(s3, swift, bucket):
    swift.put_container("copies-of-" + bucket)
    swift.post_container(bucket, {"X-Versions-Location": "copies-of-" + bucket})
    for body in (b"1", b"2"):
        s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert [row["name"][:5] for row in swift.get_container("copies-of-" + bucket)[1]] == ["001k/"]
    s3.delete_object(Bucket=bucket, Key="k")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"
    assert swift.get_container("copies-of-" + bucket)[1] == []
    assert code(s3.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}) == (
        "InvalidRequest"
    )
