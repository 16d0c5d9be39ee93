//! Digests are those of what the index has, whatever has happened; and forgetting is durable.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kodiak_storage_api::{
    BucketSet, DeviceIndex, Digest, DirectoryChange, Item, ItemKey, NodeError, ObjectPath, Partition,
    Partitions, PolicyIndex, ScanQuery, StorageNode, Tree,
};
use proptest::prelude::*;

use crate::rig::{POWER, Rig, block, copy, directory_key, object_key, put_block, settings};

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    Block(u8),
    DeleteBlocks(u8, u8),
    Create(u8),
    DeleteContainer(u8),
    Forget(u8),
    Compact,
    Restart,
    Kill,
    LoseIndex(u8),
    Power(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<u8>(), 0u16..3000).prop_map(|(name, len)| Step::Put(name, len)),
        4 => any::<u8>().prop_map(Step::Delete),
        4 => any::<u8>().prop_map(Step::Block),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Step::DeleteBlocks(a, b)),
        2 => any::<u8>().prop_map(Step::Create),
        1 => any::<u8>().prop_map(Step::DeleteContainer),
        4 => any::<u8>().prop_map(Step::Forget),
        1 => Just(Step::Compact),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        1 => any::<u8>().prop_map(Step::LoseIndex),
        2 => (0..=9u8).prop_map(Step::Power),
    ]
}

const TREES: [Tree; 4] =
    [Tree::Accounts, Tree::Containers, Tree::Objects(PolicyIndex(0)), Tree::Blocks(PolicyIndex(0))];

/// All items of a tree on a device, by pages of three; the sum of each bucket is checked on the way.
async fn items(rig: &Rig, device: DeviceIndex, tree: Tree, power: u8) -> Vec<Item> {
    let mut all = Vec::new();
    for (partition, digest) in rig.node.digests(device, tree, Partitions::all(power)).await.expect("digests")
    {
        let mut query = ScanQuery { tree, partition, buckets: BucketSet::ALL, after: None, limit: 3 };
        let mut found = Vec::new();
        loop {
            let page = rig.node.scan(device, query.clone()).await.expect("scanned");
            found.extend(page.items);
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        let buckets = rig.node.buckets(device, tree, partition).await.expect("buckets");
        let mut sums = vec![Digest::ZERO; buckets.len()];
        for item in &found {
            let sum = &mut sums[usize::from(item.key.bucket())];
            *sum = sum.plus(item.digest);
        }
        assert_eq!(sums, buckets, "{tree:?} {partition:?}");
        assert_eq!(sums.into_iter().fold(Digest::ZERO, Digest::plus), digest);
        all.append(&mut found);
    }
    all
}

async fn everything(rig: &Rig, power: u8) -> Vec<Item> {
    let mut all = Vec::new();
    for tree in TREES {
        for device in 0..2 {
            let mut items = items(rig, DeviceIndex(device), tree, power).await;
            items.sort_by(|a, b| a.key.cmp(&b.key));
            all.append(&mut items);
        }
    }
    all
}

/// A replay makes rows from the records that are there: also those of rows that were forgotten before their
/// records, or refused for want of a container that came later. Rows that were forgotten may go again.
fn same((before, forgotten): (&[Item], &HashSet<ItemKey>), after: &[Item], why: &str) {
    let lost: Vec<&Item> =
        before.iter().filter(|item| !after.contains(item) && !forgotten.contains(&item.key)).collect();
    assert!(lost.is_empty(), "{why} has lost {lost:#?}");
    let is_row = |item: &Item| matches!(item.key, ItemKey::Row(..));
    let new: Vec<&Item> = after.iter().filter(|item| !is_row(item) && !before.contains(item)).collect();
    assert!(new.is_empty(), "{why} has brought back {new:#?}");
}

async fn take(
    rig: Rig,
    step: &Step,
    folder: &mut tempfile::TempDir,
    forgotten: &mut HashSet<ItemKey>,
) -> Rig {
    let container = |n: &u8| format!("a/c{}", n % 3);
    let object = |n: &u8| format!("{}/o{}", container(n), n % 20);
    let small = |folder: &tempfile::TempDir| {
        let mut settings = settings(folder.path(), 2);
        settings.volume_size = 64 << 10;
        settings
    };
    match step {
        Step::Put(name, len) => drop(rig.put(&object(name), &vec![*name; usize::from(*len)]).await),
        Step::Delete(name) => drop(rig.delete(&object(name)).await),
        Step::Block(index) => put_block(&rig, u32::from(index % 9), &[*index; 5000]).await.expect("block"),
        Step::DeleteBlocks(a, b) => {
            let keys = vec![block(u32::from(a % 9)), block(u32::from(b % 9))];
            rig.node.delete_blocks(DeviceIndex(0), keys).await.expect("deleted");
        }
        Step::Create(n) => rig.create(&container(n)).await,
        Step::DeleteContainer(n) => match rig.directory(&container(n), DirectoryChange::Delete).await {
            Ok(_) | Err(NodeError::NotEmpty | NodeError::NoDirectory) => {}
            Err(error) => panic!("{error}"),
        },
        Step::Forget(n) => {
            let (device, tree) = (DeviceIndex(u16::from(n % 2)), TREES[usize::from(n / 2 % 4)]);
            let (one, all) = (usize::from(n / 8), items(&rig, device, tree, POWER).await);
            let some: Vec<Item> = all.into_iter().skip(one % 5).step_by(3).collect();
            forgotten
                .extend(some.iter().map(|i| &i.key).filter(|key| matches!(key, ItemKey::Row(..))).cloned());
            rig.node.forget(device, some).await.expect("forgotten");
        }
        Step::Compact => {
            let node = rig.node.clone();
            tokio::task::spawn_blocking(move || node.compact(u64::MAX)).await.unwrap().unwrap();
        }
        Step::Restart => {
            rig.node.shutdown();
            drop(rig);
            return Rig::open(small(folder));
        }
        Step::Kill => {
            let killed = tempfile::tempdir().unwrap();
            copy(folder.path(), killed.path());
            let before = everything(&rig, POWER).await;
            drop(rig);
            *folder = killed;
            let rig = Rig::open(small(folder));
            same((&before, forgotten), &everything(&rig, POWER).await, "a kill");
            return rig;
        }
        Step::LoseIndex(n) => {
            let before = everything(&rig, POWER).await;
            rig.node.shutdown();
            drop(rig);
            std::fs::remove_dir_all(folder.path().join(format!("d{}", 1 + n % 2)).join("index")).unwrap();
            let rig = Rig::open(small(folder));
            same((&before, forgotten), &everything(&rig, POWER).await, "the loss of an index");
            return rig;
        }
        // The ring's power changes, and the digests with it.
        Step::Power(power) => assert_eq!(everything(&rig, POWER).await, everything(&rig, *power).await),
    }
    rig
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn digests_are_those_of_the_index_after_anything(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let mut folder = tempfile::tempdir().unwrap();
            let mut rig = Rig::open({
                let mut settings = settings(folder.path(), 2);
                settings.volume_size = 64 << 10;
                settings
            });
            let mut forgotten = HashSet::new();
            rig.create("a").await;
            rig.create("a/c0").await;
            everything(&rig, POWER).await;
            for step in &steps {
                rig = take(rig, step, &mut folder, &mut forgotten).await;
                assert!(rig.node.digests_are_right().unwrap(), "after {step:?}");
            }
            everything(&rig, POWER).await;
        });
    }
}

#[tokio::test]
async fn what_was_forgotten_stays_away_and_what_has_come_back_stays() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    let device = DeviceIndex(0);
    rig.create("a/c").await;
    rig.put("a/c/gone", b"1").await.unwrap();
    rig.put("a/c/back", b"2").await.unwrap();
    let records = items(&rig, device, Tree::Objects(PolicyIndex(0)), POWER).await;
    assert_eq!(rig.node.forget(device, records.clone()).await.unwrap(), 2);
    assert_eq!(rig.node.forget(device, records).await.unwrap(), 0, "they are gone");
    let back = rig.clock.now();
    rig.write("a/c/back", back, Some(b"2")).await.unwrap();
    rig.node.shutdown();
    drop(rig);
    std::fs::remove_dir_all(folder.path().join("d1/index")).unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    assert_eq!(rig.get("a/c/gone").await.unwrap(), None);
    assert_eq!(rig.get("a/c/back").await.unwrap().as_deref(), Some(&b"2"[..]));
}

#[tokio::test]
async fn only_the_version_that_was_seen_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    let device = DeviceIndex(0);
    rig.create("a/c").await;
    rig.put("a/c/o", b"old").await.unwrap();
    let seen = items(&rig, device, Tree::Objects(PolicyIndex(0)), POWER).await;
    let rows = items(&rig, device, Tree::Containers, POWER).await;
    rig.put("a/c/o", b"new").await.unwrap();
    assert_eq!(rig.node.forget(device, seen).await.unwrap(), 0);
    let directory: Vec<Item> =
        rows.iter().filter(|i| matches!(i.key, ItemKey::Directory(_))).cloned().collect();
    assert_eq!(rig.node.forget(device, directory).await.unwrap(), 0, "it has a row");
    assert_eq!(rig.get("a/c/o").await.unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(rig.list("a/c").await, ["o"]);
}

#[tokio::test]
async fn an_index_without_digests_is_given_them_when_somebody_asks() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    rig.create("a/c").await;
    for i in 0..50 {
        rig.put(&format!("a/c/o{i}"), b"x").await.unwrap();
    }
    rig.node.shutdown();
    drop(rig);
    let names = rocksdb::DB::list_cf(&rocksdb::Options::default(), folder.path().join("d1/index")).unwrap();
    let mut options = rocksdb::Options::default();
    options.set_merge_operator_associative("add up", |_, _, _| None);
    let families = names.iter().map(|name| rocksdb::ColumnFamilyDescriptor::new(name, options.clone()));
    let mut db =
        rocksdb::DB::open_cf_descriptors(&options, folder.path().join("d1/index"), families).unwrap();
    db.drop_cf("digests").unwrap();
    drop(db);
    let rig = Rig::open(settings(folder.path(), 1));
    assert_eq!(items(&rig, DeviceIndex(0), Tree::Objects(PolicyIndex(0)), POWER).await.len(), 50);
    assert!(rig.node.digests_are_right().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digests_of_another_power_are_made_beside_writes() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Arc::new(Rig::open(settings(folder.path(), 2)));
    rig.create("a/c").await;
    for i in 0..500 {
        rig.put(&format!("a/c/o{i}"), b"x").await.unwrap();
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let done = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (rig, stopped, done) = (rig.clone(), stopped.clone(), done.clone());
            tokio::spawn(async move {
                let mut writes = 0;
                while !*stopped.borrow() {
                    let name = format!("a/c/o{}", (writes * 4 + writer) % 700);
                    match writes % 3 {
                        0 => rig.delete(&name).await.unwrap(),
                        1 => put_block(&rig, writes % 50, &[1; 100]).await.unwrap(),
                        _ => rig.put(&name, b"y").await.unwrap(),
                    }
                    writes += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for power in [4, 5, 6, 7, 0, 12] {
        let before = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < before + 20 {
            tokio::task::yield_now().await;
        }
        for (tree, device) in TREES.into_iter().zip([0, 1, 0, 1].into_iter().cycle()) {
            let all = Partitions::all(power);
            rig.node.digests(DeviceIndex(device), tree, all.clone()).await.unwrap();
            rig.node.digests(DeviceIndex(1 - device), tree, all).await.unwrap();
        }
    }
    stop.send_replace(true);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(rig.node.digests_are_right().unwrap());
    everything(&rig, 12).await;
}

#[tokio::test]
async fn one_item_changes_one_bucket_of_one_partition() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    rig.create("a/c").await;
    let (device, tree) = (DeviceIndex(0), Tree::Objects(PolicyIndex(0)));
    for i in 0..200 {
        rig.put(&format!("a/c/o{i}"), b"x").await.unwrap();
    }
    let before = rig.node.digests(device, tree, Partitions::all(POWER)).await.unwrap();
    assert_eq!(before.len(), 16);
    let key = object_key(&ObjectPath::parse("a/c/o7").unwrap());
    let partition = key.place().partition(POWER);
    let buckets = rig.node.buckets(device, tree, partition).await.unwrap();
    rig.delete("a/c/o7").await.unwrap();
    let after = rig.node.digests(device, tree, Partitions::all(POWER)).await.unwrap();
    let differing: Vec<Partition> =
        before.iter().zip(&after).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
    assert_eq!(differing, [partition]);
    let now = rig.node.buckets(device, tree, partition).await.unwrap();
    let set = BucketSet::differing(&buckets, &now);
    assert!((0..=255).all(|bucket| set.contains(bucket) == (bucket == ItemKey::Object(key).bucket())));
    let only = directory_key("a/c").place().partition(POWER);
    for other in Partitions::all(POWER).filter(|other| *other != only) {
        assert!(rig.node.digests(device, Tree::Containers, other.into()).await.unwrap().is_empty());
    }
}
