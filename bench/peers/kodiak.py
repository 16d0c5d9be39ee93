"""Kodiak itself, measured like its peers."""

import json
import time

import install


class Kodiak:
    name = "Kodiak"
    synced = "data and records, every write"
    api = "s3"
    skips = ()

    def __init__(self, programs):
        self.program = programs / "kodiak"

    def install(self):
        return install.output_of(self.program, "version").split()[-1]

    def start(self, daemons, folder):
        data = folder / "data"
        self.up(daemons, "kodiak", data, "--listen", "127.0.0.1:0", "--devices", "1")
        return json.loads((data / "endpoints.json").read_text())

    def up(self, daemons, name, data, *arguments):
        process = daemons.start(name, self.program, "up", "--data", data, *arguments)
        daemons.wait("endpoints.json", (data / "endpoints.json").exists)
        return process


class KodiakCluster(Kodiak):
    """Three nodes with one device each, a process each, and TLS between them."""

    name = "Kodiak, 3 replicas"
    NODES = ("n1", "n2", "n3")

    def start(self, daemons, folder):
        listeners = ("--listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:0", "--devices", "1")
        for zone, name in enumerate(self.NODES, 1):
            data, place = folder / name, (*listeners, "--node", name, "--zone", zone)
            if zone == 1:
                install.output_of(self.program, "cluster", "init", "--data", data, "--replicas", "3", *place)
            else:
                token = install.output_of(self.program, "cluster", "token", "--data", folder / "n1").split()[-1]
                install.output_of(self.program, "cluster", "join", "--token", token, "--data", data, *place)
            self.up(daemons, name, data)
        self.wait_until_filled(folder)
        return json.loads((folder / "n1" / "endpoints.json").read_text())

    def wait_until_filled(self, folder, patience=600):
        """Waits until every device has everything that it ought to have."""
        until = time.monotonic() + patience
        while not self.is_filled(folder):
            if time.monotonic() > until:
                raise TimeoutError(f"not filled after {patience} s")
            time.sleep(0.2)

    def is_filled(self, folder):
        status = install.output_of(self.program, "cluster", "status", "--data", folder / "n1", "--json")
        members = json.loads(status)["members"]
        whole = [member["up"] and member["partitions"] > 0 and all(not device["missing"] for device in member["devices"])
                 for member in members]
        return len(whole) == len(self.NODES) and all(whole)
