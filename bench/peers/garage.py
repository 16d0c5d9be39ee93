"""Garage: one node, with and without its settings for durable writes."""

import secrets

import daemons as daemon
import install

VERSION = "2.5.0"

CONFIG = """
metadata_dir = "{folder}/meta"
data_dir = "{folder}/data"
db_engine = "lmdb"
replication_factor = 1
metadata_fsync = {fsync}
data_fsync = {fsync}
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{secret}"

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{s3}"

[admin]
api_bind_addr = "127.0.0.1:{admin}"
"""


class Garage:
    api = "s3"

    def __init__(self, fsync):
        self.fsync = fsync
        self.name = "Garage, fsync" if fsync else "Garage"
        self.synced = "data and metadata (data_fsync, metadata_fsync)" if fsync else "nothing (default)"
        # A listing syncs nothing, and 10,000 synced PUTs take minutes: the other Garage tells.
        self.skips = ("list-10k",) if fsync else ()
        self.program = None

    def install(self):
        self.program = install.cargo("garage", VERSION)
        return VERSION

    def start(self, daemons, folder):
        rpc, s3, admin = daemon.free_ports(3)
        config = folder / "garage.toml"
        config.write_text(CONFIG.format(folder=folder, fsync=str(self.fsync).lower(), rpc=rpc, s3=s3,
                                        admin=admin, secret=secrets.token_hex(32)))
        config.chmod(0o600)
        access, secret = "GK" + secrets.token_hex(12), secrets.token_hex(32)
        keys = {"GARAGE_DEFAULT_ACCESS_KEY": access, "GARAGE_DEFAULT_SECRET_KEY": secret}
        daemons.start("garage", self.program, "-c", config, "server", "--single-node",
                      "--default-access-key", environment=keys)
        daemons.wait("answer", daemon.answers(f"http://127.0.0.1:{s3}/"))
        return {"s3": {"url": f"http://127.0.0.1:{s3}", "access_key": access, "secret_key": secret,
                       "region": "garage"}}
