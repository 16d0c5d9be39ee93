//! Two regions with a slow way between them: what crosses it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use kodiak_proxy::store::{NewObject, Precondition, SharedStore, WriteAffinity};
use kodiak_storage_api::{ObjectPath, PolicyIndex};
use tokio::time::{Instant, sleep};

use crate::link::CROSSING;
use crate::world::{Mutation, World};

const POLICY: PolicyIndex = PolicyIndex(0);
/// Nodes of even number are in the first region, and the first proxy; the second proxy is in the other one.
const NODES: usize = 6;
const OBJECTS: usize = 20;
const SIZE: usize = 300_000;

fn path(number: usize) -> ObjectPath {
    ObjectPath::new("a", "c", &number.to_string())
}

/// How many of an object's record replicas are near a proxy.
fn near(world: &World, proxy: usize, path: &ObjectPath) -> usize {
    let map = world.proxy_at(proxy).current_map();
    let key = map.object(path, POLICY).expect("a key");
    let replicas = map.object_replicas(POLICY, key.place()).expect("replicas");
    let is_near = |node: usize| {
        let of = map.node(&format!("n{node}")).expect("a node").clone();
        !world.is_far(proxy, node) && replicas.iter().any(|replica| Arc::ptr_eq(&replica.node, &of))
    };
    (0..NODES).filter(|node| is_near(*node)).count()
}

/// What a step took, and how often it crossed.
async fn counted<T>(world: &World, step: impl Future<Output = T>) -> (T, Duration, usize) {
    let (before, begun) = (world.crossings.load(Relaxed), Instant::now());
    let done = step.await;
    (done, begun.elapsed(), world.crossings.load(Relaxed) - before)
}

async fn stage(store: &SharedStore, path: &ObjectPath, fill: usize) -> kodiak_proxy::store::Staged {
    let mut upload = store.upload(path.clone(), POLICY, true);
    upload.write(Bytes::from(vec![fill as u8; SIZE])).await.expect("written");
    upload.finish().await.expect("staged")
}

fn simulated(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(run);
}

async fn two_regions() -> Arc<World> {
    let world = World::of_regions(1, NODES, Mutation::default(), 2);
    world.proxy_at(0).create_container("a", "c", POLICY, Vec::new()).await.expect("a container");
    sleep(Duration::from_secs(2)).await;
    world
}

#[test]
fn reads_stay_in_the_region_where_it_has_enough_replicas() {
    simulated(async {
        let world = two_regions().await;
        for number in 0..OBJECTS {
            let store = world.proxy_at(0);
            let staged = stage(&store, &path(number), number).await;
            store.commit(staged, NewObject::default(), Precondition::None).await.expect("stored");
        }
        sleep(Duration::from_secs(2)).await;
        let mut local = 0;
        for (proxy, number) in [0, 1].into_iter().flat_map(|proxy| (0..OBJECTS).map(move |n| (proxy, n))) {
            let (store, majority) = (world.proxy_at(proxy), near(&world, proxy, &path(number)) >= 2);
            let (object, took, crossed) = counted(&world, store.open(&path(number), POLICY)).await;
            let object = object.expect("there");
            // The record is read from two of three replicas, and one region has two.
            assert_eq!(crossed, usize::from(!majority), "record of {number} from proxy {proxy}");
            assert_eq!(took >= 2 * CROSSING, !majority);
            local += usize::from(majority);
            // Of a block one copy is enough, and each region has one.
            let read = object.read(0..SIZE as u64).try_collect::<Vec<Bytes>>();
            let (bytes, took, crossed) = counted(&world, read).await;
            assert_eq!(bytes.expect("bytes").concat(), vec![number as u8; SIZE]);
            assert!(crossed == 0 && took < CROSSING, "blocks of {number} from proxy {proxy}: {crossed}");
        }
        assert_eq!(local, OBJECTS, "each record has its majority in one of the regions");
        world.close();
    });
}

#[test]
fn with_a_write_affinity_blocks_stay_in_the_region_at_first() {
    simulated(async {
        let world = two_regions().await;
        let store = world.proxy_at(0);
        for (areas, most) in [("r1", 0), ("", 2)] {
            store.set_write_affinity(WriteAffinity::try_from(areas.to_owned()).expect("areas"));
            let mut crossed = 0;
            for number in 0..OBJECTS {
                let (staged, _, more) = counted(&world, stage(&store, &path(number), number)).await;
                crossed += more;
                store.commit(staged, NewObject::default(), Precondition::None).await.expect("stored");
                // The last replicas get it in the background.
                sleep(Duration::from_secs(1)).await;
                let object = world.proxy_at(1).open(&path(number), POLICY).await.expect("there");
                let bytes = object.read(0..SIZE as u64).try_collect::<Vec<Bytes>>().await.expect("bytes");
                assert_eq!(bytes.concat(), vec![number as u8; SIZE], "from the other region");
            }
            assert_eq!(crossed > 0, most > 0, "{areas:?}: {crossed} calls for blocks have crossed");
        }
        world.close();
    });
}

#[test]
fn where_the_near_devices_fail_blocks_go_to_others() {
    simulated(async {
        let world = two_regions().await;
        let store = world.proxy_at(0);
        store.set_write_affinity(WriteAffinity::try_from("r1".to_owned()).expect("an area"));
        for node in [0, 2] {
            world.nodes[node].set_full(true).await;
        }
        let (staged, _, crossed) = counted(&world, stage(&store, &path(0), 7)).await;
        assert!(crossed > 0, "one near device is no majority");
        for node in [0, 2] {
            world.nodes[node].set_full(false).await;
        }
        store.commit(staged, NewObject::default(), Precondition::None).await.expect("stored");
        let object = world.proxy_at(1).open(&path(0), POLICY).await.expect("there");
        let bytes = object.read(0..SIZE as u64).try_collect::<Vec<Bytes>>().await.expect("bytes");
        assert_eq!(bytes.concat(), vec![7; SIZE]);
        world.close();
    });
}
