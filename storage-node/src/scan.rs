//! Walking a volume needle by needle, past damaged spots.

use std::io;
use std::ops::ControlFlow;

use crate::needle::{self, ALIGN, HEADER_LEN, Head, Header, NeedleError};
use crate::volume::{FIRST_NEEDLE, Volume};

/// Bytes read ahead.
const WINDOW: usize = 1 << 20;

/// What a walk finds.
pub struct Found<'a> {
    /// Header, metadata and table, verified.
    pub head: Head<'a>,
    /// The data; not verified yet.
    pub data: &'a [u8],
}

/// A part of the file in memory.
struct Window<'v> {
    volume: &'v Volume,
    size: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// Makes `len` bytes from `offset` available; whether the file has them.
    fn load(&mut self, offset: u64, len: usize) -> io::Result<bool> {
        if offset + len as u64 > self.size {
            return Ok(false);
        }
        let inside = offset >= self.start && offset + len as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            let wanted = len.max(WINDOW).min((self.size - offset) as usize);
            self.bytes.resize(wanted, 0);
            self.volume.file.read_at(&mut self.bytes, offset)?;
            self.start = offset;
        }
        Ok(true)
    }

    fn get(&self, offset: u64, len: usize) -> &[u8] {
        let at = (offset - self.start) as usize;
        &self.bytes[at..at + len]
    }

    /// The next place from `offset` on where a needle may begin, if there is any.
    fn next_candidate(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        while self.load(offset, HEADER_LEN)? {
            let end = self.start + self.bytes.len() as u64;
            while offset + HEADER_LEN as u64 <= end {
                if needle::decode_header(
                    self.get(offset, HEADER_LEN),
                    (self.volume.number, offset),
                    self.volume.salt,
                )
                .is_ok()
                {
                    return Ok(Some(offset));
                }
                offset += ALIGN;
            }
            match self.volume.file.next_data(offset)? {
                Some(data) => offset = offset.max(data / ALIGN * ALIGN),
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Visits the needles of a volume from `from` on, with their data if `with_data`. A damaged needle is
/// reported and passed over; what follows it is still found. Answers the end of the last needle.
pub fn walk(
    volume: &Volume,
    from: u64,
    with_data: bool,
    mut visit: impl FnMut(Header, Result<Found<'_>, NeedleError>) -> ControlFlow<()>,
) -> io::Result<u64> {
    let mut window = Window { volume, size: volume.file.size()?, start: 0, bytes: Vec::new() };
    let mut offset = from.max(FIRST_NEEDLE);
    let mut end = offset;
    while let Some(at) = window.next_candidate(offset)? {
        let place = (volume.number, at);
        let Ok(header) = needle::decode_header(window.get(at, HEADER_LEN), place, volume.salt) else { break };
        let location = header.location;
        let wanted = if with_data { location.content_len() } else { location.head_len() };
        if !window.load(at, wanted)? {
            // Cut off by the end of the file: the tail of a group that was never acknowledged.
            offset = at + ALIGN;
            continue;
        }
        let bytes = window.get(at, wanted);
        let found = needle::decode_head(bytes, place, volume.salt)
            .map(|head| Found { head, data: &bytes[location.head_len()..] });
        (offset, end) = (location.end(), location.end());
        if visit(header, found).is_break() {
            break;
        }
    }
    Ok(end)
}
