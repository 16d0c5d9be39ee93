#!/usr/bin/env python3
"""Makes the Swift rings that tests/swift.rs imports, and what Swift itself reads from them.

    python3 -m venv v && v/bin/pip install swift==2.38.3 && v/bin/python make_swift_rings.py
"""
import json
import os

from swift.common.ring import RingBuilder, RingData

HERE = os.path.dirname(os.path.abspath(__file__))


def build(replicas):
    builder = RingBuilder(6, replicas, 1)
    for i in range(8):
        builder.add_dev({'region': 1 + i // 4, 'zone': i // 2, 'ip': '10.0.0.%d' % (1 + i // 2),
                         'port': 6200, 'device': 'sd%s' % 'abcdefgh'[i], 'weight': 100.0 + 50 * (i % 3)})
    builder.rebalance(seed='kodiak')
    builder.remove_dev(3)  # leaves a hole in the list of devices
    builder.pretend_min_part_hours_passed()
    builder.rebalance(seed='kodiak')
    return builder.get_ring()


for name, replicas in (('three', 3), ('fraction', 2.5)):
    for version in (1, 2):
        path = os.path.join(HERE, 'swift-%s-v%d.ring.gz' % (name, version))
        build(replicas).save(path, format_version=version)
    ring = RingData.load(path)
    expected = {'devices': [d and [d['id'], d['region'], d['zone'], d['ip'], d['port'], d['device'], d['weight']]
                            for d in ring.devs],
                'rows': [list(row) for row in ring._replica2part2dev_id]}
    with open(os.path.join(HERE, 'swift-%s.json' % name), 'w') as out:
        json.dump(expected, out)
        out.write('\n')
