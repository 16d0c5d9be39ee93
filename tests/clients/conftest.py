"""A store of its own for the tests of this folder, and the clients that talk to it."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

KODIAK = os.environ["KODIAK"]
BIN = pathlib.Path(sys.executable).parent


@dataclasses.dataclass
class Store:
    """A running store."""

    data: pathlib.Path
    endpoints: dict

    @property
    def environment(self):
        """What the command-line clients read, and nothing of the caller's own configuration."""
        swift, s3 = self.endpoints["swift"], self.endpoints["s3"]
        return {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.data),
            "ST_AUTH": swift["auth_url"],
            "ST_USER": swift["user"],
            "ST_KEY": swift["key"],
            "AWS_ENDPOINT_URL": s3["url"],
            "AWS_ACCESS_KEY_ID": s3["access_key"],
            "AWS_SECRET_ACCESS_KEY": s3["secret_key"],
            "AWS_DEFAULT_REGION": s3["region"],
            "AWS_EC2_METADATA_DISABLED": "true",
            "RCLONE_CONFIG_S3_TYPE": "s3",
            "RCLONE_CONFIG_S3_PROVIDER": "Other",
            "RCLONE_CONFIG_S3_ENDPOINT": s3["url"],
            "RCLONE_CONFIG_S3_ACCESS_KEY_ID": s3["access_key"],
            "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": s3["secret_key"],
            "RCLONE_CONFIG_SWIFT_TYPE": "swift",
            "RCLONE_CONFIG_SWIFT_AUTH": swift["auth_url"],
            "RCLONE_CONFIG_SWIFT_USER": swift["user"],
            "RCLONE_CONFIG_SWIFT_KEY": swift["key"],
        }

    def run(self, *command, check=True, cwd=None):
        """Runs a client; what it printed."""
        done = subprocess.run(
            [str(part) for part in command],
            env=self.environment,
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A store that lives as long as the tests."""
    data = tmp_path_factory.mktemp("kodiak") / "data"
    subprocess.run([KODIAK, "up", "--data", data, "--listen", "127.0.0.1:0", "-d"], check=True, capture_output=True)
    yield Store(data, json.loads((data / "endpoints.json").read_text()))
    subprocess.run([KODIAK, "down", "--data", data], check=True, capture_output=True)


@pytest.fixture
def s3(store):
    """A boto3 client with its default settings."""
    import boto3

    s3 = store.endpoints["s3"]
    return boto3.client(
        "s3",
        endpoint_url=s3["url"],
        aws_access_key_id=s3["access_key"],
        aws_secret_access_key=s3["secret_key"],
        region_name=s3["region"],
    )


@pytest.fixture
def bucket(s3, request):
    """A new bucket."""
    import hashlib
    import re

    # Long names of parametrized tests differ at their ends, and files have tests of the same name.
    digest = hashlib.md5(request.node.nodeid.encode()).hexdigest()[:8]
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-") + "-" + digest
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def swift(store):
    """A python-swiftclient connection."""
    import swiftclient

    swift = store.endpoints["swift"]
    return swiftclient.Connection(authurl=swift["auth_url"], user=swift["user"], key=swift["key"], retries=0)
