"""OpenStack Swift: proxy, account, container and object servers; as many devices as replicas."""

import getpass
import os
import secrets

import daemons as daemon
import install

VERSION = "2.38.3"

PROXY = """
[DEFAULT]
swift_dir = {folder}
bind_ip = 127.0.0.1
bind_port = {proxy}
workers = {workers}
user = {user}

[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck proxy-logging cache listing_formats container_sync bulk tempurl ratelimit tempauth copy container-quotas account-quotas slo dlo versioned_writes symlink proxy-logging proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {key} .admin

[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
"""

# Middleware without settings of its own.
PLAIN = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "container_sync", "bulk", "tempurl",
         "ratelimit", "copy", "slo", "dlo", "versioned_writes", "symlink")
RENAMED = {"proxy-logging": "proxy_logging", "container-quotas": "container_quotas",
           "account-quotas": "account_quotas"}

STORAGE = """
[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = {workers}
user = {user}

[pipeline:main]
pipeline = healthcheck recon {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}

[object-replicator]
concurrency = {workers}
rsync_module = rsync://127.0.0.1:{rsync}/objects
recon_cache_path = {folder}

[filter:healthcheck]
use = egg:swift#healthcheck

[filter:recon]
use = egg:swift#recon
recon_cache_path = {folder}
"""


RSYNC = """
port = {rsync}
address = 127.0.0.1
use chroot = no
pid file = {folder}/rsync.pid
[objects]
path = {folder}/devices
read only = false
uid = {user}
gid = *
"""


class Swift:
    name = "OpenStack Swift"
    synced = "object files, not container rows (default)"
    api = "swift"
    skips = ()

    def __init__(self, replicas=1):
        self.bin = None
        self.replicas = replicas
        if replicas > 1:
            self.name = f"{self.name}, {replicas} replicas"

    def install(self):
        install.packages("memcached", *(["rsync"] if self.replicas > 1 else []))
        return self.install_packages()

    def install_packages(self):
        """All but memcached: enough for swift-ring-builder."""
        self.bin = install.venv(f"swift-{VERSION}", f"swift=={VERSION}", "eventlet==0.41.3", "setuptools<81")
        return VERSION

    def start(self, daemons, folder):
        proxy, memcached, rsync, *storage = daemon.free_ports(6)
        # The deployment guide: twice the number of cores, for the proxy and the storage servers alike.
        fields = {"folder": folder, "workers": 2 * len(os.sched_getaffinity(0)), "user": getpass.getuser(),
                  "key": secrets.token_hex(16), "proxy": proxy, "memcached": memcached, "rsync": rsync}
        for number in range(1, self.replicas + 1):
            (folder / f"devices/d{number}").mkdir(parents=True)
        (folder / "swift.conf").write_text(
            f"[swift-hash]\nswift_hash_path_suffix = {secrets.token_hex(16)}\n"
            "[storage-policy:0]\nname = gold\ndefault = yes\n")
        filters = [(name, name) for name in PLAIN] + list(RENAMED.items())
        text = PROXY.format(**fields) + "".join(
            f"\n[filter:{name}]\nuse = egg:swift#{entry}\n" for name, entry in filters)
        self.write(folder / "proxy.conf", text)
        user = [] if os.geteuid() else ["-u", "root"]
        daemons.start("memcached", "memcached", "-l", "127.0.0.1", "-p", memcached, *user)
        for kind, port in zip(("account", "container", "object"), storage):
            self.make_ring(folder, kind, port)
            self.write(folder / f"{kind}.conf", STORAGE.format(kind=kind, port=port, **fields))
            daemons.start(kind, self.bin / f"swift-{kind}-server", folder / f"{kind}.conf")
        if self.replicas > 1:
            self.write(folder / "rsyncd.conf", RSYNC.format(**fields))
            daemons.start("rsync", "rsync", "--daemon", "--no-detach", "--config", folder / "rsyncd.conf")
        daemons.start("proxy", self.bin / "swift-proxy-server", folder / "proxy.conf")
        for port in (*storage, proxy):
            daemons.wait("answer", daemon.answers(f"http://127.0.0.1:{port}/healthcheck"))
        return {"swift": {"auth_url": f"http://127.0.0.1:{proxy}/auth/v1.0", "user": "test:tester",
                          "key": fields["key"]}}

    def replicate(self, folder):
        """One pass of the object replicator over all devices."""
        # Its own program looks for swift.conf in /etc/swift only.
        once = ("import sys; from swift.common import daemon, utils; utils.set_swift_dir(sys.argv[1]); "
                "from swift.obj.replicator import ObjectReplicator; "
                "daemon.run_daemon(ObjectReplicator, sys.argv[1] + '/object.conf', once=True)")
        install.output_of(self.bin / "python", "-c", once, folder)

    def make_ring(self, folder, kind, port):
        builder = folder / f"{kind}.builder"
        devices = [("add", f"r1z{n}-127.0.0.1:{port}/d{n}", "100") for n in range(1, self.replicas + 1)]
        for step in (("create", "10", str(self.replicas), "1"), *devices, ("rebalance",)):
            install.output_of(self.bin / "swift-ring-builder", builder, *step)

    @staticmethod
    def write(path, text):
        path.write_text(text)
        path.chmod(0o600)
