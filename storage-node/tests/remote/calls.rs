//! Every call does from afar what it does at hand.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use kodiak_storage_api::{
    BUCKETS, BlockWrite, BucketSet, Digest, DirectoryChange, DirectoryWrite, Extent, Health, ItemCopy,
    ItemKey, Layout, ListQuery, NodeError, ObjectPath, ObjectWrite, Partitions, PolicyIndex, Row,
    RowDurability, RowTarget, ScanQuery, Stamp, StorageNode, Timestamp, Tree, Version, Work, WorkKind,
};

use crate::machine::{Machines, ask};
use crate::rig::{block, directory_key, object_key, record};

#[tokio::test]
async fn objects_and_their_rows_are_written_read_and_listed() {
    let machines = Machines::start().await;
    let remote = &machines.remote;
    // Interned in another order than the node has them: only names go over the wire.
    let (second, first) = (remote.device("d2").expect("a name"), remote.device("d1").expect("a name"));
    let container = directory_key("a/c");
    let create =
        DirectoryChange::Create { policy: PolicyIndex(0), headers: vec![("x-a".into(), "1".into())] };
    let write = DirectoryWrite {
        key: container,
        name: "a/c".into(),
        timestamp: machines.client_clock.now(),
        change: create,
    };
    let (info, created) = remote.write_directory(second, write).await.expect("created");
    assert!(created && info.directory.header("x-a") == Some("1"));
    for (number, len) in [0usize, 1, 4096, 256 * 1024].into_iter().enumerate() {
        let body: Vec<u8> = (0..len).map(|i| (i * 7 + number) as u8).collect();
        let path = ObjectPath::new("a", "c", &format!("o{number}"));
        let key = object_key(&path);
        let at = machines.client_clock.now();
        let write = ObjectWrite {
            key,
            path,
            version: Version::Live(record(at, len as u64)),
            stamp: Stamp::first(at),
            expect: None,
            inline: body.chunks(70_001).map(Bytes::copy_from_slice).collect(),
            row: Some(RowTarget { directory: container, device: second }),
        };
        remote.write_object(first, write.clone()).await.expect("written");
        remote.write_object(first, write.clone()).await.expect("the same again is no other write");
        let older = Stamp::first(Timestamp::from_micros(1, 1));
        let stale = remote.write_object(first, ObjectWrite { stamp: older, ..write }).await;
        let Err(NodeError::Stale(refusal)) = stale else { panic!("{stale:?}") };
        assert_eq!((refusal.held, refusal.barrier), (Some(Stamp::first(at)), at));
        let promise = remote.prepare(first, key, Timestamp::ZERO, at).await.expect("an answer");
        assert_eq!((promise.held, promise.accepted.ballots), (Some(Stamp::first(at)), vec![at]));
        let stored = remote.read_object(first, key, true).await.expect("read").expect("there");
        assert_eq!(stored.version.timestamp(), at);
        assert_eq!(stored.inline.as_deref(), Some(&body[..]));
        let bare = remote.read_object(first, key, false).await.expect("read").expect("there");
        assert!(bare.inline.is_none());
        // The same bytes lie on the real node's first device, and on no other.
        let home = machines.node.device("d1").expect("a device");
        let there = machines.node.read_object(home, key, true).await.expect("read").expect("there");
        assert_eq!(there.inline.as_deref(), Some(&body[..]));
        let other = machines.node.device("d2").expect("a device");
        assert!(machines.node.read_object(other, key, false).await.expect("read").is_none());
    }
    let query = ListQuery { limit: 1_000_000, ..ListQuery::default() };
    let page = remote.list_rows(second, container, query).await.expect("listed");
    let names: Vec<&str> = page.entries.iter().map(|entry| entry.name()).collect();
    assert_eq!(names, ["o0", "o1", "o2", "o3"]);
    assert!(
        remote
            .read_object(first, object_key(&ObjectPath::new("a", "c", "no")), true)
            .await
            .expect("read")
            .is_none()
    );
}

#[tokio::test]
async fn blocks_travel_whole_and_in_ranges() {
    let machines = Machines::start().await;
    let remote = &machines.remote;
    let device = remote.device("d1").expect("a name");
    let data: Vec<u8> = (0..kodiak_storage_api::BLOCK_SIZE).map(|i| (i / 3) as u8).collect();
    let write = |index: u32, data: &[u8]| BlockWrite {
        key: block(index),
        owner: ObjectPath::new("a", "c", "big"),
        digest: [0; 32],
        data: data.chunks(1 << 20).map(Bytes::copy_from_slice).collect(),
    };
    remote.write_block(device, write(1, &data)).await.expect("written");
    for range in [0..1, 100_000..1_200_000, 0..data.len() as u32] {
        let read = remote.read_block(device, block(1), range.clone()).await.expect("read");
        assert!(read[..] == data[range.start as usize..range.end as usize], "{range:?}");
    }
    // Side by side: connections are made and kept as they are needed.
    let all = (2..10).map(|index| remote.write_block(device, write(index, &data[..100_000])));
    for written in futures_util::future::join_all(all).await {
        written.expect("written");
    }
    let outside = remote.read_block(device, block(2), 90_000..100_001).await;
    assert!(matches!(outside, Err(NodeError::Unavailable(_) | NodeError::Corrupt(_))), "{outside:?}");
    remote.delete_blocks(device, vec![block(1), block(77)]).await.expect("deleted");
    assert_eq!(remote.read_block(device, block(1), 0..1).await, Err(NodeError::NoBlock));
}

#[tokio::test]
async fn directories_rows_and_work_go_over_the_wire() {
    let machines = Machines::start().await;
    let (remote, clock) = (&machines.remote, &machines.client_clock);
    let device = remote.device("d1").expect("a name");
    let account = directory_key("a");
    let change = |change| DirectoryWrite { key: account, name: "a".into(), timestamp: clock.now(), change };
    let rows = |deleted| {
        let row = Row { deleted, ..Row::tombstone("c".into(), clock.now()) };
        remote.write_rows(device, account, vec![row], RowDurability::Synced)
    };
    assert_eq!(rows(false).await, Err(NodeError::NoDirectory));
    let create = DirectoryChange::Create { policy: PolicyIndex(0), headers: Vec::new() };
    remote.write_directory(device, change(create)).await.expect("created");
    rows(false).await.expect("written");
    let info = remote.read_directory(device, account).await.expect("read").expect("there");
    assert_eq!(info.stats.rows, 1);
    let refused = remote.write_directory(device, change(DirectoryChange::Delete)).await;
    assert_eq!(refused.expect_err("not empty"), NodeError::NotEmpty);
    rows(true).await.expect("written");
    remote.write_directory(device, change(DirectoryChange::Delete)).await.expect("deleted");

    let path = ObjectPath::new("a", "c", "big");
    let extent = Extent { data: kodiak_storage_api::DataId([5; 16]), len: 9 };
    let version =
        |at: Timestamp, layout| Version::Live(kodiak_storage_api::ObjectRecord { layout, ..record(at, 9) });
    for (layout, inline) in
        [(Layout::Extents(vec![extent]), vec![]), (Layout::Inline, vec![Bytes::from_static(b"ninebytes")])]
    {
        let (key, version) = (object_key(&path), version(clock.now(), layout));
        let stamp = Stamp::first(version.timestamp());
        let write = ObjectWrite { key, path: path.clone(), version, stamp, expect: None, inline, row: None };
        remote.write_object(device, write).await.expect("written");
    }
    let due = clock.now().seconds() + 3600;
    let work = remote.next_work(device, WorkKind::Free, due, usize::MAX).await.expect("work");
    let extents = work.iter().find_map(|item| match &item.work {
        Work::Free { extents, .. } => Some(extents.clone()),
        _ => None,
    });
    assert_eq!(extents, Some(vec![extent]));
    let ids = work.into_iter().map(|item| item.id).collect();
    remote.finish_work(device, WorkKind::Free, ids).await.expect("finished");
    assert!(remote.next_work(device, WorkKind::Free, due, 10).await.expect("work").is_empty());
}

/// What repair asks answers from afar as it does at hand.
#[tokio::test]
async fn what_replicas_are_compared_by_goes_over_the_wire() {
    let machines = Machines::start().await;
    let (remote, node, clock) = (&machines.remote, &machines.node, &machines.client_clock);
    let (there, here) = (remote.device("d1").expect("a name"), node.device("d1").expect("a device"));
    let path = ObjectPath::new("a", "c", "o");
    let (key, at, body) = (object_key(&path), clock.now(), vec![3; 5000]);
    let version = Version::Live(record(at, 5000));
    let inline = vec![Bytes::from(body.clone())];
    let stamp = Stamp::first(at);
    let write = ObjectWrite { key, path: path.clone(), version, stamp, expect: None, inline, row: None };
    remote.learn_object(there, write).await.expect("learnt");
    let data = vec![Bytes::from(vec![9; 70_000])];
    let write = BlockWrite { key: block(1), owner: path, digest: [4; 32], data };
    remote.write_block(there, write).await.expect("written");

    let policy = PolicyIndex(0);
    for tree in [Tree::Objects(policy), Tree::Blocks(policy), Tree::Containers] {
        let all = Partitions::all(crate::rig::POWER);
        let digests = remote.digests(there, tree, all.clone()).await.expect("digests");
        assert_eq!(digests, node.digests(here, tree, all).await.expect("digests"));
        assert_eq!(digests.is_empty(), tree == Tree::Containers);
    }
    let (tree, partition) = (Tree::Objects(policy), key.place().partition(crate::rig::POWER));
    let buckets = remote.buckets(there, tree, partition).await.expect("buckets");
    assert_eq!(buckets, node.buckets(here, tree, partition).await.expect("buckets"));
    let all = BucketSet::differing(&buckets, &[Digest::ZERO; BUCKETS]);
    let query = ScanQuery { tree, partition, buckets: all, after: None, limit: usize::MAX };
    let page = remote.scan(there, query).await.expect("a page");
    let [item] = page.items.as_slice() else { panic!("{page:?}") };
    assert_eq!((item.key.clone(), item.timestamp), (ItemKey::Object(key), at));

    let nothing = ItemKey::Directory(directory_key("nobody"));
    let keys = vec![ItemKey::Object(key), nothing, ItemKey::Block(block(1))];
    let items = remote.read_items(there, keys).await.expect("items");
    let [Ok(Some(ItemCopy::Object { inline, .. })), Ok(None), Ok(Some(ItemCopy::Block { info, data }))] =
        &items[..]
    else {
        panic!("{items:?}")
    };
    assert!(inline[..] == body[..] && data[..] == [9; 70_000][..]);
    let infos = remote.block_infos(there, vec![block(2), block(1)]).await.expect("infos");
    assert_eq!(infos, [None, Some(info.clone())]);

    let missing = remote.missing(there).await.expect("an answer");
    assert_eq!(missing, node.missing(here).await.expect("an answer"));
    remote.filled(there, tree, vec![partition]).await.expect("noted");
    assert_eq!(remote.forget(there, page.items).await.expect("forgotten"), 1);
    assert!(node.read_object(here, key, false).await.expect("read").is_none());
}

#[tokio::test]
async fn a_device_that_the_node_lacks_is_named() {
    let machines = Machines::start().await;
    let device = machines.remote.device("d9").expect("every name is taken");
    let error = machines.remote.read_directory(device, directory_key("a")).await.expect_err("no device");
    assert!(error.to_string().contains("n2 has no device d9"), "{error}");
}

#[tokio::test]
async fn epochs_and_clocks_spread_with_the_calls_both_ways() {
    let machines = Machines::start().await;
    machines
        .server_clock
        .observe(Timestamp::from_micros(machines.client_clock.wall_micros() + 40_000_000, 2));
    ask(&machines.remote).await.expect("answered");
    assert!(machines.client_clock.now().micros() > machines.client_clock.wall_micros() + 39_000_000);
    machines.server_view.epoch.store(8, Ordering::SeqCst);
    ask(&machines.remote).await.expect("answered");
    assert_eq!(*machines.client_view.newer.lock(), [("n2".to_owned(), 8)]);
    // A clock that is an hour ahead is not followed.
    let hour = machines.client_clock.wall_micros() + 3_600_000_000;
    machines.client_clock.observe(Timestamp::from_micros(hour, 1));
    ask(&machines.remote).await.expect("answered");
    assert!(machines.server_clock.now().micros() < hour - 3_000_000_000);
}

#[tokio::test]
async fn a_node_that_lacks_the_callers_map_gets_it_and_answers_the_same_call() {
    let machines = Machines::start().await;
    let by_new_map = machines.remote.placed_by(7);
    let call = tokio::spawn(async move { ask(&by_new_map).await });
    // The node hears of the map while the call waits at its gate, and then goes by it.
    let told = async {
        while machines.server_view.newer.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(2), told).await.expect("told");
    assert_eq!(*machines.server_view.newer.lock(), [("n1".to_owned(), 7)]);
    machines.server.gate().adopt(7, async || Ok::<(), ()>(())).await.expect("adopted");
    call.await.expect("joined").expect("answered");
    let error = ask(&machines.remote.placed_by(6)).await.expect_err("an old map");
    assert!(error.to_string().contains("the call goes by map 6, this node by map 7"), "{error}");
}

#[tokio::test]
async fn a_peer_that_answers_is_healthy() {
    let machines = Machines::start().await;
    ask(&machines.remote).await.expect("answered");
    assert!(matches!(machines.remote.health(), Health::Remote { .. }));
    assert_eq!(machines.node.health(), Health::Local);
}
