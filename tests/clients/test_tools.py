"""The command-line tools, each used as its users do."""

import filecmp
import os
import pathlib
import random

import pytest


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


def corpus():
    """A few thousand real files of the distribution and the Rust toolchain."""
    roots = [pathlib.Path("/usr/share/doc"), pathlib.Path("/usr/include"), pathlib.Path("/usr/share/zoneinfo"),
             pathlib.Path("/usr/lib/python3"), pathlib.Path(os.path.expanduser("~/.rustup/toolchains"))]
    files = []
    for root in roots:
        found = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
        files += [(root, p) for p in found[:1500]]
    return files


@pytest.mark.parametrize("remote", ["s3", "swift"])
def test_rclone_syncs_thousands_of_real_files(store, tmp_path, remote):
    source = tmp_path / "source"
    for root, path in corpus():
        link = source / root.name / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_bytes(path.read_bytes())
    assert sum(1 for p in source.rglob("*") if p.is_file()) > 2000
    place = f"{remote}:corpus-{remote}"
    store.run("rclone", "sync", "--transfers=16", "--checkers=16", "-q", source, place)
    store.run("rclone", "check", "--download", "--checkers=16", source, place)
    store.run("rclone", "sync", "--transfers=16", "-q", place, tmp_path / "back")
    assert same_trees(source, tmp_path / "back") > 2000
    store.run("rclone", "purge", "-q", place)


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
