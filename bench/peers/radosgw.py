"""Ceph's object gateway: a monitor, one OSD with BlueStore on a file, and radosgw; pools of one replica."""

import secrets
import subprocess
import uuid

import daemons as daemon
import install

# The manager is left out: it balances and reports, and serves no request.
CONFIG = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon}
mon initial members = a
keyring = {folder}/keyring
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv4 = true
ms bind ipv6 = false
run dir = {folder}
admin socket = {folder}/$cluster-$name.asok
log file = {folder}/$name.ceph.log
crash dir = {folder}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 16
osd pool default pgp num = 16
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true

[mon]
mon data = {folder}/mon
mon cluster log file = {folder}/cluster.log
mon data avail warn = 1
mon data avail crit = 1

[osd]
osd data = {folder}/osd
osd objectstore = bluestore
bluestore block size = {size}
bluestore block create = true
osd class update on start = false

[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{rgw}
"""

# A sparse file.
BLOCK = 40 << 30
# Who may talk to the cluster, and what each may do.
CAPABILITIES = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "client.rgw": {"mon": "allow rwx", "osd": "allow rwx"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
}


class Radosgw:
    name = "Ceph radosgw"
    synced = "data and metadata (BlueStore)"
    api = "s3"
    skips = ()

    def install(self):
        install.packages("ceph-mon", "ceph-osd", "radosgw")
        return install.output_of("radosgw", "--version").split()[2]

    def start(self, daemons, folder):
        mon, rgw = daemon.free_ports(2)
        fsid = str(uuid.uuid4())
        self.config = folder / "ceph.conf"
        self.config.write_text(CONFIG.format(folder=folder, fsid=fsid, mon=mon, rgw=rgw, size=BLOCK))
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        self.make_keys(folder / "keyring")
        self.start_monitor(daemons, folder, fsid, mon)
        self.start_osd(daemons, folder)
        daemons.start("radosgw", *self.command("radosgw"), "-f", "-n", "client.rgw")
        daemons.wait("answer", daemon.answers(f"http://127.0.0.1:{rgw}/"), 120)
        access, secret = secrets.token_hex(10), secrets.token_hex(20)
        self.tell("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "bench",
                  "--display-name", "bench", "--access-key", access, "--secret-key", secret)
        return {"s3": {"url": f"http://127.0.0.1:{rgw}", "access_key": access, "secret_key": secret,
                       "region": "default"}}

    @staticmethod
    def make_keys(keyring):
        install.output_of("ceph-authtool", "--create-keyring", keyring)
        for name, allowed in CAPABILITIES.items():
            caps = [word for kind, what in allowed.items() for word in ("--cap", kind, what)]
            install.output_of("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)

    def start_monitor(self, daemons, folder, fsid, port):
        monmap = folder / "monmap"
        install.output_of("monmaptool", "--create", "--fsid", fsid, "--addv", "a",
                          f"[v2:127.0.0.1:{port}]", monmap)
        self.tell("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap,
                  "--keyring", folder / "keyring")
        daemons.start("mon", *self.command("ceph-mon"), "-f", "-i", "a")
        daemons.wait("monitor", lambda: self.says("quorum_names", "ceph", "quorum_status"))

    def start_osd(self, daemons, folder):
        identity = str(uuid.uuid4())
        self.tell("ceph", "osd", "new", identity, "0")
        self.tell("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", identity)
        daemons.start("osd", *self.command("ceph-osd"), "-f", "-i", "0")
        daemons.wait("OSD", lambda: self.says("1 up", "ceph", "osd", "stat"))

    def command(self, program):
        # As the user who runs this, who may be root: Debian's daemons would change to `ceph`.
        return [program, "-c", self.config]

    def tell(self, program, *words):
        return install.output_of(*self.command(program), *words, timeout=120)

    def says(self, what, *command):
        """Whether an answer holds these words; a cluster that is not ready yet says nothing."""
        try:
            return what in self.tell(command[0], "--connect-timeout", "5", *command[1:])
        except (install.CannotInstall, subprocess.TimeoutExpired):
            return False
