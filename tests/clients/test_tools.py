"""The command-line tools, each used as its users do."""

import filecmp
import json
import os
import pathlib
import random
import shutil
import subprocess

import pytest
import requests


def write(folder, name, size, seed=7):
    path = folder / name
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def same_trees(left, right):
    """Every file of both trees, byte for byte."""
    names = {p.relative_to(left) for p in pathlib.Path(left).rglob("*") if p.is_file()}
    assert names == {p.relative_to(right) for p in pathlib.Path(right).rglob("*") if p.is_file()}
    for name in names:
        assert filecmp.cmp(left / name, right / name, shallow=False), name
    return len(names)


def test_swift_uploads_segments_and_downloads(store, tmp_path):
    small, big = write(tmp_path, "small", 3000), write(tmp_path, "big", 20_000_000)
    store.run("swift", "upload", "tools", "small", cwd=tmp_path)
    store.run("swift", "upload", "-S", "6000000", "tools", "big", cwd=tmp_path)
    assert store.run("swift", "list", "tools").split() == ["big", "small"]
    for path in (small, big):
        store.run("swift", "download", "tools", path.name, "-o", tmp_path / "back")
        assert filecmp.cmp(path, tmp_path / "back", shallow=False)
    store.run("swift", "delete", "tools")
    assert "tools\n" not in store.run("swift", "list")


def test_awscli_copies_syncs_and_removes(store, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write(source, "small", 3000)
    write(source, "big", 20_000_000)
    store.run("aws", "s3", "mb", "s3://awscli-tools")
    store.run("aws", "s3", "sync", "--no-progress", source, "s3://awscli-tools/a")
    store.run("aws", "s3", "sync", "--no-progress", "s3://awscli-tools/a", tmp_path / "back")
    assert same_trees(source, tmp_path / "back") == 2
    store.run("aws", "s3", "cp", "--no-progress", "s3://awscli-tools/a/big", "s3://awscli-tools/b")
    store.run("aws", "s3", "rm", "--recursive", "s3://awscli-tools")
    store.run("aws", "s3", "rb", "s3://awscli-tools")


def test_s3cmd_puts_gets_and_deletes(store, tmp_path):
    s3 = store.endpoints["s3"]
    host = s3["url"].removeprefix("http://")
    command = ["s3cmd", f"--host={host}", f"--host-bucket={host}", "--no-ssl", f"--access_key={s3['access_key']}",
               f"--secret_key={s3['secret_key']}", "--no-progress"]
    big = write(tmp_path, "big", 20_000_000)
    store.run(*command, "mb", "s3://s3cmd-tools")
    store.run(*command, "put", "--multipart-chunk-size-mb=6", big, "s3://s3cmd-tools/big")
    assert "s3://s3cmd-tools/big" in store.run(*command, "ls", "s3://s3cmd-tools")
    store.run(*command, "get", "s3://s3cmd-tools/big", tmp_path / "back")
    assert filecmp.cmp(big, tmp_path / "back", shallow=False)
    store.run(*command, "info", "s3://s3cmd-tools/big")
    store.run(*command, "del", "s3://s3cmd-tools/big")
    store.run(*command, "rb", "s3://s3cmd-tools")


# Real files: where they are, how many of them, and how many bytes in all.
CORPUS = [("/usr/share/doc", 1500, 50 << 20), ("/usr/share", 1500, 80 << 20), ("/usr/lib/python3", 500, 50 << 20)]
TOOLCHAIN = [("share/doc", 1000, 50 << 20), ("lib", 200, 250 << 20)]


def files_of(root, count, size):
    """Files of every kind under a folder: each so many-th, the largest ones first."""
    found = [(path.stat().st_size, path) for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    chosen, total = [], 0
    for length, path in found[::max(1, len(found) // count)]:
        if total + length <= size:
            total += length
            chosen.append(path)
    return chosen


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder with a few thousand files of the distribution and of the Rust toolchain, up to 480 MiB."""
    folder = tmp_path_factory.mktemp("corpus")
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], text=True, stdout=subprocess.PIPE, check=True)
    roots = [(pathlib.Path(root), *limits) for root, *limits in CORPUS]
    roots += [(pathlib.Path(sysroot.stdout.strip()) / root, *limits) for root, *limits in TOOLCHAIN]
    for number, (root, count, size) in enumerate(roots):
        for path in files_of(root, count, size):
            place = folder / f"{number}{root.name}" / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, place)
            except OSError:
                shutil.copyfile(path, place)
    return folder


@pytest.mark.parametrize("remote", ["s3", "swift"])
def test_rclone_syncs_thousands_of_real_files(store, tmp_path, corpus, remote):
    place = f"{remote}:corpus-{remote}"
    flags = ("--transfers=16", "--checkers=16", "-q")
    store.run("rclone", "sync", *flags, "--s3-upload-cutoff=20M", "--s3-chunk-size=8M", "--swift-chunk-size=64M",
              corpus, place)
    store.run("rclone", "check", *flags, corpus, place)
    assert store.run("rclone", "sync", "--dry-run", *flags, corpus, place) == ""
    store.run("rclone", "sync", *flags, place, tmp_path / "back")
    assert same_trees(corpus, tmp_path / "back") > 2000
    store.run("rclone", "purge", "-q", place)


def test_awscli_presigns_tags_and_reads_ranges(store, tmp_path):
    write(tmp_path, "o", 3000)
    store.run("aws", "s3", "mb", "s3://awscli-api")
    api = ("aws", "s3api")
    name = ("--bucket", "awscli-api", "--key", "o")
    store.run(*api, "put-object", *name, "--body", tmp_path / "o", "--tagging", "a=1", "--checksum-algorithm", "SHA256")
    assert '"Value": "1"' in store.run(*api, "get-object-tagging", *name)
    head = json.loads(store.run(*api, "head-object", *name, "--checksum-mode", "ENABLED"))
    assert head["ChecksumSHA256"] and head["ContentLength"] == 3000
    store.run(*api, "get-object", *name, "--range", "bytes=10-19", tmp_path / "range")
    assert (tmp_path / "range").read_bytes() == (tmp_path / "o").read_bytes()[10:20]
    url = store.run("aws", "s3", "presign", "s3://awscli-api/o", "--expires-in", "60").strip()
    assert requests.get(url).content == (tmp_path / "o").read_bytes()
    store.run("aws", "s3", "rb", "--force", "s3://awscli-api")


def test_an_object_put_through_one_api_is_read_through_the_other(store, tmp_path):
    big = write(tmp_path, "big", 20_000_000)
    store.run("aws", "s3", "mb", "s3://crossing")
    store.run("aws", "s3", "cp", "--no-progress", big, "s3://crossing/by-s3")
    store.run("swift", "upload", "-S", "6000000", "--use-slo", "crossing", "big", "--object-name", "by-swift",
              cwd=tmp_path)
    store.run("swift", "download", "crossing", "by-s3", "-o", tmp_path / "one")
    store.run("aws", "s3", "cp", "--no-progress", "s3://crossing/by-swift", tmp_path / "two")
    assert filecmp.cmp(big, tmp_path / "one", shallow=False)
    assert filecmp.cmp(big, tmp_path / "two", shallow=False)


def test_dynamic_large_objects_and_ranges_cross_too(store, swift, s3, tmp_path):
    big = write(tmp_path, "big", 13_000_000).read_bytes()
    swift.put_container("crossing-dlo")
    for number in range(3):
        swift.put_object("crossing-dlo", f"segments/{number}", big[number * 5_000_000:(number + 1) * 5_000_000])
    swift.put_object("crossing-dlo", "whole", b"", headers={"X-Object-Manifest": "crossing-dlo/segments/"})
    got = s3.get_object(Bucket="crossing-dlo", Key="whole")
    assert got["Body"].read() == big and got["ContentLength"] == len(big)
    part = s3.get_object(Bucket="crossing-dlo", Key="whole", Range="bytes=4999990-5000009")
    assert part["Body"].read() == big[4_999_990:5_000_010]
    s3.copy_object(Bucket="crossing-dlo", Key="copy", CopySource={"Bucket": "crossing-dlo", "Key": "whole"})
    assert swift.get_object("crossing-dlo", "copy")[1] == big
    # What S3 assembled of parts is one object to Swift, ranges across its parts included.
    name = dict(Bucket="crossing-dlo", Key="parts")
    name["UploadId"] = s3.create_multipart_upload(Metadata={"color": "blue"}, **name)["UploadId"]
    cuts = [big[:6_000_000], big[6_000_000:12_000_000], big[12_000_000:]]
    tags = [s3.upload_part(PartNumber=n, Body=cut, **name)["ETag"] for n, cut in enumerate(cuts, 1)]
    parts = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **name)
    headers, body = swift.get_object("crossing-dlo", "parts")
    assert body == big and headers["x-object-meta-color"] == "blue"
    ranged = swift.get_object("crossing-dlo", "parts", headers={"Range": "bytes=5999999-12000000"})
    assert ranged[1] == big[5_999_999:12_000_001]


def test_expiry_and_metadata_cross(swift, s3, bucket):
    after = {"X-Delete-After": "1000", "X-Object-Meta-A": "b", "X-Robots-Tag": "noindex"}
    swift.put_object(bucket, "o", b"x", headers=after)
    head = s3.head_object(Bucket=bucket, Key="o")
    assert "expiry-date=" in head["Expiration"] and head["Metadata"] == {"a": "b"}
    assert head["ResponseMetadata"]["HTTPHeaders"]["x-robots-tag"] == "noindex"
