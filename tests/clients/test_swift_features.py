"""Swift's features around plain storage: signed URLs and forms, archives, quotas, web sites."""

import hashlib
import hmac
import io
import json
import subprocess
import tarfile
import time

import pytest
import requests
import swiftclient
from conftest import KODIAK
from swiftclient.exceptions import ClientException
from swiftclient.utils import generate_temp_url


@pytest.fixture(scope="module")
def account(store):
    """The storage URL's host, and its path, which is what is signed."""
    swift = store.endpoints["swift"]
    url, _ = swiftclient.get_auth(swift["auth_url"], swift["user"], swift["key"])
    host, path = url.split("/v1/")
    return host, f"/v1/{path}"


USERS = """
[[user]]
account = "shared"
name = "owner"
key = "owner"
admin = true

[[user]]
account = "other"
name = "guest"
key = "guest"

[[user]]
account = "admin"
name = "admin"
key = "admin"
admin = true
reseller_admin = true
"""


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """A store with several users: who logs in by name, and acts on the account of `owner`."""
    data = tmp_path_factory.mktemp("users") / "data"
    run = lambda *command: subprocess.run([KODIAK, *command, "--data", data], check=True, capture_output=True)
    run("up", "--listen", "127.0.0.1:0", "-d")
    run("down")
    with open(data / "kodiak.toml", "a") as config:
        config.write(USERS)
    run("up", "--listen", "127.0.0.1:0", "-d")
    auth = json.loads((data / "endpoints.json").read_text())["swift"]["auth_url"]

    def connect(name):
        account = {"owner": "shared", "guest": "other", "admin": "admin"}[name]
        _, token = swiftclient.get_auth(auth, f"{account}:{name}", name)
        url = auth.replace("/auth/v1.0", "/v1/AUTH_shared")
        return swiftclient.Connection(preauthurl=url, preauthtoken=token, retries=0)

    yield connect
    run("down")


def status(call, *arguments, **named):
    """The status of the error that a call must give."""
    with pytest.raises(ClientException) as caught:
        call(*arguments, **named)
    return caught.value.http_status


@pytest.fixture
def container(swift, request):
    name = request.node.name
    swift.put_container(name, headers={"X-Container-Meta-Temp-URL-Key": "key"})
    return name


def test_a_signed_url_says_how_to_save_the_object(swift, account, container):
    host, path = account
    swift.put_object(container, "dir/ä b", b"data", headers={"X-Object-Meta-Secret": "1", "X-Object-Meta-Public-A": "2"})
    url = host + generate_temp_url(f"{path}/{container}/dir/ä b", 60, "key", "GET", digest="sha512")
    answer = requests.get(url)
    assert answer.content == b"data"
    assert answer.headers["Content-Disposition"] == "attachment; filename=\"%C3%A4 b\"; filename*=UTF-8''%C3%A4%20b"
    assert "X-Object-Meta-Secret" not in answer.headers and answer.headers["X-Object-Meta-Public-A"] == "2"
    assert "Expires" in answer.headers
    assert requests.get(url + "&inline").headers["Content-Disposition"] == "inline"
    named = requests.get(url + "&filename=x.txt").headers["Content-Disposition"]
    assert named == "attachment; filename=\"x.txt\"; filename*=UTF-8''x.txt"
    assert requests.put(url, data=b"x").status_code == 401
    assert requests.get(url, headers={"X-Auth-Token": "wrong"}).status_code == 200


def test_a_signed_url_is_bound_to_time_and_addresses(swift, account, container):
    host, path = account
    swift.put_object(container, "o", b"data")
    path = f"{path}/{container}/o"
    here = generate_temp_url(path, 60, "key", "GET", ip_range="127.0.0.0/8")
    elsewhere = generate_temp_url(path, 60, "key", "GET", ip_range="10.0.0.0/8")
    assert requests.get(host + here).content == b"data"
    assert requests.get(host + here.replace("127.0.0.0", "0.0.0.0")).status_code == 401
    assert requests.get(host + elsewhere).status_code == 401
    past = generate_temp_url(path, "2020-01-01T00:00:00Z", "key", "GET", absolute=True)
    assert requests.get(host + past).status_code == 401


def test_a_signed_put_makes_no_manifest_and_a_container_key_stays_in_its_container(swift, account, container):
    host, path = account
    swift.put_container("elsewhere")
    swift.put_object("elsewhere", "segment", b"secret")
    url = host + generate_temp_url(f"{path}/{container}/o", 60, "key", "PUT")
    for header in ("X-Object-Manifest", "X-Copy-From", "X-Symlink-Target"):
        assert requests.put(url, headers={header: "elsewhere/segment"}).status_code == 400
    manifest = json.dumps([{"path": "/elsewhere/segment"}])
    assert requests.put(url + "&multipart-manifest=put", data=manifest).status_code == 201
    assert swift.get_object(container, "o")[1].decode() == manifest
    swift.put_object(container, "large", manifest, query_string="multipart-manifest=put")
    url = host + generate_temp_url(f"{path}/{container}/large", 60, "key", "GET")
    assert requests.get(url).status_code == 409
    assert swift.get_object(container, "large")[1] == b"secret"


def archive(mode):
    """Two files, a folder, a link and a file that belongs to no container."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w|{mode}", format=tarfile.PAX_FORMAT) as tar:
        for name, data in [("./unpacked/a.txt", b"one"), ("unpacked/dir/" + "n" * 200, b"2" * 1_000_000), ("top", b"x")]:
            file = tarfile.TarInfo(name)
            file.size = len(data)
            file.pax_headers = {"SCHILY.xattr.user.meta.color": "blue"}
            tar.addfile(file, io.BytesIO(data))
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE):
            other = tarfile.TarInfo("unpacked/other")
            other.type = kind
            tar.addfile(other)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["", "gz", "bz2"])
def test_an_archive_is_unpacked(swift, mode):
    url, token = swift.get_auth()
    kind = "tar." + mode if mode else "tar"
    headers = {"X-Auth-Token": token, "Accept": "application/json"}
    answer = requests.put(f"{url}/?extract-archive={kind}", data=archive(mode), headers=headers)
    assert answer.status_code == 200
    expected = {"Number Files Created": 2, "Response Status": "201 Created", "Response Body": "", "Errors": []}
    assert answer.json() == expected
    got, body = swift.get_object("unpacked", "a.txt")
    assert body == b"one" and got["content-type"] == "text/plain" and got["x-object-meta-color"] == "blue"
    assert swift.get_object("unpacked", "dir/" + "n" * 200)[1] == b"2" * 1_000_000
    assert len(swift.get_container("unpacked")[1]) == 2
    for name in ("a.txt", "dir/" + "n" * 200):
        swift.delete_object("unpacked", name)


def test_an_archive_that_is_broken_or_refused_is_reported(swift):
    url, token = swift.get_auth()
    swift.put_container("full", headers={"X-Container-Meta-Quota-Bytes": "2000000"})
    put = lambda path, data: requests.put(
        url + path, data=data, headers={"X-Auth-Token": token, "Accept": "application/json"}
    )
    broken = put("/full?extract-archive=tar", archive("")[:900_000]).json()
    assert broken["Response Status"] == "400 Bad Request" and "Invalid Tar File" in broken["Response Body"]
    assert broken["Number Files Created"] == 1
    assert put("/full?extract-archive=tar.gz", archive("")).json()["Response Status"] == "400 Bad Request"
    assert put("/full?extract-archive=zip", b"").status_code == 400
    swift.post_container("full", headers={"X-Container-Meta-Quota-Bytes": "500000"})
    full = put("/full?extract-archive=tar", archive("")).json()
    assert full["Number Files Created"] == 2
    assert full["Errors"] == [["full/unpacked/dir/" + "n" * 200, "413 Request Entity Too Large"]]


def form(path, key="key", **fields):
    """The fields of a form and its signature."""
    fields = {"redirect": "", "max_file_size": "100", "max_file_count": "2", "expires": str(int(time.time()) + 60), **fields}
    names = ("redirect", "max_file_size", "max_file_count", "expires")
    text = "\n".join([path, *(fields[name] for name in names)])
    return {**fields, "signature": hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()}


def test_a_signed_form_uploads_files(swift, account, container):
    host, path = account
    path = f"{path}/{container}/up-"
    files = [("file1", ("a.txt", b"one", "text/x")), ("file2", ("b", b"two"))]
    answer = requests.post(host + path, data=form(path, x_delete_after="100"), files=files)
    assert answer.status_code == 201, answer.text
    headers, body = swift.get_object(container, "up-a.txt")
    assert body == b"one" and headers["content-type"] == "text/x" and "x-delete-at" in headers
    assert swift.get_object(container, "up-b")[1] == b"two"
    fields = form(path, redirect="http://example.com/?a=b")
    answer = requests.post(host + path, data=fields, files=files, allow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["Location"] == "http://example.com/?a=b&status=201&message="


def test_a_form_is_held_to_what_was_signed(swift, account, container):
    host, path = account
    path = f"{path}/{container}/no-"
    post = lambda fields, *files: requests.post(
        host + path, data=fields, files=[("f", (f"f{n}", data)) for n, data in enumerate(files)], allow_redirects=False
    )
    assert post(form(path, key="other"), b"x").status_code == 401
    assert post({**form(path), "max_file_size": "200"}, b"x").status_code == 401
    assert post(form(path, expires="1"), b"x").status_code == 401
    assert post({**form(path, key="other"), "redirect": "http://example.com/"}, b"x").status_code == 401
    assert "Max_File_Size" in post(form(path), b"x" * 101).text.title()
    assert swift.get_container(container)[1] == []
    assert post(form(path), b"1", b"2", b"3").status_code == 400
    assert len(swift.get_container(container)[1]) == 2
    assert post(form(path)).status_code in (400, 401)


def test_a_quota_refuses_what_does_not_fit(swift):
    swift.put_container("quota", headers={"X-Container-Meta-Quota-Bytes": "10", "X-Container-Meta-Quota-Count": "2"})
    swift.put_object("quota", "a", b"x" * 10)
    url, token = swift.get_auth()
    put = lambda name, data: requests.put(f"{url}/quota/{name}", data=data, headers={"X-Auth-Token": token}).status_code
    assert put("b", b"x") == 413
    # Without a length, as a stream of unknown size.
    assert put("b", iter([b"x"])) == 413
    assert put("b", b"") == 201
    assert put("c", b"") == 413


def test_an_account_quota_is_set_by_administrators_and_holds_for_others(users):
    owner, admin = users("owner"), users("admin")
    owner.put_container("c")
    assert status(owner.post_account, {"X-Account-Quota-Bytes": "100"}) == 403
    assert status(admin.post_account, {"X-Account-Quota-Bytes": "x"}) == 400
    for name in ("X-Account-Quota-Bytes", "X-Account-Meta-Quota-Bytes", "X-Account-Quota-Bytes-Policy-Policy-0"):
        admin.post_account({name: "100"})
        assert owner.head_account()[name.lower().replace("-meta-", "-")] == "100"
        owner.put_object("c", "fits", b"x" * 100)
        deadline = time.monotonic() + 10
        while owner.head_account()["x-account-bytes-used"] != "100":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert status(owner.put_object, "c", "more", b"x") == 413
        admin.put_object("c", "by-admin", b"")
        owner.delete_object("c", "by-admin")
        owner.delete_object("c", "fits")
        admin.post_account({name: ""})
        while owner.head_account()["x-account-bytes-used"] != "0":
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_account_list_opens_the_account_to_others(users):
    owner, guest = users("owner"), users("guest")
    owner.put_container("lists")
    owner.put_object("lists", "segment", b"data")
    owner.put_container("manifests", headers={"X-Container-Read": "other:guest"})
    owner.put_object("manifests", "m", b"", headers={"X-Object-Manifest": "lists/segment"})
    assert status(guest.get_object, "lists", "segment") == status(guest.get_object, "manifests", "m") == 403
    owner.post_account({"X-Account-Access-Control": '{"read-only": ["other:guest"]}'})
    assert guest.get_object("lists", "segment")[1] == guest.get_object("manifests", "m")[1] == b"data"
    assert status(guest.put_object, "lists", "o", b"") == status(guest.put_container, "new") == 403
    assert "x-account-access-control" not in guest.head_account()
    owner.post_account({"X-Account-Access-Control": '{"read-write": ["other"]}'})
    guest.put_object("lists", "o", b"")
    guest.put_container("new", headers={"X-Container-Read": ".r:*", "X-Container-Meta-A": "b"})
    headers = owner.head_container("new")
    assert "x-container-read" not in headers and headers["x-container-meta-a"] == "b"
    assert status(guest.post_account, {"X-Account-Meta-A": "b"}) == 403
    owner.post_account({"X-Account-Access-Control": '{"admin": ["other:guest"]}'})
    guest.post_account({"X-Account-Access-Control": "{}"})
    assert status(guest.head_account) == 403


def test_a_site_has_index_listings_and_error_pages(swift):
    url, token = swift.get_auth()
    headers = {"X-Container-Read": ".r:*,.rlistings", "X-Container-Meta-Web-Index": "index.html"}
    swift.put_container("site", headers={**headers, "X-Container-Meta-Web-Error": "error.html"})
    swift.put_object("site", "index.html", b"home")
    swift.put_object("site", "404error.html", b"nothing here")
    swift.put_object("site", "a/index.html", b"folder")
    swift.put_object("site", "b/c.txt", b"c")
    assert requests.get(f"{url}/site").text == requests.get(f"{url}/site/").text == "home"
    assert requests.get(f"{url}/site/a").url.endswith("/site/a/")
    assert requests.get(f"{url}/site/a").text == "folder"
    missing = requests.get(f"{url}/site/none")
    assert (missing.status_code, missing.text) == (404, "nothing here")
    assert requests.get(f"{url}/site/b/").status_code == 404
    swift.post_container("site", headers={"X-Container-Meta-Web-Listings": "true", "X-Container-Meta-Web-Listings-Label": "me"})
    listing = requests.get(f"{url}/site/b").text
    assert "Listing of me/b/" in listing and '<a href="./c%2Etxt">c.txt</a>' in listing
    # With a token it is a container like any other.
    assert "c.txt" not in requests.get(f"{url}/site", headers={"X-Auth-Token": token}).text.split("\n")[0]
    assert requests.get(f"{url}/site/none", headers={"X-Auth-Token": token}).text != "nothing here"
