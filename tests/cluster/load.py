"""Clients that write, read, delete and list all the time, and know what they must find."""

import hashlib
import random
import threading
import time

import boto3
import swiftclient
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

#: How long a client goes on trying, at any machine, before it calls it an error.
PATIENCE = 60
SIZES = (0, 1, 4_096, 70_000, 300_000, 5_000_000)


def content(key, version):
    """The bytes of a key's version: any of them tells which it is."""
    draw = random.Random(f"{key} {version}")
    block = hashlib.sha256(f"{key} {version}".encode()).digest()
    size = draw.choice(SIZES)
    return (block * (size // 32 + 1))[:size]


class S3:
    """One machine's S3, with few retries of its own."""

    def __init__(self, endpoints):
        s3 = endpoints["s3"]
        self.client = boto3.client(
            "s3", endpoint_url=s3["url"], region_name=s3["region"],
            aws_access_key_id=s3["access_key"], aws_secret_access_key=s3["secret_key"],
            config=Config(
                connect_timeout=2, read_timeout=20, retries={"max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )

    def put(self, bucket, key, data):
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def get(self, bucket, key):
        try:
            return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def delete(self, bucket, key):
        self.client.delete_object(Bucket=bucket, Key=key)

    def names(self, bucket, prefix):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


class Swift:
    """One machine's Swift."""

    def __init__(self, endpoints):
        swift = endpoints["swift"]
        self.client = swiftclient.Connection(
            authurl=swift["auth_url"], user=swift["user"], key=swift["key"], retries=1, timeout=20,
            starting_backoff=0.1,
        )

    def put(self, bucket, key, data):
        self.client.put_object(bucket, key, data)

    def get(self, bucket, key):
        try:
            return self.client.get_object(bucket, key)[1]
        except swiftclient.ClientException as error:
            if error.http_status == 404:
                return None
            raise

    def delete(self, bucket, key):
        try:
            self.client.delete_object(bucket, key)
        except swiftclient.ClientException as error:
            if error.http_status != 404:
                raise

    def names(self, bucket, prefix):
        return {entry["name"] for entry in self.client.get_container(bucket, prefix=prefix, full_listing=True)[1]}


#: A body that a machine's death cuts off is urllib3's error with swiftclient.
FAILURES = (ClientError, BotoCoreError, swiftclient.ClientException, urllib3.exceptions.HTTPError, OSError)


class Worker(threading.Thread):
    """A client with keys of its own, so that it knows what each must be."""

    def __init__(self, number, machines, bucket, seed, stop):
        super().__init__(name=f"worker-{number}", daemon=True)
        self.number, self.bucket, self.stop = number, bucket, stop
        self.random = random.Random(f"{seed} {number}")
        kind = (S3, Swift)[number % 2]
        self.doors = [kind(machine.endpoints) for machine in machines]
        self.random.shuffle(self.doors)
        self.held = {}
        self.version = self.operations = self.retries = 0
        self.slowest = 0.0
        self.error = None

    def anywhere(self, operation, *arguments):
        """Does it at any machine."""
        begun = time.monotonic()
        while True:
            try:
                answer = getattr(self.doors[0], operation)(self.bucket, *arguments)
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.operations += 1
                return answer
            except FAILURES as error:
                if time.monotonic() - begun > PATIENCE:
                    raise AssertionError(f"{operation} {arguments[:1]}: {error}") from error
                self.retries += 1
                self.doors.append(self.doors.pop(0))
                time.sleep(0.1)

    def run(self):
        try:
            while not self.stop.is_set():
                self.step()
        except BaseException as error:  # told by whoever joins
            self.error = error

    def step(self):
        key = f"{self.number}/{self.random.randrange(40):02}"
        kind = self.random.random()
        if kind < 0.5:
            self.version += 1
            self.anywhere("put", key, content(key, self.version))
            self.held[key] = self.version
        elif kind < 0.6:
            self.anywhere("delete", key)
            self.held.pop(key, None)
        elif kind < 0.95:
            self.check(key)
        else:
            self.check_names()

    def check(self, key):
        found = self.anywhere("get", key)
        wanted = content(key, self.held[key]) if key in self.held else None
        assert found == wanted, (
            f"{key} must be version {self.held.get(key)}: {len(wanted or b'')} bytes, found "
            f"{None if found is None else len(found)}"
        )

    def check_names(self):
        found = self.anywhere("names", f"{self.number}/")
        assert found == set(self.held), (sorted(found - set(self.held)), sorted(set(self.held) - found))

    def check_all(self):
        for key in (f"{self.number}/{index:02}" for index in range(40)):
            self.check(key)
        self.check_names()


class Load:
    """Workers that go on while something is done to the cluster."""

    def __init__(self, machines, seed, workers=6, bucket="load"):
        self.stop = threading.Event()
        S3(machines[0].endpoints).client.create_bucket(Bucket=bucket)
        self.workers = [Worker(number, machines, bucket, seed, self.stop) for number in range(workers)]

    def __enter__(self):
        for worker in self.workers:
            worker.start()
        return self

    def operations(self):
        return sum(worker.operations for worker in self.workers)

    def go_on(self, more, patience=180):
        """Waits until so many more operations are done."""
        wanted, deadline = self.operations() + more, time.monotonic() + patience
        while self.operations() < wanted:
            assert time.monotonic() < deadline, f"only {self.operations() - wanted + more} of {more} operations"
            for worker in self.workers:
                if worker.error:
                    raise worker.error
            time.sleep(0.05)

    def __exit__(self, kind, error, trace):
        self.stop.set()
        for worker in self.workers:
            worker.join(PATIENCE * 2)
        if kind:
            return
        for worker in self.workers:
            if worker.error:
                raise worker.error
        for worker in self.workers:
            worker.check_all()
        slowest = max(worker.slowest for worker in self.workers)
        retries = sum(worker.retries for worker in self.workers)
        print(f"{self.operations()} operations, {retries} retries, slowest {slowest:.2f} s")
