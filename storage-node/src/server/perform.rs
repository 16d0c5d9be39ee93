//! From a message to a method of the node.

use bytes::Bytes;
use kodiak_storage_api::remote::{Call, MAX_ENTRIES, Reply, Request};
use kodiak_storage_api::{
    BLOCK_SIZE, BlockWrite, DeviceIndex, ItemCopy, ItemKey, NodeError, ObjectKey, ObjectWrite, StorageNode,
};

use super::Server;

/// A reply and the bytes that go with it.
type Answer = Result<(Reply, Vec<Bytes>), NodeError>;

/// Makes the call.
pub(super) async fn perform(server: &Server, request: Request, payload: Vec<Bytes>) -> Answer {
    let node = server.node.as_ref();
    let find = |name: &str| {
        let missing = || NodeError::Unavailable(format!("{} has no device {name}", server.party.name()));
        node.device(name).ok_or_else(missing)
    };
    let device = find(&request.device)?;
    let row = request.row_device.as_deref().map(find).transpose()?;
    // The device of a row has another number here.
    let placed = |mut write: Box<ObjectWrite>, inline| {
        write.inline = inline;
        if let (Some(target), Some(device)) = (&mut write.row, row) {
            target.device = device;
        }
        *write
    };
    match request.call {
        Call::WriteObject(write) => done(node.write_object(device, placed(write, payload)).await),
        Call::LearnObject(write) => done(node.learn_object(device, placed(write, payload)).await),
        Call::Prepare { key, ballot, origin } => {
            say(node.prepare(device, key, ballot, origin).await, Reply::Promise)
        }
        Call::ReadObject { key, data } => read_object(node, device, key, data).await,
        Call::WriteBlock(block) => write_block(node, device, *block, payload).await,
        Call::ReadBlock { key, range } => {
            Ok((Reply::Bytes, vec![node.read_block(device, key, range).await?]))
        }
        Call::DeleteBlocks { keys } => done(node.delete_blocks(device, keys).await),
        Call::WriteDirectory(write) => {
            say(node.write_directory(device, *write).await, |(info, created)| Reply::Changed(info, created))
        }
        Call::ReadDirectory { key } => say(node.read_directory(device, key).await, Reply::Directory),
        Call::WriteRows { key, rows, durability } => {
            done(node.write_rows(device, key, rows, durability).await)
        }
        Call::ListRows { key, mut query } => {
            query.limit = query.limit.min(MAX_ENTRIES);
            say(node.list_rows(device, key, query).await, Reply::Page)
        }
        Call::NextWork { kind, now, limit } => {
            say(node.next_work(device, kind, now, limit.min(MAX_ENTRIES)).await, Reply::Work)
        }
        Call::FinishWork { kind, ids } => done(node.finish_work(device, kind, ids).await),
        Call::Digests { tree, partitions } => {
            say(node.digests(device, tree, partitions).await, Reply::Digests)
        }
        Call::Buckets { tree, partition } => say(node.buckets(device, tree, partition).await, Reply::Buckets),
        Call::Scan(mut query) => {
            query.limit = query.limit.min(MAX_ENTRIES);
            say(node.scan(device, query).await, Reply::Scanned)
        }
        Call::ReadItems { keys } => read_items(node, device, keys).await,
        Call::BlockInfos { keys } => say(node.block_infos(device, keys).await, Reply::BlockInfos),
        Call::Missing => say(node.missing(device).await, Reply::Missing),
        Call::Filled { tree, partitions } => done(node.filled(device, tree, partitions).await),
        Call::Forget { items } => say(node.forget(device, items).await, Reply::Forgotten),
    }
}

fn say<T>(result: Result<T, NodeError>, reply: impl FnOnce(T) -> Reply) -> Answer {
    result.map(|value| (reply(value), Vec::new()))
}

fn done(result: Result<(), NodeError>) -> Answer {
    say(result, |()| Reply::Done)
}

async fn read_object(node: &dyn StorageNode, device: DeviceIndex, key: ObjectKey, data: bool) -> Answer {
    let mut stored = node.read_object(device, key, data).await?;
    let bytes = stored.as_mut().and_then(|stored| stored.inline.take());
    let reply = Reply::Object { stored, inline: bytes.is_some() };
    Ok((reply, bytes.into_iter().collect()))
}

async fn write_block(
    node: &dyn StorageNode,
    device: DeviceIndex,
    mut block: BlockWrite,
    payload: Vec<Bytes>,
) -> Answer {
    if payload.iter().map(Bytes::len).sum::<usize>() > BLOCK_SIZE {
        return Err(NodeError::Unavailable(format!("a block has at most {BLOCK_SIZE} bytes")));
    }
    block.data = payload;
    done(node.write_block(device, block).await)
}

async fn read_items(node: &dyn StorageNode, device: DeviceIndex, keys: Vec<ItemKey>) -> Answer {
    let mut items = node.read_items(device, keys).await?;
    let contents = items.iter_mut().flatten().flatten().filter_map(ItemCopy::content);
    let contents: Vec<Bytes> = contents.map(std::mem::take).collect();
    let lengths = contents.iter().map(|content| content.len() as u32).collect();
    Ok((Reply::Items { items, lengths }, contents))
}
