"""Swift's symlinks, through both APIs."""

import random

import pytest
from botocore.exceptions import ClientError
from swiftclient.exceptions import ClientException


def status(call, *arguments, **named):
    """The status of the error that a call must give."""
    with pytest.raises(ClientException) as caught:
        call(*arguments, **named)
    return caught.value.http_status


def link(swift, container, name, target, **more):
    """Makes a symlink."""
    headers = {"X-Symlink-Target": target, **{key.replace("_", "-"): value for key, value in more.items()}}
    return swift.put_object(container, name, b"", headers=headers)


def test_both_apis_read_and_copy_what_a_link_stands_for(swift, s3):
    data = random.Random(2).randbytes(5_000_000)
    swift.put_container("linked")
    swift.put_object("linked", "target", data, content_type="x/y", headers={"X-Object-Meta-Color": "blue"})
    link(swift, "linked", "link", "linked/target")
    headers, body = swift.get_object("linked", "link")
    assert body == data and headers["x-object-meta-color"] == "blue"
    assert headers["content-location"].endswith("/linked/target")
    found = s3.get_object(Bucket="linked", Key="link")
    assert found["Body"].read() == data and found["Metadata"] == {"color": "blue"}
    s3.copy_object(Bucket="linked", Key="copy", CopySource="linked/link")
    assert swift.get_object("linked", "copy", query_string="symlink=get")[1] == data
    s3.delete_object(Bucket="linked", Key="link")
    assert swift.get_object("linked", "target")[1] == data


def test_a_static_link_breaks_when_its_target_changes(swift, s3):
    swift.put_container("static")
    etag = swift.put_object("static", "target", b"one")
    link(swift, "static", "link", "static/target", x_symlink_target_etag=etag)
    assert status(link, swift, "static", "other", "static/none", x_symlink_target_etag=etag) == 409
    shown = swift.get_container("static", prefix="link")[1][0]
    assert (shown["symlink_bytes"], shown["symlink_etag"], shown["bytes"]) == (3, etag, 0)
    swift.put_object("static", "target", b"two")
    assert status(swift.get_object, "static", "link") == 409
    with pytest.raises(ClientError) as refused:
        s3.get_object(Bucket="static", Key="link")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409


def test_links_are_segments_of_large_objects(swift):
    swift.put_container("parts")
    swift.put_container("links")
    for name in ("a", "b"):
        swift.put_object("parts", name, name.encode() * 10)
        link(swift, "links", f"part/{name}", f"parts/{name}")
    swift.put_object("links", "dynamic", b"", headers={"X-Object-Manifest": "links/part/"})
    headers, body = swift.get_object("links", "dynamic")
    assert body == b"a" * 10 + b"b" * 10 and headers["content-length"] == "20"
    manifest = '[{"path": "links/part/b", "range": "0-4"}, {"path": "links/part/a"}]'
    swift.put_object("links", "static", manifest, query_string="multipart-manifest=put")
    assert swift.get_object("links", "static")[1] == b"b" * 5 + b"a" * 10
    swift.delete_object("parts", "a")
    assert status(swift.get_object, "links", "dynamic") == 409
