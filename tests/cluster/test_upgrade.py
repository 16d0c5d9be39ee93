"""Machines are upgraded one after the other, and back, under load: builds of versions next to each other work
together, nothing is lost and no client that tries again sees an error."""

import os

import pytest
from conftest import SEED
from load import Load
from machines import KODIAK

#: A build that calls itself later and speaks one version more to other nodes.
AHEAD = os.environ["KODIAK_AHEAD"]
#: Operations between one restart and the next.
SOME = 100


def versions(machine):
    return {name: member["version"] for name, member in machine.members().items()}


@pytest.mark.machines(3)
def test_machines_are_upgraded_one_after_the_other_and_back(cluster):
    first = cluster.machines[0]
    before = versions(first)["m1"]
    with Load(cluster.machines, SEED) as load:
        load.go_on(SOME)
        for program in (AHEAD, KODIAK):
            for machine in cluster.machines:
                machine.stop()
                machine.program = program
                load.go_on(SOME // 3)
                machine.up()
                # Both builds serve, and each copies what the other has: a change of the map is agreed on by both.
                load.go_on(SOME)
                first.kodiak("cluster", "token", "--data", first.data)
                machine.wait_until_filled()
            running = set(versions(first).values())
            assert running == {before + "+ahead" if program == AHEAD else before}, running
        load.go_on(SOME)


@pytest.mark.machines(3)
def test_a_machine_of_the_next_version_joins_and_one_of_this_version_leaves(cluster):
    first, second, third = cluster.machines
    with Load(cluster.machines, SEED) as load:
        load.go_on(SOME)
        fourth = cluster.add_machine(4)
        fourth.program = AHEAD
        cluster.join(fourth, 4)
        first.wait_until_filled()
        load.go_on(SOME)
        fourth.kodiak("node", "drain", "m3", "--data", fourth.data)
        for _ in range(10):
            load.go_on(SOME // 2)
            first.wait_until_filled()
            if first.partitions("m3") == 0:
                break
            fourth.kodiak("cluster", "rebalance", "--data", fourth.data)
        assert first.partitions("m3") == 0
        first.kodiak("node", "remove", "m3", "--data", first.data)
        load.go_on(SOME)
    assert third.name not in first.members() and second.name in first.members()
