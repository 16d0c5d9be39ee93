//! What travels: a message, and bytes that follow it.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | protocol version |
//! | 4 | length of the message, big-endian |
//! | … | the message in postcard: [`super::Request`] or [`super::Response`] |
//! | … | the payload, to the end: an object's or a block's bytes |
//!
//! The payload is not part of the message so that it is never copied into it or out of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, SizeHint};
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Versions, wire};

const HEAD: usize = 5;
/// Bytes of a usual message, which grows only beyond.
const USUAL: usize = 512;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than it says.
    #[error("the message ends early")]
    Short,
    /// Longer than may be.
    #[error("the message is longer than {0} bytes")]
    Long(usize),
    /// Of another version.
    #[error(
        "it is of version {theirs} of the nodes' protocol and this side speaks {ours}: upgrade {}",
        if *.theirs < .ours.oldest { "the sender" } else { "the receiver" }
    )]
    Version {
        /// The sender's.
        theirs: u8,
        /// Those that are read here.
        ours: Versions,
    },
    /// Of this version, but it means nothing.
    #[error("the message cannot be read: {0}")]
    Unreadable(String),
}

/// A message on its way out.
#[derive(Debug)]
pub struct Frame {
    /// Room for the head of a packet, and then what the frame begins with.
    pub(super) head: Vec<u8>,
    pub(super) payload: Vec<Bytes>,
}

impl Frame {
    /// A message and the bytes that follow it, in a version.
    pub fn new(message: &impl Serialize, payload: Vec<Bytes>, version: u8) -> Result<Frame, FrameError> {
        let unreadable = |error: postcard::Error| FrameError::Unreadable(error.to_string());
        let mut head = Vec::with_capacity(USUAL);
        head.resize(wire::HEAD + HEAD, 0);
        let mut head = postcard::to_extend(message, head).map_err(unreadable)?;
        let len = head.len() - wire::HEAD - HEAD;
        let len = u32::try_from(len).map_err(|_| FrameError::Long(u32::MAX as usize))?;
        head[wire::HEAD] = version;
        head[wire::HEAD + 1..wire::HEAD + HEAD].copy_from_slice(&len.to_be_bytes());
        Ok(Frame { head, payload })
    }

    /// The same in the version of the connection that takes it. All versions so far write it alike.
    pub(super) fn in_version(mut self, version: u8) -> Frame {
        self.head[wire::HEAD] = version;
        self
    }
}

/// A message that came.
#[derive(Debug)]
pub struct Received {
    version: u8,
    message: Bytes,
    /// What followed the message, in the pieces in which it came.
    pub payload: Vec<Bytes>,
}

impl Received {
    /// Finds the message in the pieces in which a frame came.
    pub fn split(pieces: Vec<Bytes>) -> Result<Received, FrameError> {
        let mut pieces: VecDeque<Bytes> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let head = take(&mut pieces, HEAD)?;
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let message = take(&mut pieces, len as usize)?;
        Ok(Received { version: head[0], message, payload: pieces.into() })
    }

    /// The version of the message.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Reads the message, if it is of one of these versions.
    pub fn read<M: DeserializeOwned>(&self, ours: Versions) -> Result<M, FrameError> {
        if !ours.contain(self.version) {
            return Err(FrameError::Version { theirs: self.version, ours });
        }
        postcard::from_bytes(&self.message).map_err(|error| FrameError::Unreadable(error.to_string()))
    }

    /// The payload in one piece: copied only if it came in several.
    pub fn joined(payload: Vec<Bytes>) -> Bytes {
        match <[Bytes; 1]>::try_from(payload) {
            Ok([only]) => only,
            Err(pieces) => {
                let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
                pieces.iter().for_each(|piece| all.extend_from_slice(piece));
                all.freeze()
            }
        }
    }
}

fn take(pieces: &mut VecDeque<Bytes>, len: usize) -> Result<Bytes, FrameError> {
    let there: usize = pieces.iter().map(Bytes::len).sum();
    if there < len {
        return Err(FrameError::Short);
    }
    let mut gathered = BytesMut::new();
    while gathered.len() < len {
        let mut first = pieces.pop_front().ok_or(FrameError::Short)?;
        let part = first.split_to(first.len().min(len - gathered.len()));
        if !first.is_empty() {
            pieces.push_front(first);
        }
        if part.len() == len {
            return Ok(part);
        }
        gathered.extend_from_slice(&part);
    }
    Ok(gathered.freeze())
}

/// Gathers a body of at most `limit` bytes, in the pieces in which it comes.
pub async fn collect<B>(mut body: B, limit: usize) -> Result<Received, FrameError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let (mut pieces, mut len) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FrameError::Unreadable(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        len += data.len();
        if len > limit {
            return Err(FrameError::Long(limit));
        }
        pieces.push(data);
    }
    Received::split(pieces)
}

/// A [`Frame`] as the body of a request or response.
#[derive(Debug, Default)]
pub struct Chunks {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl Chunks {
    /// Puts it into another version, as [`Frame::in_version`].
    pub(super) fn set_version(&mut self, version: u8) {
        if let Some(first) = self.pieces.front_mut().filter(|first| first.first() != Some(&version)) {
            let mut head = BytesMut::from(&first[..]);
            head[0] = version;
            *first = head.freeze();
        }
    }
}

impl From<Frame> for Chunks {
    fn from(frame: Frame) -> Chunks {
        let mut pieces = VecDeque::with_capacity(frame.payload.len() + 1);
        pieces.push_back(Bytes::from(frame.head).slice(wire::HEAD..));
        pieces.extend(frame.payload);
        Chunks { left: pieces.iter().map(|piece| piece.len() as u64).sum(), pieces }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(http_body::Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::{Request, Response};
    use proptest::prelude::*;

    fn wire(frame: Frame) -> Vec<u8> {
        let mut all = frame.head[wire::HEAD..].to_vec();
        frame.payload.iter().for_each(|piece| all.extend_from_slice(piece));
        all
    }

    #[test]
    fn the_first_bytes_are_the_version_and_the_length() {
        let frame = Frame::new(&("ab", 7u8), vec![Bytes::from_static(b"xyz")], 5).expect("a frame");
        let frame = frame.in_version(6);
        assert_eq!(wire(frame), [6, 0, 0, 0, 4, 2, b'a', b'b', 7, b'x', b'y', b'z']);
        let frame = Frame::new(&("ab", 7u8), vec![], 5).expect("a frame");
        let mut chunks = Chunks::from(frame);
        chunks.set_version(6);
        assert_eq!(chunks.pieces[0][..], [6, 0, 0, 0, 4, 2, b'a', b'b', 7]);
    }

    #[test]
    fn another_version_says_who_is_to_be_upgraded() {
        let ours = Versions { oldest: 3, newest: 4 };
        for (theirs, who) in [(2, "the sender"), (5, "the receiver")] {
            let received = Received::split(vec![Bytes::from(vec![theirs, 0, 0, 0, 0])]).expect("a frame");
            let error = received.read::<Request>(ours).expect_err("refused");
            assert!(error.to_string().ends_with(&format!("upgrade {who}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written_however_it_is_cut(
            text in ".{0,40}",
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 1usize..64,
        ) {
            let frame = Frame::new(&text, payload.chunks(50).map(Bytes::copy_from_slice).collect(), Versions::CURRENT.newest);
            let pieces = wire(frame.expect("a frame")).chunks(cut).map(Bytes::copy_from_slice).collect();
            let received = Received::split(pieces).expect("a frame");
            prop_assert_eq!(received.read::<String>(Versions::CURRENT), Ok(text));
            prop_assert_eq!(&Received::joined(received.payload)[..], &payload[..]);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(first) = bytes.first_mut() {
                *first = Versions::CURRENT.newest;
            }
            if bytes.len() > 5 {
                let len = (bytes.len() - 5) as u32;
                bytes[1..5].copy_from_slice(&len.to_be_bytes());
            }
            if let Ok(received) = Received::split(vec![bytes.into()]) {
                let _ = (received.read::<Request>(Versions::CURRENT), received.read::<Response>(Versions::CURRENT));
            }
        }
    }
}
