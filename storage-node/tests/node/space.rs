//! Room: full disks, deleted blocks, compaction, and bits that flip.

use std::os::unix::fs::MetadataExt;

use kodiak_storage_api::{
    DataId, Extent, Layout, NodeError, ObjectPath, ObjectWrite, PolicyIndex, Stamp, StorageNode, Version,
    Work, WorkKind,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::rig::{Rig, block, object_key, put_block, record, settings};

fn on_disk(folder: &std::path::Path) -> u64 {
    let volumes = std::fs::read_dir(folder.join("d1/volumes")).unwrap();
    volumes.map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum()
}

#[tokio::test]
async fn any_range_of_a_block_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 / 3) as u8).collect();
    put_block(&rig, 0, &data).await.unwrap();
    let device = kodiak_storage_api::DeviceIndex(0);
    for (start, end) in [(0, 1_000_000), (0, 1), (65_535, 65_537), (131_072, 131_072), (999_999, 1_000_000)] {
        let got = rig.node.read_block(device, block(0), start..end).await.unwrap();
        assert_eq!(&got[..], &data[start as usize..end as usize]);
    }
    assert!(matches!(rig.node.read_block(device, block(0), 0..1_000_001).await, Err(NodeError::Corrupt(_))));
    assert_eq!(rig.node.read_block(device, block(1), 0..1).await, Err(NodeError::NoBlock));
}

#[tokio::test]
async fn deleted_blocks_give_back_their_room_and_stay_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    for i in 0..8 {
        put_block(&rig, i, &vec![i as u8; 1 << 20]).await.unwrap();
    }
    let before = on_disk(folder.path());
    let device = kodiak_storage_api::DeviceIndex(0);
    rig.node.delete_blocks(device, (0..8).map(block).collect()).await.unwrap();
    assert!(on_disk(folder.path()) + (7 << 20) < before);
    rig.node.shutdown();
    drop(rig);
    std::fs::remove_dir_all(folder.path().join("d1/index")).unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    assert_eq!(rig.node.read_block(device, block(3), 0..1).await, Err(NodeError::NoBlock));
}

#[tokio::test]
async fn extents_of_a_replaced_version_are_queued_for_deletion() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    rig.create("a/c").await;
    let path = ObjectPath::new("a", "c", "big");
    let extent = Extent { data: DataId([9; 16]), len: 5 << 20 };
    let mut large = record(rig.clock.now(), 5 << 20);
    large.layout = Layout::Extents(vec![extent]);
    let device = kodiak_storage_api::DeviceIndex(0);
    let key = object_key(&path);
    let stamp = Stamp::first(large.timestamp);
    let (version, path) = (Version::Live(large), path.clone());
    let write =
        ObjectWrite { key, path: path.clone(), version, stamp, expect: None, inline: Vec::new(), row: None };
    rig.node.write_object(device, write).await.unwrap();
    assert!(rig.node.next_work(device, WorkKind::Free, 0, 10).await.unwrap().is_empty());
    rig.put("a/c/big", b"small").await.unwrap();
    let work = rig.node.next_work(device, WorkKind::Free, 0, 10).await.unwrap();
    assert_eq!(work.len(), 1);
    assert_eq!(work[0].work, Work::Free { path, policy: PolicyIndex(0), extents: vec![extent] });
    rig.node.finish_work(device, WorkKind::Free, vec![work[0].id.clone()]).await.unwrap();
    assert!(rig.node.next_work(device, WorkKind::Free, 0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn compaction_keeps_what_lives_and_gives_back_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let mut small = settings(folder.path(), 1);
    small.volume_size = 1 << 20;
    let rig = Rig::open(small.clone());
    rig.create("a/c").await;
    for round in 0..20u8 {
        for i in 0..50 {
            rig.put(&format!("a/c/o{i}"), &vec![round; 4000]).await.unwrap();
        }
    }
    rig.node.checkpoint().unwrap();
    let before = on_disk(folder.path());
    let node = rig.node.clone();
    tokio::task::spawn_blocking(move || node.compact(u64::MAX)).await.unwrap().unwrap();
    let after = on_disk(folder.path());
    assert!(after * 2 < before, "{before} bytes before, {after} after");
    check_last_round(&rig).await;
    rig.node.shutdown();
    drop(rig);
    check_last_round(&Rig::open(small)).await;
}

async fn check_last_round(rig: &Rig) {
    for i in 0..50 {
        assert_eq!(rig.get(&format!("a/c/o{i}")).await.unwrap().as_deref(), Some(&vec![19; 4000][..]));
    }
    assert_eq!(rig.list("a/c").await.len(), 50);
}

#[tokio::test]
async fn a_flipped_bit_is_an_error_and_never_a_wrong_answer() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    rig.create("a/c").await;
    for i in 0..40u8 {
        rig.put(&format!("a/c/o{i}"), &vec![i; 3000]).await.unwrap();
    }
    let file = std::fs::read_dir(folder.path().join("d1/volumes")).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    use std::os::unix::fs::FileExt;
    let mut wrong = 0;
    for _ in 0..60 {
        let (at, mut byte) = (random.random_range(64..40 * 3300u64), [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << random.random_range(0..8)], at).unwrap();
        for i in 0..40u8 {
            match rig.get(&format!("a/c/o{i}")).await {
                Ok(Some(body)) => assert_eq!(&body[..], &vec![i; 3000][..]),
                Ok(None) => panic!("o{i} is gone"),
                Err(NodeError::Corrupt(_)) => wrong += 1,
                Err(error) => panic!("{error}"),
            }
        }
        file.write_all_at(&byte, at).unwrap();
    }
    assert!(wrong > 30, "only {wrong} damages noticed");
}
