"""Daemons of one store: started as children of this process, counted together, stopped together."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request


class DidNotStart(Exception):
    """A daemon ended or does not answer; says what it logged last."""


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def answers(url):
    """A check for `Daemons.wait`: whether an HTTP server answers there, with whatever status."""
    def check():
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            return error.code < 500
        except OSError:
            return False
        return True
    return check


def descendants(pid):
    """A process and all that came of it."""
    found = [pid]
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                found += descendants(int(child))
    return found


class Daemons:
    """The daemons of a store, with their logs in its folder."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []

    def start(self, name, *command, environment=None):
        """Starts a daemon in its own session, so that the terminal's signals do not reach it."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, env=dict(os.environ, **(environment or {})))
        self.processes.append((name, process))
        return process

    def wait(self, what, check, seconds=60):
        """Waits until the check holds."""
        until = time.monotonic() + seconds
        while not check():
            for name, process in self.processes:
                if process.poll() is not None:
                    raise DidNotStart(f"{name} ended with {process.returncode}: {self.last_words(name)}")
            if time.monotonic() > until:
                words = "; ".join(f"{name}: {self.last_words(name)}" for name, _ in self.processes)
                raise DidNotStart(f"no {what} within {seconds} s; {words}")
            time.sleep(0.05)

    def last_words(self, name):
        """The end of a daemon's log."""
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return " / ".join(text.strip().splitlines()[-3:])[-400:]

    def pids(self):
        """The processes that were started; their children are found from them."""
        return [process.pid for _, process in self.processes]

    def memory(self):
        """Bytes that all of them occupy, without files that they map: those are the page cache's."""
        total = 0
        for pid in {found for pid in self.pids() for found in descendants(pid)}:
            with contextlib.suppress(OSError):
                for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                        total += int(line.split()[1]) * 1024
        return total

    def stop(self):
        """Asks them to end, the last one first; insists after ten seconds."""
        for _, process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + 10
        for _, process in reversed(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until - time.monotonic()))
            # The session also holds workers whose parent did not wait for them.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()
