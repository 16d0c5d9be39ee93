"""What the stores are installed with: Debian's packages, PyPI, crates.io. All of it stays in the cache."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CACHE = pathlib.Path(os.environ.get("KODIAK_CACHE", pathlib.Path.home() / ".cache/kodiak"))


class CannotInstall(Exception):
    """A store cannot be installed here; says why."""


def output_of(*command, **options):
    """What a program prints; an error with its last words where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise CannotInstall(f"{pathlib.Path(str(command[0])).name} failed: {' / '.join(said)}")
    return done.stdout.strip()


def packages(*names):
    """Installs Debian packages; their maintainers' scripts start no daemon where policy-rc.d forbids it."""
    output_of(ROOT / "scripts/packages", *names)


def venv(name, *requirements):
    """A Python environment with these packages; its `bin`."""
    folder = CACHE / "peers" / name
    if not (folder / "ready").exists():
        output_of(sys.executable, "-m", "venv", "--clear", folder)
        output_of(folder / "bin/pip", "install", "-q", "--disable-pip-version-check", *requirements)
        (folder / "ready").touch()
    return folder / "bin"


def cargo(crate, version):
    """A program of crates.io; its path. The first time takes long."""
    folder = CACHE / "peers" / f"{crate}-{version}"
    program = folder / "bin" / crate
    if not program.exists():
        target = os.environ.get("PEERS_TARGET_DIR", CACHE / "peers" / f"{crate}-target")
        environment = dict(os.environ, CARGO_TARGET_DIR=str(target))
        # Those are for Kodiak's RocksDB.
        for name in ("ROCKSDB_LIB_DIR", "ROCKSDB_STATIC"):
            environment.pop(name, None)
        output_of("cargo", "install", "-q", crate, "--version", version, "--locked", "--root", folder,
                  cwd=CACHE, env=environment)
    return program
