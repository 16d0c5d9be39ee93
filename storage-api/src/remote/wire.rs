//! A connection for messages: many calls at once over one TLS stream.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | length of all that follows, big-endian |
//! | 1 | what it is: [`Kind`] |
//! | 4 | number of the call, by which its answer is known, big-endian |
//! | … | of a call or an answer: a [`Frame`]; of a refusal: its reason in words |
//!
//! The server speaks first, with [`Kind::Alive`]: with TLS 1.3 a caller learns only so that its certificate was
//! taken. Whoever has heard nothing for a while asks with [`Kind::Ping`].
//!
//! What several calls have to send is sealed and written together: with small messages the cost is in the records,
//! system calls and wake-ups, which HTTP/2 has for each message by itself.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::Frame;

/// Bytes before what a packet carries.
pub(super) const HEAD: usize = 9;
/// Bytes of the length, which does not count itself.
const LEN: usize = 4;
/// Bytes that are read at once.
const READ: usize = 64 << 10;
/// Packets that are gathered into one write, at most.
const GATHER: usize = 64;
/// Packets that wait to be written; who has one more waits. Each is of one call, and calls have limits.
const WAITING: usize = 64;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A [`super::Request`].
    Call = 1,
    /// A [`super::Response`].
    Answer = 2,
    /// The call is not made, by what the caller is or says.
    Refused = 3,
    /// The call is not made: there are too many.
    Overloaded = 4,
    /// Nobody waits for the answer any more.
    Cancel = 5,
    /// Is anybody there?
    Ping = 6,
    /// Yes.
    Alive = 7,
    /// No more calls, please: the server is about to stop. Those that were sent are answered.
    Leaving = 8,
}

impl Kind {
    fn read(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Call, Answer, Refused, Overloaded, Cancel, Ping, Alive, Leaving]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }
}

/// A packet on its way out.
#[derive(Debug)]
pub struct Packet {
    head: Bytes,
    payload: Vec<Bytes>,
}

impl Packet {
    /// A call or an answer.
    pub fn message(kind: Kind, call: u32, frame: Frame) -> Packet {
        let Frame { mut head, payload } = frame;
        let len = head.len() - LEN + payload.iter().map(Bytes::len).sum::<usize>();
        seal(&mut head, len, kind, call);
        Packet { head: head.into(), payload }
    }

    /// Words, or nothing.
    pub fn words(kind: Kind, call: u32, words: &str) -> Packet {
        let mut head = [&[0; HEAD], words.as_bytes()].concat();
        let len = head.len() - LEN;
        seal(&mut head, len, kind, call);
        Packet { head: head.into(), payload: Vec::new() }
    }
}

/// Fills in the head of a packet. No packet is near 4 GiB: frames have a limit far below.
fn seal(head: &mut [u8], len: usize, kind: Kind, call: u32) {
    let mut head = &mut head[..HEAD];
    head.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    head.put_u8(kind as u8);
    head.put_u32(call);
}

/// A packet that came.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrived {
    /// What it is.
    pub kind: Kind,
    /// Which call it is about.
    pub call: u32,
    /// What it carries.
    pub body: Bytes,
}

/// What one side of a connection has to say.
pub type Outbox = mpsc::Sender<Packet>;

/// Where packets are put, and where [`write()`] finds them.
pub fn outbox() -> (Outbox, mpsc::Receiver<Packet>) {
    mpsc::channel(WAITING)
}

/// Writes packets until nobody can send any more.
pub async fn write(mut to: impl AsyncWrite + Unpin, mut packets: mpsc::Receiver<Packet>) -> io::Result<()> {
    let mut some = Vec::with_capacity(GATHER);
    let mut queue = Queue::default();
    while packets.recv_many(&mut some, GATHER).await > 0 {
        // Who was woken together with the first sender has something to send too, in a moment.
        tokio::task::yield_now().await;
        while some.len() < GATHER
            && let Ok(packet) = packets.try_recv()
        {
            some.push(packet);
        }
        some.drain(..).for_each(|packet| queue.push(packet));
        to.write_all_buf(&mut queue).await?;
        to.flush().await?;
    }
    to.shutdown().await
}

/// Reads packets from one side of a connection.
pub struct Reader<R> {
    from: R,
    came: BytesMut,
    limit: usize,
    received: u64,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Packets of more than `limit` bytes are an error.
    pub fn new(from: R, limit: usize) -> Reader<R> {
        Reader { from, came: BytesMut::with_capacity(READ), limit: limit + HEAD, received: 0 }
    }

    /// Whether there is a part of a packet, of which the rest is to come.
    pub fn is_amid(&self) -> bool {
        !self.came.is_empty()
    }

    /// Bytes that have come so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next packet; `None` after the last. Given up, it goes on where it was.
    pub async fn next(&mut self) -> io::Result<Option<Arrived>> {
        loop {
            if let Some(packet) = self.take()? {
                return Ok(Some(packet));
            }
            let received = self.from.read_buf(&mut self.came).await?;
            self.received += received as u64;
            if received == 0 {
                let amid = self.is_amid();
                return if amid { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
            }
        }
    }

    /// A packet that is there in whole. If there is none, there is room for more of it.
    fn take(&mut self) -> io::Result<Option<Arrived>> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut wanted = HEAD;
        if let Some(&[a, b, c, d]) = self.came.get(..LEN) {
            wanted = LEN + u32::from_be_bytes([a, b, c, d]) as usize;
            if !(HEAD..=self.limit).contains(&wanted) {
                return Err(invalid(format!("a packet of {wanted} bytes, of at most {}", self.limit)));
            }
        }
        if self.came.len() < wanted {
            // Large ones come in one piece of memory, small ones share one.
            self.came.reserve((wanted - self.came.len()).max(READ / 4));
            return Ok(None);
        }
        let mut body = self.came.split_to(wanted).freeze();
        body.advance(LEN);
        let kind = body.get_u8();
        let kind = Kind::read(kind).ok_or_else(|| invalid(format!("a packet of no known kind: {kind}")))?;
        Ok(Some(Arrived { kind, call: body.get_u32(), body }))
    }
}

/// Bytes in pieces that are written together.
#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    left: usize,
}

impl Queue {
    fn push(&mut self, packet: Packet) {
        for piece in std::iter::once(packet.head).chain(packet.payload).filter(|piece| !piece.is_empty()) {
            self.left += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

impl Buf for Queue {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        while let Some(first) = self.pieces.front_mut() {
            if count < first.len() {
                return first.advance(count);
            }
            count -= first.len();
            self.pieces.pop_front();
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = self.pieces.iter().zip(slices).map(|(piece, slice)| *slice = IoSlice::new(piece));
        filled.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn read_all(bytes: Vec<u8>, limit: usize) -> io::Result<Vec<Arrived>> {
        let mut reader = Reader::new(&bytes[..], limit);
        let mut all = Vec::new();
        while let Some(packet) = reader.next().await? {
            all.push(packet);
        }
        Ok(all)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn a_packet_begins_with_its_length_kind_and_call() {
        let packet = Packet::words(Kind::Refused, 0x0102_0304, "no");
        assert_eq!(packet.head[..], [0, 0, 0, 7, 3, 1, 2, 3, 4, b'n', b'o']);
    }

    #[test]
    fn a_packet_that_is_too_long_or_of_no_kind_ends_the_connection() {
        let long = Packet::words(Kind::Refused, 1, "too long").head.to_vec();
        let error = run(read_all(long, 7)).expect_err("refused");
        assert_eq!(error.to_string(), "a packet of 17 bytes, of at most 16");
        let odd = vec![0, 0, 0, 5, 99, 0, 0, 0, 0];
        assert_eq!(run(read_all(odd, 7)).expect_err("refused").to_string(), "a packet of no known kind: 99");
        let short = vec![0, 0, 0, 1, 1];
        assert!(run(read_all(short, 7)).is_err());
        let cut = vec![0, 0, 0];
        assert_eq!(run(read_all(cut, 7)).expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn packets_are_read_as_they_were_written_however_they_are_cut(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..9),
            cut in 1usize..64,
        ) {
            let read = run(async {
                let (ours, theirs) = tokio::io::duplex(cut);
                let (outbox, packets) = outbox();
                for (call, payload) in payloads.iter().enumerate() {
                    let pieces = payload.chunks(50).map(Bytes::copy_from_slice).collect();
                    let frame = Frame::new(&7u8, pieces, 1).expect("a frame");
                    outbox.try_send(Packet::message(Kind::Call, call as u32, frame)).expect("room");
                }
                drop(outbox);
                let mut reader = Reader::new(theirs, 1000);
                let reading = async {
                    let mut all = Vec::new();
                    while let Some(packet) = reader.next().await.expect("whole") {
                        all.push(packet);
                    }
                    all
                };
                let (written, read) = tokio::join!(write(ours, packets), reading);
                written.expect("written");
                read
            });
            prop_assert_eq!(read.len(), payloads.len());
            for (call, (packet, payload)) in read.iter().zip(&payloads).enumerate() {
                prop_assert_eq!((packet.kind, packet.call), (Kind::Call, call as u32));
                prop_assert_eq!(&packet.body[6..], &payload[..]);
            }
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = run(read_all(bytes, 1000));
        }
    }
}
