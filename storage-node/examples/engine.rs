//! Scratch measurement.
use bytes::Bytes;
use kodiak_storage_api::*;
use kodiak_storage_node::*;
use std::sync::Arc;
fn main() {
    let writers: usize = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(32);
    let rows: bool = std::env::args().nth(2).is_some();
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let clock = Arc::new(Clock::system(1));
    let node = Node::open(
        NodeSettings {
            devices: vec![DeviceSettings { name: "d1".into(), path: dir.path().into() }],
            ..Default::default()
        },
        clock.clone(),
    )
    .unwrap();
    let key = kodiak_ring::PlacementKey::new([1; 32]);
    let dk = {
        let h = key.hash(b"a/c");
        DirectoryKey { partition: h.partition(10), hash: h }
    };
    rt.block_on(async {
        node.write_directory(
            DeviceIndex(0),
            DirectoryWrite {
                key: dk,
                name: "a/c".into(),
                timestamp: clock.now(),
                change: DirectoryChange::Create { policy: PolicyIndex(0), headers: vec![] },
            },
        )
        .await
        .unwrap();
        let body = Bytes::from(vec![7u8; 4096]);
        let begun = std::time::Instant::now();
        let per = 200_000 / writers;
        let tasks: Vec<_> = (0..writers)
            .map(|w| {
                let (node, clock, body, key) = (node.clone(), clock.clone(), body.clone(), key.clone());
                tokio::spawn(async move {
                    for i in 0..per {
                        let path = ObjectPath::new("a", "c", &format!("{w}/{i}"));
                        let hash = key.hash(path.as_str().as_bytes());
                        let at = clock.now();
                        let version = Version::Live(ObjectRecord {
                            timestamp: at,
                            size: 4096,
                            etag: "d41d8cd98f00b204e9800998ecf8427e".into(),
                            content_type: "application/octet-stream".into(),
                            headers: vec![],
                            listing: vec![],
                            expires_at: None,
                            layout: Layout::Inline,
                        });
                        let write = ObjectWrite {
                            key: ObjectKey { policy: PolicyIndex(0), partition: hash.partition(10), hash },
                            path,
                            version,
                            inline: vec![body.clone()],
                            row: rows.then_some(RowTarget { directory: dk, device: DeviceIndex(0) }),
                        };
                        node.write_object(DeviceIndex(0), write).await.unwrap();
                    }
                })
            })
            .collect();
        for t in tasks {
            t.await.unwrap();
        }
        let s = begun.elapsed().as_secs_f64();
        println!("{writers} writers rows={rows}: {:.0}/s", (per * writers) as f64 / s);
        println!(
            "{}",
            std::fs::read_to_string("/proc/self/io")
                .unwrap()
                .lines()
                .filter(|l| l.starts_with("write_bytes") || l.starts_with("syscw"))
                .collect::<Vec<_>>()
                .join(" ")
        );
        let st = std::fs::read_to_string("/proc/self/stat").unwrap();
        let f: Vec<&str> = st.split(' ').collect();
        println!("cpu user {} sys {} (10ms)", f[13], f[14]);
    });
    node.shutdown();
}
