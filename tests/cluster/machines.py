"""Machines that are network namespaces: each has its own address, processes and disks, joined by a bridge."""

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time

KODIAK = os.environ["KODIAK"]
NETWORK = "10.91.0"
#: Port of Swift and S3, and that of the cluster.
CLIENTS, PEERS = 8080, 8081
#: How long anything that must happen may take on a busy machine.
PATIENCE = 120


def sh(*command, check=True):
    """Runs a command; what it printed."""
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, timeout=PATIENCE)
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def wait_for(what, condition, patience=PATIENCE):
    """Waits until a condition is met, which may fail meanwhile; its value."""
    deadline, last = time.monotonic() + patience, None
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except Exception as error:  # whatever it is, it may pass
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {patience} s ({last})")


class Machine:
    """A machine of the cluster. Its processes see only its own network."""

    def __init__(self, number, folder):
        self.name = f"m{number}"
        self.address = f"{NETWORK}.{10 + number}"
        self.data = folder / self.name
        self.log = folder / f"{self.name}.log"
        self.process = None
        #: The build that it runs.
        self.program = KODIAK
        sh("ip", "netns", "add", self.name)
        sh("ip", "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        sh("ip", "link", "set", self.name, "master", "cluster", "up")
        self.inside("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")
        self.inside("ip", "link", "set", "lo", "up")

    def inside(self, *command, check=True):
        """Runs a command in the machine's network."""
        return sh("ip", "netns", "exec", self.name, *command, check=check)

    def kodiak(self, *arguments, check=True):
        """Runs kodiak on the machine."""
        return self.inside(self.program, *arguments, check=check)

    @property
    def listeners(self):
        return ("--listen", f"{self.address}:{CLIENTS}", "--cluster-listen", f"{self.address}:{PEERS}")

    def up(self):
        """Starts kodiak and waits until it is healthy."""
        (self.data / "endpoints.json").unlink(missing_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, self.program, "up", "--data", str(self.data)],
                stdout=log, stderr=log,
            )
        wait_for(f"{self.name} is up", self.is_up)

    def is_up(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {self.log.read_text()[-2000:]}")
        return (self.data / "endpoints.json").exists()

    @property
    def endpoints(self):
        return json.loads((self.data / "endpoints.json").read_text())

    def status(self):
        return json.loads(self.kodiak("cluster", "status", "--data", self.data, "--json"))

    def members(self):
        return {member["name"]: member for member in self.status()["members"]}

    def partitions(self, name):
        """Of how many partitions a machine is a replica."""
        return self.members()[name]["partitions"]

    def is_filled(self):
        """Whether every device in the rings has everything that it should."""
        return all(
            member["up"] and all(device["missing"] == 0 for device in member["devices"])
            for member in self.members().values() if member["partitions"] > 0
        )

    def wait_until_filled(self):
        wait_for("every device is filled", self.is_filled)

    def kill(self):
        """As a crash does."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Properly."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()[-2000:]

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def cut_off(self, *others):
        """Drops every packet from and to others; all others if none is named."""
        rules = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0;\n"
            + "".join(f"ip {side} {other.address} drop\n" for other in others)
            + ("" if others else f"ip {side} {NETWORK}.0/24 drop\n")
            + "}\n"
            for hook, side in (("input", "saddr"), ("output", "daddr"))
        )
        with self.rules("cut", rules):
            yield

    @contextlib.contextmanager
    def losing(self, percent):
        """Drops some packets that come in, at random."""
        rule = f"meta l4proto tcp numgen random mod 100 < {percent} drop"
        with self.rules("lossy", f"chain input {{ type filter hook input priority 0;\n{rule}\n}}\n"):
            yield

    @contextlib.contextmanager
    def rules(self, name, chains):
        table = f"table inet {name} {{\n{chains}}}\n"
        subprocess.run(
            ["ip", "netns", "exec", self.name, "nft", "-f", "-"], input=table, text=True, check=True
        )
        try:
            yield
        finally:
            self.inside("nft", "delete", "table", "inet", name)


class Relay:
    """Carries connections to a machine's cluster port, each piece of bytes late."""

    def __init__(self, target, delay):
        self.target, self.delay = target, delay
        self.port = 9000 + int(target.name[1:])
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        serving = asyncio.start_server(self.carry, f"{NETWORK}.1", self.port)
        self.server = asyncio.run_coroutine_threadsafe(serving, self.loop).result(PATIENCE)

    async def carry(self, reader, writer):
        try:
            back, forth = await asyncio.open_connection(self.target.address, PEERS)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self.pump(reader, forth), self.pump(back, writer))

    async def pump(self, reader, writer):
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                await asyncio.sleep(self.delay)
                writer.write(piece)
                await writer.drain()
        writer.close()

    @contextlib.contextmanager
    def between(self, *others):
        """Others reach the machine through the relay: new connections do."""
        rule = f"ip daddr {self.target.address} tcp dport {PEERS} dnat to {NETWORK}.1:{self.port}"
        chains = f"chain output {{ type nat hook output priority -100;\n{rule}\n}}\n"
        with contextlib.ExitStack() as stack:
            for other in others:
                stack.enter_context(other.rules("relay", chains.replace("dnat to", "dnat ip to")))
                # What is connected already has to come again.
                other.inside("ss", "-K", "dst", self.target.address, "dport", "=", f":{PEERS}", check=False)
            yield
        self.loop.call_soon_threadsafe(self.server.close)


class Cluster:
    """Machines in a row, the first of which began the cluster."""

    def __init__(self, folder, count, devices=2, replicas=3):
        self.folder, self.devices = folder, devices
        sh("ip", "link", "add", "cluster", "type", "bridge")
        sh("ip", "address", "add", f"{NETWORK}.1/24", "dev", "cluster")
        sh("ip", "link", "set", "cluster", "up")
        self.machines = []
        for number in range(1, count + 1):
            machine = self.add_machine(number)
            if number == 1:
                machine.kodiak(
                    "cluster", "init", "--data", machine.data, *machine.listeners, "--node", machine.name,
                    "--devices", devices, "--replicas", replicas, "--zone", number,
                )
                machine.up()
            else:
                self.join(machine, number)
        # Until then a partition may have no majority without one more machine.
        wait_for("every machine has its part", lambda: all(machine.partitions(m.name) for m in self.machines))
        machine.wait_until_filled()

    def add_machine(self, number):
        machine = Machine(number, self.folder)
        self.machines.append(machine)
        return machine

    def join(self, machine, zone):
        first = next(other for other in self.machines if other.process and other.process.poll() is None)
        token = first.kodiak("cluster", "token", "--data", first.data).split()[-1]
        machine.kodiak(
            "cluster", "join", "--token", token, "--data", machine.data, *machine.listeners,
            "--node", machine.name, "--devices", self.devices, "--zone", zone,
        )
        machine.up()

    def close(self):
        for machine in self.machines:
            if machine.process and machine.process.poll() is None:
                machine.resume()
                machine.kill()
            # A namespace takes its links along, but later.
            sh("ip", "link", "del", machine.name)
            sh("ip", "netns", "del", machine.name)
        sh("ip", "link", "del", "cluster")
        shutil.rmtree(self.folder, ignore_errors=True)
