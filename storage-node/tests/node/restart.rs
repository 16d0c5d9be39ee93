//! What is there after a stop, a kill, or the loss of an index.

use kodiak_storage_api::{Accepted, DirectoryChange, NodeError, ObjectPath, Stamp, StorageNode, Timestamp};

use crate::rig::{Rig, block, copy, object_key, put_block, settings};

async fn fill(rig: &Rig) {
    rig.create("a").await;
    rig.create("a/c").await;
    for i in 0..200u32 {
        rig.put(&format!("a/c/o{i:03}"), &vec![i as u8; 100 + i as usize * 50]).await.expect("put");
    }
    for i in (0..200).step_by(3) {
        rig.delete(&format!("a/c/o{i:03}")).await.expect("deleted");
    }
    for i in (0..200).step_by(7) {
        rig.put(&format!("a/c/o{i:03}"), b"again").await.expect("put again");
    }
}

async fn check(rig: &Rig) {
    let mut expected = Vec::new();
    let mut bytes = 0;
    for i in 0..200u32 {
        let name = format!("o{i:03}");
        let body = match (i % 7, i % 3) {
            (0, _) => Some(b"again".to_vec()),
            (_, 0) => None,
            _ => Some(vec![i as u8; 100 + i as usize * 50]),
        };
        let got = rig.get(&format!("a/c/{name}")).await.expect("readable");
        assert_eq!(got.as_deref(), body.as_deref(), "{name}");
        if let Some(body) = body {
            bytes += body.len() as u64;
            expected.push(name);
        }
    }
    assert_eq!(rig.list("a/c").await, expected);
    let stats = rig.info("a/c").await.stats;
    assert_eq!((stats.rows, stats.bytes), (expected.len() as u64, bytes));
}

#[tokio::test]
async fn everything_is_there_after_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 3));
    fill(&rig).await;
    check(&rig).await;
    rig.node.shutdown();
    drop(rig);
    let rig = Rig::open(settings(folder.path(), 3));
    check(&rig).await;
}

#[tokio::test]
async fn everything_is_there_after_a_kill() {
    let (folder, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rig = Rig::open(settings(folder.path(), 3));
    fill(&rig).await;
    copy(folder.path(), killed.path());
    let rig = Rig::open(settings(killed.path(), 3));
    check(&rig).await;
    // The clock goes on after the newest write, whatever the wall says.
    assert!(rig.clock.now() > Timestamp::ZERO);
}

#[tokio::test]
async fn an_index_that_is_lost_or_damaged_is_made_anew() {
    for damage in ["lost", "damaged", "short of its tables"] {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::open(settings(folder.path(), 3));
        fill(&rig).await;
        rig.node.shutdown();
        drop(rig);
        for device in ["d1", "d2", "d3"] {
            let index = folder.path().join(device).join("index");
            match damage {
                "lost" => std::fs::remove_dir_all(&index).unwrap(),
                "short of its tables" => remove_tables(&index),
                _ => std::fs::write(index.join("CURRENT"), b"nonsense").unwrap(),
            }
            let rig = Rig::open(settings(folder.path(), 3));
            check(&rig).await;
            rig.node.shutdown();
        }
    }
}

fn remove_tables(index: &std::path::Path) {
    let tables = std::fs::read_dir(index).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<_> = tables.filter(|path| path.extension().is_some_and(|e| e == "sst")).collect();
    assert!(!tables.is_empty());
    for table in tables {
        std::fs::remove_file(table).unwrap();
    }
}

#[tokio::test]
async fn an_older_write_is_stale_and_the_same_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    rig.create("a/c").await;
    let (first, second) = (rig.clock.now(), rig.clock.now());
    rig.write("a/c/o", second, Some(b"2")).await.unwrap();
    let refused = rig.write("a/c/o", first, None).await;
    assert!(matches!(refused, Err(NodeError::Stale(refusal)) if refusal.held == Some(Stamp::first(second))));
    assert_eq!(rig.write("a/c/o", second, Some(b"2")).await, Ok(()));
    assert_eq!(rig.get("a/c/o").await.unwrap().as_deref(), Some(&b"2"[..]));
}

#[tokio::test]
async fn a_container_is_deleted_only_when_empty_and_then_takes_no_rows() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 2));
    rig.create("a/c").await;
    rig.put("a/c/o", b"x").await.unwrap();
    assert_eq!(rig.directory("a/c", DirectoryChange::Delete).await.unwrap_err(), NodeError::NotEmpty);
    rig.delete("a/c/o").await.unwrap();
    rig.directory("a/c", DirectoryChange::Delete).await.unwrap();
    assert_eq!(rig.put("a/c/p", b"x").await, Err(NodeError::NoDirectory));
    rig.create("a/c").await;
    assert_eq!(rig.list("a/c").await, Vec::<String>::new());
}

#[tokio::test]
async fn many_writers_share_a_sync_and_all_are_there() {
    let (folder, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rig = std::sync::Arc::new(Rig::open(settings(folder.path(), 3)));
    rig.create("a/c").await;
    let writers: Vec<_> = (0..64)
        .map(|w| {
            let rig = rig.clone();
            tokio::spawn(async move {
                for i in 0..20 {
                    rig.put(&format!("a/c/{w:02}-{i:02}"), format!("{w}/{i}").as_bytes()).await.expect("put");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    copy(folder.path(), killed.path());
    let rig = Rig::open(settings(killed.path(), 3));
    assert_eq!(rig.info("a/c").await.stats.rows, 64 * 20);
    assert_eq!(rig.get("a/c/63-19").await.unwrap().as_deref(), Some(&b"63/19"[..]));
}

#[tokio::test]
async fn what_follows_the_compaction_of_the_last_volume_is_replayed() {
    let (folder, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rig = Rig::open(settings(folder.path(), 1));
    put_block(&rig, 0, &vec![7; 1 << 20]).await.unwrap();
    rig.node.delete_blocks(kodiak_storage_api::DeviceIndex(0), vec![block(0)]).await.unwrap();
    rig.node.shutdown();
    drop(rig);
    let rig = Rig::open(settings(folder.path(), 1));
    let node = rig.node.clone();
    tokio::task::spawn_blocking(move || node.compact(u64::MAX)).await.unwrap().unwrap();
    let volumes = std::fs::read_dir(folder.path().join("d1/volumes")).unwrap();
    assert_eq!(volumes.count(), 0, "the only volume holds nothing");
    rig.create("a/c").await;
    rig.put("a/c/o", b"acknowledged").await.unwrap();
    copy(folder.path(), killed.path());
    let rig = Rig::open(settings(killed.path(), 1));
    assert_eq!(rig.list("a/c").await, ["o"]);
    assert_eq!(rig.get("a/c/o").await.unwrap().as_deref(), Some(&b"acknowledged"[..]));
}

#[tokio::test]
async fn a_promise_and_the_doubt_about_what_was_accepted_outlive_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    rig.create("a/c").await;
    let (first, between, promised) = (rig.clock.now(), rig.clock.now(), rig.clock.now());
    rig.write("a/c/o", first, Some(b"1")).await.unwrap();
    let key = object_key(&ObjectPath::new("a", "c", "o"));
    let device = rig.device(&key.hash);
    let promise = rig.node.prepare(device, key, promised, first).await.unwrap();
    assert_eq!(promise.held, Some(Stamp::first(first)));
    assert_eq!(promise.accepted, Accepted { ballots: vec![first], forgotten: false });
    let target = tempfile::tempdir().unwrap();
    copy(folder.path(), target.path());
    let again = Rig::open(settings(target.path(), 1));
    let Err(NodeError::Stale(refusal)) = again.write("a/c/o", between, Some(b"2")).await else {
        panic!("the promise is forgotten");
    };
    assert!(refusal.barrier >= promised && refusal.accepted.forgotten);
    again.put("a/c/o", b"3").await.unwrap();
}

#[tokio::test]
async fn volumes_of_another_format_are_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(settings(folder.path(), 1));
    fill(&rig).await;
    rig.node.shutdown();
    drop(rig);
    let volume = std::fs::read_dir(folder.path().join("d1/volumes")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&volume).unwrap();
    bytes[7] = b'1';
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&volume, &bytes).unwrap();
    let clock = std::sync::Arc::new(kodiak_storage_api::Clock::system(0));
    let error = kodiak_storage_node::Node::open(settings(folder.path(), 1), clock).err().unwrap().to_string();
    assert!(error.contains("format KODIAKV1") && error.contains("KODIAKV2 only"), "{error}");
}
