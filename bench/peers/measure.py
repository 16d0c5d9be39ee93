"""The same loads for every store: `kodiak-bench load`, and what it reports."""

import json
import subprocess

CONCURRENCY = (1, 8, 64)
# A run of kodiak-bench that takes longer than this has hung.
PATIENCE = 420


class Failed(Exception):
    """A measurement could not be made; says why."""


def steps(seconds):
    """Names of measurements, and what kodiak-bench is asked for each."""
    small = ["--size", "4KiB", "--concurrency", ",".join(map(str, CONCURRENCY)), "--warmup", "2s",
             "--duration", f"{seconds}s"]
    large = ["--size", "64MiB", "--concurrency", "1", "--warmup", "1s", "--duration", f"{seconds}s"]
    return {
        "put-4k": ["--op", "put", *small],
        "get-4k": ["--op", "get", "--objects", "2000", *small],
        "put-64m": ["--op", "put", "--count", "24", *large],
        "get-64m": ["--op", "get", "--objects", "8", "--count", "64", *large],
        "list-10k": ["--op", "list", "--objects", "10000", "--size", "1KiB", "--concurrency", "1",
                     "--warmup", "1s", "--duration", f"{max(1, seconds // 2)}s"],
    }


# Some peers leave the last packet of an answer waiting for an acknowledgement, 40 ms at a time.
QUICK = ("--quickack",)


def load(bench, folder, api, name, arguments, options=QUICK):
    """One run of kodiak-bench against the store of `folder/endpoints.json`; its report."""
    report = folder / f"{name}.json"
    command = [bench, "load", "--endpoints", folder / "endpoints.json", "--api", api, *options, "--keep",
               "--bucket", name, "--json", report, *arguments]
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                              timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} took more than {PATIENCE} s") from None
    if done.returncode == 2 or not report.exists():
        raise Failed(f"{name}: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    figures = json.loads(report.read_text())
    if done.returncode:
        words = [fault["example"] for run in figures["runs"] for fault in run["faults"]]
        raise Failed(f"{name}: {words[0] if words else 'no operation came to its end in time'}")
    return figures
