//! Rings that Swift's own builder made (tests/data/make_swift_rings.py) are taken over as they are.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::path::{Path, PathBuf};

use kodiak_ring::{RingBuilder, RingError};
use serde_json::Value;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

#[test]
fn both_formats_give_swifts_devices_and_assignment() {
    for (name, replicas) in [("three", 3.0), ("fraction", 2.5)] {
        let expected: Value =
            serde_json::from_slice(&std::fs::read(data(&format!("swift-{name}.json"))).unwrap()).unwrap();
        for format in [1, 2] {
            let file = data(&format!("swift-{name}-v{format}.ring.gz"));
            let builder = RingBuilder::import_swift(&file, 1, 0).unwrap();
            assert_eq!((builder.part_power(), builder.replicas()), (6, replicas));
            let devices = expected["devices"].as_array().unwrap().iter().filter(|device| !device.is_null());
            let ours: Vec<Value> = builder
                .devices()
                .map(|(d, _)| serde_json::json!([d.id, d.region, d.zone, d.node, d.name, d.weight]))
                .collect();
            let theirs: Vec<Value> = devices
                .map(|d| {
                    let node = format!("{}:{}", d[3].as_str().unwrap(), d[4]);
                    serde_json::json!([d[0], d[1], d[2], node, d[5], d[6]])
                })
                .collect();
            assert_eq!(ours, theirs);
            let ring = builder.ring().unwrap();
            for p in ring.all_partitions() {
                let rows = expected["rows"].as_array().unwrap();
                let theirs: Vec<u64> =
                    rows.iter().filter_map(|row| row[p.number() as usize].as_u64()).collect();
                let ours: Vec<u64> = ring.primaries(p).map(|device| u64::from(device.id)).collect();
                assert_eq!(ours, theirs, "{name} format {format} partition {p:?}");
            }
        }
    }
}

#[test]
fn an_imported_ring_can_be_changed_and_rebalanced() {
    let mut builder = RingBuilder::import_swift(&data("swift-three-v2.ring.gz"), 1, 0).unwrap();
    builder.remove_device(0).unwrap();
    builder.rebalance(1).unwrap();
    let ring = builder.ring().unwrap();
    assert!(ring.all_partitions().all(|p| ring.primaries(p).count() == 3));
    assert!(ring.devices().all(|device| device.id != 0));
}

#[test]
fn a_damaged_swift_ring_is_refused() {
    for format in [1, 2] {
        let bytes = std::fs::read(data(&format!("swift-three-v{format}.ring.gz"))).unwrap();
        for len in 0..bytes.len() {
            let error = RingBuilder::from_swift(&bytes[..len], 1, 0).unwrap_err();
            assert!(matches!(error, RingError::Swift(_)), "{error}");
        }
        for at in 10..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            if let Ok(builder) = RingBuilder::from_swift(&damaged, 1, 0) {
                assert_eq!(builder, RingBuilder::from_swift(&bytes, 1, 0).unwrap());
            }
        }
    }
    assert!(RingBuilder::from_swift(b"KODKRING", 1, 0).is_err());
}
