//! Replicas come back together.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use kodiak_ring::NewDevice;
use kodiak_storage_api::jobs::{JobKind, Jobs, Pace};
use kodiak_storage_api::{
    BlockWrite, DeviceIndex, DirectoryChange, ErasureCode, NodeError, ObjectPath, Protection, StorageNode,
    Timestamp, Tree,
};
use kodiak_storage_node::AuditCursor;
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

/// Flips a bit of every page of a node's volumes, past their headers.
fn rot(folder: &std::path::Path) {
    use std::os::unix::fs::FileExt;
    for entry in std::fs::read_dir(folder.join("d1/volumes")).unwrap() {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(entry.unwrap().path()).unwrap();
        let len = file.metadata().unwrap().len();
        for at in (200..len).step_by(4096) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_that_flip_are_found_quarantined_and_healed() {
    let cluster = filled().await;
    rot(cluster.folder(1));
    let (mut damaged, mut at) = (0, AuditCursor::default());
    loop {
        let audited = cluster.nodes[1].audit(DeviceIndex(0), at, 50_000).await.unwrap();
        damaged += audited.damaged.len();
        match audited.next {
            Some(next) => at = next,
            None => break,
        }
    }
    assert!(damaged > 20, "only {damaged} found");
    assert!(cluster.nodes[1].digests_are_right().unwrap());
    let mut refused = 0;
    for i in 0..100 {
        match cluster.read(1, &format!("a/c/o{i}")).await {
            Ok(body) => assert_eq!(body.as_deref(), Some(&[i; 500][..]), "damaged, and not absent"),
            Err(NodeError::Corrupt(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0);
    cluster.pass(&[1]).await;
    assert!(cluster.equal(&ALL).await);
    check(&cluster, 1).await;
    let audited = cluster.nodes[1].audit(DeviceIndex(0), AuditCursor::default(), u64::MAX).await.unwrap();
    assert_eq!((audited.damaged.len(), audited.needles), (0, 120));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_a_minority_does_not_hide_the_rows_of_a_majority() {
    let cluster = Cluster::new(3);
    cluster.create("a", &ALL).await;
    cluster.create("a/c", &ALL).await;
    for i in 0..10 {
        cluster.write(&format!("a/c/o{i}"), Some(b"x"), &[0, 1]).await;
    }
    // The one that has no rows lets itself be deleted; the others refuse, so the deletion failed.
    let deleted: Vec<_> = cluster.directory("a/c", DirectoryChange::Delete, &ALL).await.collect();
    assert_eq!(deleted, [Err(NodeError::NotEmpty), Err(NodeError::NotEmpty), Ok(())]);
    for _ in 0..2 {
        cluster.pass(&ALL).await;
    }
    let key = cluster.map.container("a/c");
    for node in 0..2 {
        let info = cluster.nodes[node].read_directory(DeviceIndex(0), key).await.unwrap().unwrap();
        assert!(info.directory.exists() && info.stats.rows == 10, "{info:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_go_when_all_have_them_and_not_before() {
    let cluster = filled().await;
    cluster.write("a/c/o1", None, &ALL).await;
    cluster.write("a/c/o2", None, &[0, 1]).await;
    let job = Jobs::new(cluster.clock.clone()).job(JobKind::Tombstones, "d1", 1);
    let reclaim = async || {
        let mut dropped = 0;
        for node in ALL {
            let replica = cluster.replica(node);
            let progress = (&*job, &Pace::new(1 << 30));
            let reclaimed =
                replicator::reclaim(&cluster.map, &cluster.clock, &replica, Duration::ZERO, progress).await;
            dropped += reclaimed.unwrap();
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
    let partition = |name| cluster.map.partition_of(Tree::Objects(POLICY), key(name).place()).unwrap();
    assert_ne!(partition("a/c/o1"), partition("a/c/o2"), "choose other names");
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

#[tokio::test(flavor = "multi_thread")]
async fn fragments_of_a_wiped_device_are_computed_from_the_others() {
    let code: ErasureCode = "2+1".parse().unwrap();
    let mut cluster = Cluster::protected(3, Protection::Erasure(code));
    let codec = cluster.map.codec(POLICY).unwrap().unwrap();
    let mut stored = Vec::new();
    for number in 0..12u32 {
        let key = cluster.block(7, number);
        let body: Bytes = (0..50_001u32).map(|i| (i * 7 + number) as u8).collect::<Vec<_>>().into();
        let fragments = codec.split(&body).unwrap();
        for (fragment, replica) in cluster.map.block_replicas(POLICY, key.place).unwrap().iter().enumerate() {
            let write = BlockWrite {
                key: key.of_fragment(fragment),
                owner: ObjectPath::new("a", "c", "big"),
                digest: *blake3::hash(&fragments[fragment]).as_bytes(),
                data: vec![fragments[fragment].clone()],
            };
            replica.node.write_block(replica.device, write).await.unwrap();
        }
        stored.push((key, fragments));
    }
    assert!(cluster.equal(&ALL).await);
    assert_eq!(cluster.pass(&ALL).await.differing, 0);
    cluster.wipe(1);
    let pass = cluster.pass(&[1]).await;
    assert_eq!((pass.healed.copied, pass.healed.failed), (12, 0), "{pass:?}");
    assert!(cluster.equal(&ALL).await);
    for (key, fragments) in stored {
        let replicas = cluster.map.block_replicas(POLICY, key.place).unwrap();
        for (fragment, replica) in replicas.iter().enumerate() {
            let (key, len) = (key.of_fragment(fragment), fragments[fragment].len() as u32);
            let read = replica.node.read_block(replica.device, key, 0..len).await.unwrap();
            assert_eq!(read, fragments[fragment]);
        }
    }
}
