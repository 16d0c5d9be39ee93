//! From a message to a method of the node.

use bytes::Bytes;
use kodiak_storage_api::remote::{Call, MAX_ENTRIES, Reply, Request};
use kodiak_storage_api::{BLOCK_SIZE, DeviceIndex, NodeError, StorageNode};

use super::Server;

/// Makes the call, and answers with the bytes that go with the reply.
pub(super) async fn perform(
    server: &Server,
    request: Request,
    payload: Vec<Bytes>,
) -> Result<(Reply, Vec<Bytes>), NodeError> {
    let node = server.node.as_ref();
    let find = |name: &str| {
        let missing = || NodeError::Unavailable(format!("{} has no device {name}", server.party.name()));
        node.device(name).ok_or_else(missing)
    };
    let device = find(&request.device)?;
    let row = request.row_device.as_deref().map(find).transpose()?;
    match request.call {
        Call::WriteObject(mut write) => {
            write.inline = payload;
            if let (Some(target), Some(device)) = (&mut write.row, row) {
                target.device = device;
            }
            done(node.write_object(device, *write).await)
        }
        Call::ReadObject { key, data } => {
            let mut stored = node.read_object(device, key, data).await?;
            let bytes = stored.as_mut().and_then(|stored| stored.inline.take());
            let reply = Reply::Object { stored, inline: bytes.is_some() };
            Ok((reply, bytes.into_iter().collect()))
        }
        Call::WriteBlock(mut block) => {
            if payload.iter().map(Bytes::len).sum::<usize>() > BLOCK_SIZE {
                return Err(NodeError::Unavailable(format!("a block has at most {BLOCK_SIZE} bytes")));
            }
            block.data = payload;
            done(node.write_block(device, *block).await)
        }
        Call::ReadBlock { key, range } => {
            Ok((Reply::Bytes, vec![node.read_block(device, key, range).await?]))
        }
        call => perform_plain(node, device, call).await.map(|reply| (reply, Vec::new())),
    }
}

/// The calls without bytes.
async fn perform_plain(node: &dyn StorageNode, device: DeviceIndex, call: Call) -> Result<Reply, NodeError> {
    Ok(match call {
        Call::Prepare { key, ballot, origin } => {
            Reply::Promise(node.prepare(device, key, ballot, origin).await?)
        }
        Call::DeleteBlocks { keys } => {
            node.delete_blocks(device, keys).await?;
            Reply::Done
        }
        Call::WriteDirectory(write) => {
            let (info, created) = node.write_directory(device, *write).await?;
            Reply::Changed(info, created)
        }
        Call::ReadDirectory { key } => Reply::Directory(node.read_directory(device, key).await?),
        Call::WriteRows { key, rows, durability } => {
            node.write_rows(device, key, rows, durability).await?;
            Reply::Done
        }
        Call::ListRows { key, mut query } => {
            query.limit = query.limit.min(MAX_ENTRIES);
            Reply::Page(node.list_rows(device, key, query).await?)
        }
        Call::NextWork { kind, now, limit } => {
            Reply::Work(node.next_work(device, kind, now, limit.min(MAX_ENTRIES)).await?)
        }
        Call::FinishWork { kind, ids } => {
            node.finish_work(device, kind, ids).await?;
            Reply::Done
        }
        Call::WriteObject(_) | Call::ReadObject { .. } | Call::WriteBlock(_) | Call::ReadBlock { .. } => {
            return Err(NodeError::Unavailable("a call with bytes came without".into()));
        }
    })
}

fn done(result: Result<(), NodeError>) -> Result<(Reply, Vec<Bytes>), NodeError> {
    result.map(|()| (Reply::Done, Vec::new()))
}
