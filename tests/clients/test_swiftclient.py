"""The Swift API by python-swiftclient, and who may do what."""

import concurrent.futures
import random
import time

import pytest
import requests
import swiftclient
from swiftclient.exceptions import ClientException


def status(call, *arguments, **named):
    """The status of the error that a call must give."""
    with pytest.raises(ClientException) as caught:
        call(*arguments, **named)
    return caught.value.http_status


def test_metadata_ranges_and_listings(swift):
    swift.put_container("c")
    data = random.Random(1).randbytes(5_000_000)
    swift.put_object("c", "dir/a", data, headers={"X-Object-Meta-Color": "blue"}, content_type="x/y")
    headers, body = swift.get_object("c", "dir/a")
    assert body == data and headers["x-object-meta-color"] == "blue"
    _, part = swift.get_object("c", "dir/a", headers={"Range": "bytes=4194300-4194310"})
    assert part == data[4194300:4194311]
    swift.post_object("c", "dir/a", {"X-Object-Meta-Size": "big"})
    headers = swift.head_object("c", "dir/a")
    assert headers["x-object-meta-size"] == "big" and "x-object-meta-color" not in headers
    assert swift.get_container("c", delimiter="/")[1] == [{"subdir": "dir/"}]
    assert swift.head_container("c")["x-container-bytes-used"] == str(len(data))
    assert status(swift.delete_container, "c") == 409
    swift.delete_object("c", "dir/a")
    swift.delete_container("c")


def test_account_totals_follow(swift):
    swift.put_container("totals")
    for number in range(10):
        swift.put_object("totals", str(number), b"x" * 100)
    deadline = time.monotonic() + 10
    shown = {}
    while (shown.get("count"), shown.get("bytes")) != (10, 1000):
        shown = next(entry for entry in swift.get_account()[1] if entry["name"] == "totals")
        assert time.monotonic() < deadline, "the account never hears of its containers"
        time.sleep(0.05)


def test_an_object_ends_when_it_should(swift):
    swift.put_container("ends")
    swift.put_object("ends", "o", b"x", headers={"X-Delete-After": "1"})
    deadline = time.monotonic() + 20
    while True:
        try:
            swift.head_object("ends", "o")
        except ClientException as gone:
            assert gone.http_status == 404
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while swift.get_container("ends")[1]:
        assert time.monotonic() < deadline, "an ended object stays listed"
        time.sleep(0.1)


def test_wrong_uploads_leave_nothing(swift):
    swift.put_container("wrong")
    assert status(swift.put_object, "wrong", "o", b"x", etag="0" * 32) == 422
    assert status(swift.put_object, "wrong", "o", b"x", headers={"X-Delete-At": "1"}) == 400
    assert status(swift.put_object, "wrong", "o" * 1025, b"x") == 400
    assert status(swift.put_object, "none", "o", b"x") == 404
    assert swift.get_container("wrong")[1] == []


def test_every_route_asks_who_it_is(store, swift):
    swift.put_container("private")
    swift.put_object("private", "o", b"x")
    url, token = swift.get_auth()
    for token in ("", "AUTH_tkwrong"):
        headers = {"X-Auth-Token": token} if token else {}
        for path in ("", "/private", "/private/o", "/new", "/private/new"):
            for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "COPY"):
                if method == "COPY" and not path.count("/") == 2:
                    continue
                answer = requests.request(method, url + path, headers={**headers, "Destination": "/private/p"})
                assert answer.status_code == 401, (method, path, answer.status_code)
    assert [o["name"] for o in swift.get_container("private")[1]] == ["o"]


def test_a_public_container_is_read_and_not_written_by_anybody(swift):
    swift.put_container("public", headers={"X-Container-Read": ".r:*,.rlistings"})
    swift.put_object("public", "o", b"open")
    url, _ = swift.get_auth()
    assert requests.get(f"{url}/public/o").content == b"open"
    assert requests.get(f"{url}/public").text == "o\n"
    assert requests.put(f"{url}/public/p", data=b"x").status_code == 401
    assert requests.delete(f"{url}/public/o").status_code == 401


def test_list_after_write_holds(swift):
    swift.put_container("after")

    def write(worker):
        connection = swiftclient.Connection(preauthurl=swift.get_auth()[0], preauthtoken=swift.get_auth()[1])
        for number in range(25):
            name = f"{worker}-{number}"
            connection.put_object("after", name, b"")
            listed = connection.get_container("after", prefix=name)[1]
            assert name in [entry["name"] for entry in listed]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))


def test_info_and_healthcheck(store):
    root = store.endpoints["s3"]["url"]
    assert requests.get(f"{root}/healthcheck").text == "OK"
    assert requests.get(f"{root}/info").json()["swift"]["max_object_name_length"] == 1024
    metrics = requests.get(store.endpoints["metrics"]).text
    assert "kodiak_request_seconds" in metrics and "kodiak_device_syncs_total" in metrics
