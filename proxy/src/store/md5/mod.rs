//! MD5 of uploads, off the threads that serve: the ETag of both APIs, and the most that a large PUT costs.
//!
//! A thread of its own goes over the blocks of all uploads side by side ([`lanes`]); a block that comes while
//! others are under way joins them.

mod lanes;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use md5_simd::{Md5, STATE_INIT};
use tokio::sync::oneshot;

use super::StoreError;
use lanes::{LANES, State};

/// Bodies up to this size are hashed where they are: ~70 µs, less than a hand-over to another thread.
const AT_ONCE: usize = 64 * 1024;
/// Bytes of each stream between looks for more streams: whole blocks, a fifth of a millisecond.
const STRIDE: usize = 128 * 1024;

/// MD5 of pieces that are in memory.
pub(super) async fn md5(pieces: Vec<Bytes>, length: usize) -> Result<([u8; 16], Vec<Bytes>), StoreError> {
    let hash = move || {
        let mut md5 = Md5::new();
        pieces.iter().for_each(|piece| md5.update(piece));
        (md5.finalize(), pieces)
    };
    if length <= AT_ONCE {
        return Ok(hash());
    }
    let broken = |error: tokio::task::JoinError| StoreError::Unavailable(format!("hashing: {error}"));
    tokio::task::spawn_blocking(hash).await.map_err(broken)
}

/// The MD5 of an upload so far.
pub(super) struct Md5Stream {
    state: State,
    length: u64,
    /// What follows the last whole 64 bytes. Nothing comes after it.
    tail: Bytes,
}

impl Md5Stream {
    pub(super) fn new() -> Md5Stream {
        Md5Stream { state: STATE_INIT, length: 0, tail: Bytes::new() }
    }

    /// The digest: a one, zeros, and the length in bits fill the last 64 bytes (RFC 1321, 3.1).
    pub(super) fn finalize(mut self) -> [u8; 16] {
        let mut last = self.tail.to_vec();
        last.push(0x80);
        last.resize((last.len() + 8).next_multiple_of(64) - 8, 0);
        last.extend_from_slice(&self.length.wrapping_mul(8).to_le_bytes());
        md5_simd::hazmat::compress_blocks(&mut self.state, &last);
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

/// The MD5 of an upload that is hashed block after block, each in its own task.
pub(super) enum Md5Chain {
    /// All blocks so far are in.
    Ready(Md5Stream),
    /// The last block is being hashed.
    Pending(oneshot::Receiver<Md5Stream>),
}

impl Md5Chain {
    /// Waits for the blocks before.
    pub(super) async fn stream(self) -> Result<Md5Stream, StoreError> {
        match self {
            Md5Chain::Ready(stream) => Ok(stream),
            Md5Chain::Pending(receiver) => {
                receiver.await.map_err(|_| StoreError::Unavailable("the upload was given up".into()))
            }
        }
    }
}

/// Bytes that a stream is to go over.
struct Job {
    state: State,
    /// Whole blocks of 64 bytes.
    data: Bytes,
    done: oneshot::Sender<State>,
}

/// The threads that hash.
pub(super) struct Hashers {
    /// Unbounded: the blocks of uploads are (see [`super::buffers`]).
    jobs: Sender<Job>,
}

impl Hashers {
    /// One thread for each four processors: with more, streams would be spread over threads rather than lanes.
    pub(super) fn start() -> Hashers {
        let (jobs, waiting) = unbounded();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for number in 0..processors.div_ceil(4) {
            let waiting = waiting.clone();
            let thread = std::thread::Builder::new().name(format!("md5-{number}"));
            if let Err(error) = thread.spawn(move || run(&waiting)) {
                tracing::error!(%error, "a hashing thread could not be started");
            }
        }
        Hashers { jobs }
    }

    /// Goes on over `data`. Only the last piece of a stream may be other than whole blocks of 64 bytes.
    pub(super) async fn update(&self, stream: Md5Stream, data: Bytes) -> Result<Md5Stream, StoreError> {
        debug_assert!(stream.tail.is_empty(), "a stream goes on after its last piece");
        let whole = data.len() / 64 * 64;
        let (length, tail) = (stream.length + data.len() as u64, data.slice(whole..));
        let (done, state) = oneshot::channel();
        let gone = || StoreError::Unavailable("no thread hashes".into());
        let job = Job { state: stream.state, data: data.slice(..whole), done };
        self.jobs.send(job).map_err(|_| gone())?;
        let state = state.await.map_err(|_| gone())?;
        Ok(Md5Stream { state, length, tail })
    }
}

/// Hashes until nobody can send any more.
fn run(waiting: &Receiver<Job>) {
    let mut jobs: Vec<Job> = Vec::with_capacity(LANES);
    loop {
        if jobs.is_empty() {
            let Ok(job) = waiting.recv() else { return };
            jobs.push(job);
        }
        jobs.extend(waiting.try_iter().take(LANES - jobs.len()));
        let stride = jobs.iter().map(|job| job.data.len()).min().unwrap_or(0).min(STRIDE);
        let mut pieces: Vec<Bytes> = jobs.iter_mut().map(|job| job.data.split_to(stride)).collect();
        let mut streams: Vec<(&mut State, &[u8])> =
            jobs.iter_mut().map(|job| &mut job.state).zip(pieces.iter().map(|piece| &piece[..])).collect();
        lanes::advance(&mut streams);
        pieces.clear();
        for job in jobs.extract_if(.., |job| job.data.is_empty()) {
            // Nobody waits if the upload was given up.
            let _ = job.done.send(job.state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_side_by_side_have_the_digests_of_their_bytes() {
        let hashers = Hashers::start();
        let lengths = [0, 1, 55, 56, 63, 64, 65, 300_000, 1_000_001, 64, 130, 2_000_000];
        let digest = async |length: usize| {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
            let cut = length / 2 / 64 * 64;
            let mut stream = Md5Stream::new();
            for piece in [&bytes[..cut], &bytes[cut..]] {
                stream = hashers.update(stream, Bytes::copy_from_slice(piece)).await.expect("hashed");
            }
            assert_eq!(stream.finalize(), md5_simd::digest(&bytes), "{length} bytes");
        };
        futures_util::future::join_all(lengths.map(digest)).await;
    }
}
