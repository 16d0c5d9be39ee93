"""Disks are wiped, machines come, go and are replaced, under load: nothing is lost and no client that tries
again sees an error."""

import pytest
from conftest import SEED
from load import Load

#: Operations between one change and the next.
SOME = 100


@pytest.mark.machines(3)
def test_a_wiped_disk_is_filled_again_and_then_another_machine_may_fail(cluster):
    first, second, third = cluster.machines
    with Load(cluster.machines, SEED) as load:
        load.go_on(SOME * 3)
        second.stop()
        second.kodiak("device", "reset", "d1", "--data", second.data)
        load.go_on(SOME)
        second.up()
        load.go_on(SOME)
        first.wait_until_filled()
        third.kill()
        load.go_on(SOME * 2)
        third.up()
        first.wait_until_filled()


@pytest.mark.machines(3)
def test_a_machine_joins_and_another_leaves(cluster):
    first, second, third = cluster.machines
    with Load(cluster.machines, SEED) as load:
        load.go_on(SOME * 3)
        fourth = cluster.add_machine(4)
        cluster.join(fourth, 4)
        load.go_on(SOME)
        first.wait_until_filled()
        first.kodiak("node", "drain", "m2", "--data", first.data)
        # Each step moves at most one replica of a partition.
        for _ in range(10):
            load.go_on(SOME // 2)
            first.wait_until_filled()
            if first.partitions("m2") == 0:
                break
            first.kodiak("cluster", "rebalance", "--data", first.data)
        assert first.partitions("m2") == 0
        first.kodiak("node", "remove", "m2", "--data", first.data)
        load.go_on(SOME)
        second.kill()
        load.go_on(SOME)
