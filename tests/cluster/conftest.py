"""A cluster of machines for the tests of this folder."""

import os
import pathlib
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from machines import Cluster  # noqa: E402

SEED = int(os.environ.get("KODIAK_SEED", "1"))


@pytest.fixture
def cluster(request):
    """As many machines as the test's `machines` mark says; five otherwise."""
    mark = request.node.get_closest_marker("machines")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kodiak-cluster-"))
    cluster = Cluster(folder, mark.args[0] if mark else 5)
    failed = request.session.testsfailed
    yield cluster
    if request.session.testsfailed > failed:
        for machine in cluster.machines:
            print(f"--- {machine.name}\n{machine.log.read_text()[-4000:]}" if machine.log.exists() else machine.name)
    cluster.close()


def pytest_configure(config):
    config.addinivalue_line("markers", "machines(count): how many machines the cluster has")
    print(f"KODIAK_SEED={SEED}")
