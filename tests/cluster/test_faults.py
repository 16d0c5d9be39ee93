"""Everything that happens to machines, under load: no acknowledged write is lost, and no client that
tries again, at another machine if need be, sees an error."""

import pytest
from conftest import SEED
from load import Load
from machines import Relay

#: Operations between one fault and the next.
SOME = 150


@pytest.mark.machines(3)
def test_one_of_three_machines_at_a_time_is_killed_paused_and_cut_off(cluster):
    with Load(cluster.machines, SEED) as load:
        load.go_on(SOME)
        for machine in cluster.machines:
            machine.kill()
            load.go_on(SOME)
            machine.up()
            load.go_on(SOME // 2)
        for machine in cluster.machines:
            machine.pause()
            load.go_on(SOME)
            machine.resume()
            load.go_on(SOME // 2)
        for machine in cluster.machines:
            with machine.cut_off():
                load.go_on(SOME)
            load.go_on(SOME // 2)


def test_slow_lossy_and_one_way_links(cluster):
    first, second, third, fourth, fifth = cluster.machines
    with Load(cluster.machines, SEED) as load:
        load.go_on(SOME)
        with Relay(second, 0.05).between(first, third, fourth, fifth):
            load.go_on(SOME)
        with third.losing(20):
            load.go_on(SOME)
        with fourth.cut_off(first, second):
            load.go_on(SOME)
        with first.cut_off(second), third.cut_off(fourth):
            load.go_on(SOME)


def test_machines_restart_one_after_the_other(cluster):
    with Load(cluster.machines, SEED) as load:
        load.go_on(SOME)
        for machine in cluster.machines:
            machine.stop()
            load.go_on(SOME // 3)
            machine.up()
            machine.wait_until_filled()
        load.go_on(SOME)
