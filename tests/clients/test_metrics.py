"""What the store tells Prometheus."""

import re
import time

import requests


def metrics(store):
    text = requests.get(store.endpoints["metrics"]).text
    return {name: float(value) for name, value in re.findall(r"^(\w+\{[^}]*\}) (\S+)$", text, re.MULTILINE)}


def total(shown, name, **labels):
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(value for key, value in shown.items() if key.startswith(name + "{") and all(w in key for w in wanted))


def test_requests_bytes_and_syncs_are_counted(store, s3, swift):
    swift.put_container("metrics")
    before = metrics(store)
    swift.put_object("metrics", "o", b"x" * 5000)
    assert len(swift.get_object("metrics", "o")[1]) == 5000
    s3.put_object(Bucket="metrics", Key="k", Body=b"y" * 300_000)
    assert len(s3.get_object(Bucket="metrics", Key="k")["Body"].read()) == 300_000
    after = metrics(store)

    def grown(name, **labels):
        return total(after, name, **labels) - total(before, name, **labels)

    assert grown("kodiak_request_seconds_count", api="swift", method="PUT", status="2xx") == 1
    assert grown("kodiak_request_seconds_count", api="s3", method="GET", status="2xx") == 1
    assert grown("kodiak_body_bytes_total", api="swift", direction="received") == 5000
    assert grown("kodiak_body_bytes_total", api="swift", direction="sent") == 5000
    # The framing of a chunked upload counts too.
    assert 300_000 <= grown("kodiak_body_bytes_total", api="s3", direction="received") < 301_000
    assert grown("kodiak_body_bytes_total", api="s3", direction="sent") == 300_000
    assert grown("kodiak_device_syncs_total") >= 3
    assert grown("kodiak_device_group_size_count") >= 3


def test_background_work_says_what_it_has_done(store, swift):
    swift.put_container("told-of")
    before = total(metrics(store), "kodiak_job_changed_total", job="totals")
    swift.put_object("told-of", "o", b"x")
    deadline = time.monotonic() + 30
    while total(metrics(store), "kodiak_job_changed_total", job="totals") == before:
        assert time.monotonic() < deadline, "the account was not told"
        time.sleep(0.05)
    after = metrics(store)
    assert total(after, "kodiak_job_passes_total", job="totals") >= 1
    assert total(after, "kodiak_job_rate_limit", job="expire") > 0
