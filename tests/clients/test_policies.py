"""A store with two storage policies, made with the commands that an administrator has."""

import json
import random
import subprocess
import time

import pytest
import swiftclient
from conftest import KODIAK


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """A connection to a store whose second policy keeps two copies."""
    data = tmp_path_factory.mktemp("policies") / "data"
    up = [KODIAK, "up", "--data", data, "--listen", "127.0.0.1:0", "-d"]
    run = lambda *command: subprocess.run(command, check=True, capture_output=True)
    run(*up)
    run(KODIAK, "down", "--data", data)
    ring = data / "rings/object-1.ring"
    run(KODIAK, "ring", "create", ring, "--part-power", "10", "--replicas", "2")
    for device in ("d1", "d2", "d3"):
        run(KODIAK, "ring", "add", ring, "--node", "local", "--device", device)
    run(KODIAK, "ring", "rebalance", ring)
    config = data / "kodiak.toml"
    text = config.read_text()
    text = text.replace('"rings/object-0.ring"', '"rings/object-0.ring", "rings/object-1.ring"')
    config.write_text(text.replace('["Policy-0"]', '["gold", "Silver"]'))
    run(*up)
    swift = json.loads((data / "endpoints.json").read_text())["swift"]
    yield swiftclient.Connection(authurl=swift["auth_url"], user=swift["user"], key=swift["key"], retries=0)
    run(KODIAK, "down", "--data", data)


def test_objects_of_either_policy_are_whole_and_copied_between_them(policies):
    data = random.Random(3).randbytes(9_000_000)
    for policy in ("gold", "silver"):
        policies.put_container(policy, headers={"X-Storage-Policy": policy})
        policies.put_object(policy, "big", data)
        policies.put_object(policy, "small", b"small")
    assert policies.head_container("silver")["x-storage-policy"] == "Silver"
    for source, target in (("gold", "silver"), ("silver", "gold")):
        policies.copy_object(source, "big", f"/{target}/of-{source}")
        assert policies.get_object(target, f"of-{source}")[1] == data
        policies.post_object(target, "small", {"X-Object-Meta-A": "1"})
        assert policies.get_object(target, "small")[1] == b"small"
        assert [entry["name"] for entry in policies.get_container(target)[1]] == ["big", f"of-{source}", "small"]
    policies.delete_object("silver", "small")
    assert len(policies.get_container("silver")[1]) == 2


def test_the_account_says_what_is_in_each_policy(policies):
    policies.put_container("counted", headers={"X-Storage-Policy": "SILVER"})
    policies.put_container("other", headers={"X-Storage-Policy": "gold"})
    policies.put_object("counted", "o", b"12345")
    deadline = time.monotonic() + 10
    shown = listed = None
    while shown is None or shown != listed or listed["counted"] != 5:
        headers, listing = policies.get_account()
        shown, listed = {}, {}
        for policy in ("gold", "Silver"):
            of = [entry for entry in listing if entry["storage_policy"] == policy]
            sums = (len(of), sum(entry["count"] for entry in of), sum(entry["bytes"] for entry in of))
            kinds = ("container-count", "object-count", "bytes-used")
            shown[policy] = tuple(int(headers[f"x-account-storage-policy-{policy.lower()}-{kind}"]) for kind in kinds)
            listed[policy] = sums
        shown["counted"] = listed["counted"] = next(e["bytes"] for e in listing if e["name"] == "counted")
        assert time.monotonic() < deadline, (shown, listed)
        time.sleep(0.05)
    assert listed["Silver"][2] >= 5
