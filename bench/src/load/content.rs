//! What objects hold, so that every answer can be checked: 16 bytes of number and generation, then a slice
//! of one random buffer whose place follows from both.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};

use crate::random::{Random, mix};
use crate::units::Sizes;

/// Bytes of number and generation.
const HEADER: usize = 16;
/// Slices begin within this many bytes.
const SPREAD: u64 = 1 << 20;
/// The buffer holds at most this much more; larger objects go around it.
const LARGEST_SLICE: u64 = 64 << 20;

/// One object in one of its generations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object {
    /// Names it.
    pub number: u64,
    /// Grows with every write of it.
    pub generation: u64,
}

impl Object {
    fn header(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&self.number.to_le_bytes());
        header[8..].copy_from_slice(&self.generation.to_le_bytes());
        header
    }

    fn from_header(header: [u8; HEADER]) -> Object {
        let whole = u128::from_le_bytes(header);
        Object { number: whole as u64, generation: (whole >> 64) as u64 }
    }
}

/// The content of all objects of a seed.
#[derive(Clone, Debug)]
pub struct Content {
    seed: u64,
    sizes: Sizes,
    buffer: Bytes,
}

impl Content {
    /// The content of a seed.
    pub fn new(seed: u64, sizes: Sizes) -> Content {
        let length = SPREAD + sizes.largest().min(LARGEST_SLICE);
        Content { seed, buffer: Random::new(seed).bytes(length as usize).into(), sizes }
    }

    /// Bytes of an object, whatever its generation.
    pub fn size(&self, number: u64) -> u64 {
        self.sizes.of(self.seed, number)
    }

    /// The body of an object.
    pub fn payload(&self, object: Object) -> Payload {
        let size = self.size(object.number);
        let head = Bytes::copy_from_slice(&object.header()[..HEADER.min(size as usize)]);
        let left = size - head.len() as u64;
        Payload { head, buffer: self.buffer.clone(), place: self.place(object), left }
    }

    /// Checks an answer for an object.
    pub fn verifier(&self, object: Object) -> Verifier<'_> {
        Verifier {
            content: self,
            object,
            size: self.size(object.number),
            done: 0,
            header: [0; HEADER],
            place: 0,
            wrong: None,
        }
    }

    fn place(&self, object: Object) -> usize {
        (mix(self.seed ^ mix(object.number) ^ object.generation) % SPREAD) as usize
    }
}

/// A body without copies: slices of the shared buffer.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    head: Bytes,
    buffer: Bytes,
    place: usize,
    left: u64,
}

impl Payload {
    /// Bytes that are left.
    pub fn remaining(&self) -> u64 {
        self.head.len() as u64 + self.left
    }

    /// SHA-256 of what is left.
    pub fn sha256(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut copy = self.clone();
        while let Some(slice) = copy.next_slice() {
            digest.update(&slice);
        }
        digest.finalize().into()
    }

    fn next_slice(&mut self) -> Option<Bytes> {
        if !self.head.is_empty() {
            return Some(std::mem::take(&mut self.head));
        }
        if self.left == 0 {
            return None;
        }
        let length = (self.buffer.len() - self.place).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let slice = self.buffer.slice(self.place..self.place + length);
        self.left -= length as u64;
        self.place = 0;
        Some(slice)
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next_slice().map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining())
    }
}

/// What is wrong with an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// Whole and right, but of another generation than the last one that was written.
    Stale,
    /// Bytes that were never written to this object.
    Corrupt(String),
}

/// Compares an answer with what was written, piece by piece.
#[derive(Debug)]
pub struct Verifier<'a> {
    content: &'a Content,
    object: Object,
    size: u64,
    done: u64,
    header: [u8; HEADER],
    place: usize,
    wrong: Option<Wrong>,
}

impl Verifier<'_> {
    /// The next piece.
    pub fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let taken = match self.done {
                done if done < HEADER as u64 => self.feed_header(data),
                _ => self.feed_slice(data),
            };
            self.done += taken as u64;
            data = &data[taken..];
        }
    }

    /// The answer has ended: its length, or what is wrong with it.
    pub fn finish(mut self) -> Result<u64, Wrong> {
        if self.size < HEADER as u64 {
            let (want, size) = (self.object.header(), self.size as usize);
            let same = self.done == self.size && self.header[..size.min(8)] == want[..size.min(8)];
            return if same { Ok(self.size) } else { Err(Wrong::Corrupt("wrong bytes".into())) };
        }
        if self.done != self.size {
            self.corrupt(format!("{} bytes in place of {}", self.done, self.size));
        }
        self.wrong.map_or(Ok(self.size), Err)
    }

    fn feed_header(&mut self, data: &[u8]) -> usize {
        let begin = self.done as usize;
        let taken = data.len().min(HEADER - begin);
        self.header[begin..begin + taken].copy_from_slice(&data[..taken]);
        if begin + taken == HEADER {
            let found = Object::from_header(self.header);
            if found.number != self.object.number {
                self.corrupt(format!("holds object {} in place of {}", found.number, self.object.number));
            } else if found.generation != self.object.generation {
                self.wrong = Some(Wrong::Stale);
            }
            self.place = self.content.place(found);
        }
        taken
    }

    fn feed_slice(&mut self, data: &[u8]) -> usize {
        let buffer = &self.content.buffer;
        let taken = data.len().min(buffer.len() - self.place);
        if data[..taken] != buffer[self.place..self.place + taken] {
            self.corrupt(format!("wrong bytes after byte {}", self.done));
        }
        self.place = (self.place + taken) % buffer.len();
        taken
    }

    fn corrupt(&mut self, how: String) {
        if !matches!(self.wrong, Some(Wrong::Corrupt(_))) {
            self.wrong = Some(Wrong::Corrupt(how));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: &Content, object: Object) -> Vec<u8> {
        let mut payload = content.payload(object);
        let mut bytes = Vec::new();
        while let Some(slice) = payload.next_slice() {
            bytes.extend_from_slice(&slice);
        }
        bytes
    }

    fn check(content: &Content, object: Object, data: &[u8], step: usize) -> Result<u64, Wrong> {
        let mut verifier = content.verifier(object);
        data.chunks(step).for_each(|piece| verifier.feed(piece));
        verifier.finish()
    }

    #[test]
    fn right_bytes_pass_however_they_are_cut() {
        for size in [0, 1, 8, 15, 16, 17, 4096, 3 << 20, (64 << 20) + (2 << 20) + 5] {
            let content = Content::new(3, Sizes::one(size));
            let object = Object { number: 77, generation: 5 };
            let data = bytes(&content, object);
            assert_eq!(data.len() as u64, size);
            for step in [7, 16, 4096, 1 << 30] {
                if step > 7 || size < 1 << 20 {
                    assert_eq!(check(&content, object, &data, step), Ok(size), "{size} by {step}");
                }
            }
        }
    }

    #[test]
    fn wrong_bytes_are_seen() {
        let content = Content::new(3, Sizes::one(4096));
        let object = Object { number: 77, generation: 5 };
        let good = bytes(&content, object);
        for place in [0, 7, 16, 17, 2000, 4095] {
            let mut bad = good.clone();
            bad[place] ^= 1;
            assert!(matches!(check(&content, object, &bad, 1000), Err(Wrong::Corrupt(_))), "{place}");
        }
        assert!(matches!(check(&content, object, &good[..4095], 100), Err(Wrong::Corrupt(_))));
        let long = [good.as_slice(), b"x"].concat();
        assert!(matches!(check(&content, object, &long, 100), Err(Wrong::Corrupt(_))));
        let other = bytes(&content, Object { number: 78, generation: 5 });
        assert!(matches!(check(&content, object, &other, 100), Err(Wrong::Corrupt(_))));
        assert!(matches!(check(&content, object, b"", 100), Err(Wrong::Corrupt(_))));
    }

    #[test]
    fn an_older_generation_is_stale_and_not_corrupt() {
        let content = Content::new(3, Sizes::one(4096));
        let old = bytes(&content, Object { number: 77, generation: 4 });
        assert_eq!(check(&content, Object { number: 77, generation: 5 }, &old, 100), Err(Wrong::Stale));
        let mut torn = old.clone();
        torn[2048..].copy_from_slice(&bytes(&content, Object { number: 77, generation: 5 })[2048..]);
        let verdict = check(&content, Object { number: 77, generation: 5 }, &torn, 100);
        assert!(matches!(verdict, Err(Wrong::Corrupt(_))));
    }

    #[test]
    fn the_digest_is_that_of_the_body() {
        let content = Content::new(3, Sizes::one(5000));
        let object = Object { number: 1, generation: 2 };
        let want: [u8; 32] = Sha256::digest(bytes(&content, object)).into();
        assert_eq!(content.payload(object).sha256(), want);
    }
}
