"""Kodiak itself, measured like its peers."""

import json

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
        daemons.start("kodiak", self.program, "up", "--data", data, "--listen", "127.0.0.1:0")
        daemons.wait("endpoints.json", (data / "endpoints.json").exists)
        return json.loads((data / "endpoints.json").read_text())
