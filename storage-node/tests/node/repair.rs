//! Replicas come back together.

use std::collections::HashMap;
use std::time::Duration;

use kodiak_ring::NewDevice;
use kodiak_storage_api::{DeviceIndex, DirectoryChange, NodeError, ObjectPath, StorageNode, Timestamp};
use kodiak_storage_node::repair::replicator;
use proptest::prelude::*;

use crate::cluster::{Cluster, POLICY};

const ALL: [usize; 3] = [0, 1, 2];

async fn filled() -> Cluster {
    let cluster = Cluster::new(3);
    cluster.create("a", &ALL).await;
    cluster.create("a/c", &ALL).await;
    for i in 0..100 {
        cluster.write(&format!("a/c/o{i}"), Some(&[i; 500]), &ALL).await;
    }
    for i in 0..20u32 {
        cluster.put_block(cluster.block(9, i), &[i as u8; 70_000], &ALL).await;
    }
    assert!(cluster.equal(&ALL).await);
    cluster
}

async fn check(cluster: &Cluster, node: usize) {
    for i in 0..100 {
        let body = cluster.read(node, &format!("a/c/o{i}")).await.unwrap();
        assert_eq!(body.as_deref(), Some(&[i; 500][..]), "o{i} on {node}");
    }
    for i in 0..20u32 {
        let key = cluster.block(9, i);
        let body = cluster.nodes[node].read_block(DeviceIndex(0), key, 0..70_000).await.unwrap();
        assert_eq!(&body[..], &[i as u8; 70_000][..]);
    }
    let key = cluster.map.container("a/c");
    let info = cluster.nodes[node].read_directory(DeviceIndex(0), key).await.unwrap().unwrap();
    assert_eq!((info.stats.rows, info.stats.bytes), (100, 50_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_device_is_filled_again() {
    let mut cluster = filled().await;
    cluster.wipe(1);
    assert!(cluster.empty(1).await);
    let pass = cluster.pass(&[1]).await;
    assert_eq!(pass.healed.failed, 0, "{pass:?}");
    assert_eq!(pass.healed.settled, 0, "what two of three hold has taken effect");
    assert!(cluster.equal(&ALL).await);
    check(&cluster, 1).await;
    assert_eq!(cluster.pass(&ALL).await.differing, 0);
    cluster.nodes[1].shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handoff_goes_home_and_is_dropped() {
    let cluster = Cluster::new(4);
    cluster.create("a", &ALL).await;
    cluster.create("a/c", &ALL).await;
    // Node 2 was away; node 3 stood in for it.
    for i in 0..50 {
        cluster.write(&format!("a/c/o{i}"), Some(&[i; 500]), &[0, 1, 3]).await;
    }
    cluster.put_block(cluster.block(9, 0), &[1; 70_000], &[0, 1, 3]).await;
    let pass = cluster.pass(&[3]).await;
    assert_eq!((pass.waiting, pass.healed.failed), (0, 0), "{pass:?}");
    assert!(pass.handed_back >= 51);
    assert!(cluster.empty(3).await);
    assert_eq!(cluster.read(2, "a/c/o7").await.unwrap().as_deref(), Some(&[7; 500][..]));
    cluster.pass(&[0]).await;
    assert!(cluster.equal(&ALL).await);
    assert!(cluster.nodes[3].digests_are_right().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handoff_keeps_what_a_primary_lacks() {
    let cluster = Cluster::new(4);
    cluster.create("a", &ALL).await;
    cluster.create("a/c", &ALL).await;
    cluster.write("a/c/o", Some(b"x"), &[0, 1, 3]).await;
    cluster.nodes[2].shutdown();
    let pass = cluster.pass(&[3]).await;
    assert_eq!(pass.handed_back, 0);
    assert_eq!(cluster.read(3, "a/c/o").await.unwrap().as_deref(), Some(&b"x"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_moves_partitions_and_empties_their_old_homes() {
    let mut cluster = Cluster::new(4);
    cluster.create("a", &ALL).await;
    cluster.create("a/c", &ALL).await;
    for i in 0..100 {
        cluster.write(&format!("a/c/o{i}"), Some(&[i; 500]), &ALL).await;
    }
    cluster.change(|builder| {
        builder.remove_device(0).unwrap();
        builder.add_device(NewDevice::new(0, 0, "n3", "d1")).unwrap();
    });
    let mut rounds = 0;
    while !cluster.empty(0).await {
        rounds += 1;
        assert!(rounds < 5, "the old home is not empty");
        cluster.pass(&[0, 1, 2, 3]).await;
    }
    assert!(cluster.equal(&[1, 2, 3]).await);
    for i in 0..100 {
        let body = cluster.read(3, &format!("a/c/o{i}")).await.unwrap();
        assert_eq!(body.as_deref(), Some(&[i; 500][..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_minority_took_does_not_hide_live_rows() {
    let cluster = filled().await;
    // Replica 0 has lost the rows and took a deletion that the others refuse.
    let lone = Cluster::new(1);
    drop(lone);
    for answer in cluster.directory("a/c", DirectoryChange::Delete, &[1, 2]).await {
        assert_eq!(answer, Err(NodeError::NotEmpty));
    }
    let rows: Vec<_> =
        (0..100).map(|i| kodiak_storage_api::Row::tombstone(format!("o{i}"), cluster.clock.now())).collect();
    let _ = rows;
    cluster.pass(&ALL).await;
    for node in ALL {
        check(&cluster, node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_go_when_all_have_them_and_not_before() {
    let cluster = filled().await;
    cluster.write("a/c/o1", None, &ALL).await;
    cluster.write("a/c/o2", None, &[0, 1]).await;
    let reclaim = async || {
        let mut dropped = 0;
        for node in ALL {
            let replica = cluster.replica(node);
            dropped +=
                replicator::reclaim(&cluster.map, &cluster.clock, &replica, Duration::ZERO).await.unwrap();
        }
        dropped
    };
    let key = |name: &str| cluster.map.object(&ObjectPath::parse(name).unwrap(), POLICY).unwrap();
    let there = async |name: &str| {
        let mut found = Vec::new();
        for node in &cluster.nodes {
            found.push(node.read_object(DeviceIndex(0), key(name), false).await.unwrap().is_some());
        }
        found
    };
    assert_ne!(key("a/c/o1").partition, key("a/c/o2").partition, "choose other names");
    reclaim().await;
    assert_eq!(there("a/c/o1").await, [false; 3]);
    assert_eq!(there("a/c/o2").await, [true; 3], "replica 2 holds the version before");
    cluster.pass(&ALL).await;
    assert!(cluster.equal(&ALL).await);
    assert!(reclaim().await > 0);
    assert_eq!(there("a/c/o2").await, [false; 3]);
    cluster.pass(&ALL).await;
    assert_eq!(there("a/c/o2").await, [false; 3]);
    assert!(cluster.equal(&ALL).await);
}

/// A write: which name, whether it deletes, and which of the three replicas it reaches.
fn divergence() -> impl Strategy<Value = Vec<(u8, bool, u8)>> {
    prop::collection::vec((0u8..12, prop::bool::weighted(0.2), 1u8..8), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 50, ..ProptestConfig::default() })]
    #[test]
    fn replicas_converge_from_any_divergence_and_lose_no_acknowledged_write(writes in divergence()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::new(3);
            cluster.create("a", &ALL).await;
            cluster.create("a/c", &[0, 2]).await;
            // The newest acknowledged write of each name, and its body.
            let mut acknowledged: HashMap<String, (Timestamp, Option<Vec<u8>>)> = HashMap::new();
            let mut newest: HashMap<String, (Timestamp, Option<Vec<u8>>)> = HashMap::new();
            for (index, (name, deletes, mask)) in writes.iter().enumerate() {
                let on: Vec<usize> = ALL.into_iter().filter(|node| mask >> node & 1 == 1).collect();
                let name = format!("a/c/o{name}");
                let body = (!deletes).then(|| index.to_string().into_bytes());
                let (at, _) = cluster.write(&name, body.as_deref(), &on).await;
                if on.len() >= 2 {
                    acknowledged.insert(name.clone(), (at, body.clone()));
                }
                newest.insert(name, (at, body));
                if *mask == 7 {
                    cluster.put_block(cluster.block(index as u8, 0), &[1; 100], &[index % 3]).await;
                }
            }
            let mut rounds = 0;
            while !cluster.equal(&ALL).await {
                rounds += 1;
                assert!(rounds < 6, "they do not converge: {:?}", cluster.pass(&ALL).await);
                cluster.pass(&ALL).await;
            }
            for (name, (at, body)) in &newest {
                let read = cluster.read(0, name).await.unwrap();
                let older = acknowledged.get(name);
                let right = read.as_deref() == body.as_deref()
                    || older.is_some_and(|(acked, body)| acked < at && read.as_deref() == body.as_deref());
                assert!(right, "{name}: {read:?}");
                assert_eq!(cluster.read(1, name).await.unwrap(), read);
                assert_eq!(cluster.read(2, name).await.unwrap(), read);
            }
            for node in &cluster.nodes {
                assert!(node.digests_are_right().unwrap());
                node.shutdown();
            }
        });
    }
}
