//! Memory of blocks on their way to the devices: in pages, so that a device takes it without a copy, bounded
//! in all, and used again, so that the kernel need not clear new pages for each block.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kodiak_storage_api::BLOCK_SIZE;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::StoreError;

/// Bytes of all uploads together that are held in memory while their blocks are hashed and written.
const ALL: usize = 256 << 20;
/// How long an upload waits for a buffer before it is told that the store is too busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// A client that takes longer to fill a buffer gives it up when there is none left for others.
const SLOW: Duration = Duration::from_secs(60);
/// Buffers that stay when nobody needs them: what a few uploads keep busy.
const IDLE: usize = 8;
/// Alignment of memory that is written past the page cache.
const PAGE: usize = 4096;

type Idle = Arc<Mutex<Vec<Vec<u8>>>>;

/// The buffers of a store.
pub(super) struct Buffers {
    room: Arc<Semaphore>,
    idle: Idle,
}

/// Room for one block.
pub(super) struct Buffer {
    memory: Vec<u8>,
    begin: usize,
    len: usize,
    blake3: blake3::Hasher,
    idle: Idle,
    taken: Instant,
    room: OwnedSemaphorePermit,
}

impl Buffers {
    pub(super) fn new() -> Buffers {
        Buffers { room: Arc::new(Semaphore::new(ALL / BLOCK_SIZE)), idle: Idle::default() }
    }

    /// An empty buffer; waits while all are in use.
    pub(super) async fn take(&self) -> Result<Buffer, StoreError> {
        let room = tokio::time::timeout(PATIENCE, self.room.clone().acquire_owned()).await;
        let Ok(Ok(room)) = room else { return Err(StoreError::Overloaded) };
        let memory = self.idle.lock().pop().unwrap_or_else(|| vec![0; BLOCK_SIZE + PAGE]);
        let begin = memory.as_ptr().align_offset(PAGE);
        let (blake3, idle) = (blake3::Hasher::new(), self.idle.clone());
        Ok(Buffer { memory, begin, len: 0, blake3, idle, taken: Instant::now(), room })
    }
}

impl Buffer {
    /// Copies what fits and hashes it while the processor's cache has it (a tenth of a millisecond a
    /// mebibyte, less than a hand-over to another thread); the rest comes back.
    pub(super) fn push<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (now, later) = bytes.split_at(bytes.len().min(BLOCK_SIZE - self.len));
        let at = self.begin + self.len;
        self.memory[at..at + now.len()].copy_from_slice(now);
        self.blake3.update(now);
        self.len += now.len();
        later
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == BLOCK_SIZE
    }

    /// Whether it has been filling for too long while others wait.
    pub(super) fn is_overdue(&self) -> bool {
        self.room.semaphore().available_permits() == 0 && self.taken.elapsed() > SLOW
    }

    /// BLAKE3 of its content.
    pub(super) fn blake3(&self) -> [u8; 32] {
        *self.blake3.finalize().as_bytes()
    }

    /// Its content; the memory comes back when the last clone is dropped.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_buffer_is_page_aligned_holds_a_block_and_is_used_again() {
        let buffers = Buffers::new();
        let mut buffer = buffers.take().await.expect("room");
        let bytes = vec![7; BLOCK_SIZE - 1];
        assert!(buffer.push(&bytes).is_empty() && !buffer.is_full());
        assert_eq!(buffer.push(&[1, 2, 3]), [2, 3]);
        assert!(buffer.is_full());
        let content = buffer.freeze();
        assert!(content.as_ptr().addr().is_multiple_of(PAGE));
        assert_eq!((content.len(), content[BLOCK_SIZE - 1]), (BLOCK_SIZE, 1));
        drop(content);
        assert_eq!(buffers.idle.lock().len(), 1);
        assert_eq!(buffers.room.available_permits(), ALL / BLOCK_SIZE);
    }
}
