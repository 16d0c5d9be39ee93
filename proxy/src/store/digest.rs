//! Digests of what is uploaded, off the threads that serve.

use bytes::Bytes;
use md5_simd::Md5;
use tokio::sync::oneshot;

use super::StoreError;

/// Bodies up to this size are hashed where they are: ~70 µs, less than a hand-over to another thread.
const INLINE_HASH: usize = 64 * 1024;

/// MD5 of pieces that are in memory.
pub(super) async fn md5(pieces: Vec<Bytes>, length: usize) -> Result<([u8; 16], Vec<Bytes>), StoreError> {
    let hash = move || {
        let mut md5 = Md5::new();
        pieces.iter().for_each(|piece| md5.update(piece));
        (md5.finalize(), pieces)
    };
    if length <= INLINE_HASH {
        return Ok(hash());
    }
    tokio::task::spawn_blocking(hash).await.map_err(broken)
}

/// The MD5 of an upload that is hashed block after block, each in its own task.
pub(super) enum Md5Chain {
    /// All blocks so far are in.
    Ready(Md5),
    /// The last block is being hashed.
    Pending(oneshot::Receiver<Md5>),
}

impl Md5Chain {
    pub(super) fn new() -> Md5Chain {
        Md5Chain::Ready(Md5::new())
    }

    /// Waits for the blocks before.
    pub(super) async fn state(self) -> Result<Md5, StoreError> {
        match self {
            Md5Chain::Ready(md5) => Ok(md5),
            Md5Chain::Pending(receiver) => {
                receiver.await.map_err(|_| StoreError::Unavailable("the upload was given up".into()))
            }
        }
    }
}

/// Continues the upload's MD5 over a block.
pub(super) async fn continue_md5(mut md5: Md5, data: Bytes) -> Result<Md5, StoreError> {
    let hash = move || {
        md5.update(&data);
        md5
    };
    tokio::task::spawn_blocking(hash).await.map_err(broken)
}

fn broken(error: tokio::task::JoinError) -> StoreError {
    StoreError::Unavailable(format!("hashing: {error}"))
}
