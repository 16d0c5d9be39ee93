//! The needle: one self-describing record of a volume. Version 2.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | magic `KDN2` |
//! | 4 | format version, 2 |
//! | 5 | kind: 1 object, 2 block, 3 blocks deleted, 4 directory, 5 rows, 6 forgotten |
//! | 6..8 | zero |
//! | 8..12 | number of the volume, little-endian as all numbers |
//! | 12..16 | bytes of the metadata |
//! | 16..24 | offset of the needle in the volume |
//! | 24..28 | bytes of the data |
//! | 28..32 | CRC-32 of the metadata |
//! | 32..36 | CRC-32 of the checksum table |
//! | 36..44 | zero |
//! | 44..48 | CRC-32 of bytes 0..44 |
//! | 48.. | metadata ([postcard](https://postcard.jamesmunns.com/wire-format) of the kind's struct, and zeros if the data is to begin at a page) |
//! | then | checksum table: CRC-32 of each 64 KiB of the data |
//! | then | data |
//! | then | zeros up to a multiple of 64 |
//!
//! The CRCs of header, metadata and table begin from the volume's random salt: a needle that a user
//! hides in an object's data is never taken for one, and neither is one of an older volume.

use bytes::Bytes;
use kodiak_storage_api::{
    BlockKey, CHECKSUM_CHUNK, Directory, DirectoryKey, Item, ObjectKey, ObjectPath, Row, Stamp, Timestamp,
    Version,
};
use serde::{Deserialize, Serialize};

/// Bytes of the fixed part.
pub const HEADER_LEN: usize = 48;
/// Needles begin at multiples of this.
pub const ALIGN: u64 = 64;
/// Metadata larger than this is refused: it bounds what a reader allocates on a damaged length.
/// Holds a record of 10,000 multipart parts and 90 headers with room to spare.
pub const MAX_META: usize = 4 * 1024 * 1024;

/// Pages of files and of memory that a disk takes without a copy.
pub const PAGE: usize = 4096;
/// Data from here on is worth a page-aligned place: below it, the padding would cost more than the copy.
const PAGES_FROM: usize = 64 * 1024;

const MAGIC: [u8; 4] = *b"KDN2";
const VERSION: u8 = 2;

/// What a needle holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A version of an object, with its inline data.
    Object = 1,
    /// A block.
    Block = 2,
    /// Blocks that are gone.
    BlocksDeleted = 3,
    /// The state of an account or container.
    Directory = 4,
    /// Listing rows that are not derived from an object's needle on the same node.
    Rows = 5,
    /// Items that this device need not have any more.
    Forgotten = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Object,
            2 => Kind::Block,
            3 => Kind::BlocksDeleted,
            4 => Kind::Directory,
            5 => Kind::Rows,
            6 => Kind::Forgotten,
            _ => return None,
        })
    }
}

/// Metadata of [`Kind::Object`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct ObjectMeta {
    /// Where it is placed.
    pub key: ObjectKey,
    /// Its name.
    pub path: ObjectPath,
    /// The version.
    pub version: Version,
    /// Which write it is, and its place in the order.
    pub stamp: Stamp,
    /// The container whose row goes with it.
    pub row: Option<DirectoryKey>,
}

/// [`ObjectMeta`] by reference, the same bytes.
#[derive(Serialize)]
pub struct ObjectMetaRef<'a> {
    /// Where it is placed.
    pub key: &'a ObjectKey,
    /// Its name.
    pub path: &'a ObjectPath,
    /// The version.
    pub version: &'a Version,
    /// Which write it is, and its place in the order.
    pub stamp: Stamp,
    /// The container whose row goes with it.
    pub row: Option<DirectoryKey>,
}

/// Metadata of [`Kind::Block`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct BlockMeta {
    /// Where it is placed.
    pub key: BlockKey,
    /// The object or part it was uploaded for.
    pub owner: ObjectPath,
    /// BLAKE3 of the data.
    pub digest: [u8; 32],
    /// When it was written.
    pub written: Timestamp,
}

/// Metadata of [`Kind::BlocksDeleted`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct BlocksDeleted {
    /// The blocks.
    pub keys: Vec<BlockKey>,
}

/// Metadata of [`Kind::Directory`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct DirectoryMeta {
    /// Where it is placed.
    pub key: DirectoryKey,
    /// Its state after the change.
    pub directory: Directory,
}

/// Metadata of [`Kind::Rows`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct RowsMeta {
    /// The directory.
    pub key: DirectoryKey,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// Metadata of [`Kind::Forgotten`].
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Forgotten {
    /// The items, as they were.
    pub items: Vec<Item>,
}

/// Where a needle lies, and the lengths that a reader needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct Location {
    /// Number of the volume.
    pub volume: u32,
    /// Offset in it.
    pub offset: u64,
    /// Bytes of metadata.
    pub meta_len: u32,
    /// Bytes of data.
    pub data_len: u32,
}

impl Location {
    /// Bytes of the checksum table.
    pub fn table_len(&self) -> usize {
        (self.data_len as usize).div_ceil(CHECKSUM_CHUNK) * 4
    }

    /// Bytes before the data: header, metadata and table.
    pub fn head_len(&self) -> usize {
        HEADER_LEN + self.meta_len as usize + self.table_len()
    }

    /// Bytes without the padding.
    pub fn content_len(&self) -> usize {
        self.head_len() + self.data_len as usize
    }

    /// Bytes it takes up in the volume.
    pub fn padded_len(&self) -> u64 {
        (self.content_len() as u64).next_multiple_of(ALIGN)
    }

    /// Offset of the data.
    pub fn data_offset(&self) -> u64 {
        self.offset + self.head_len() as u64
    }

    /// Offset of what follows.
    pub fn end(&self) -> u64 {
        self.offset + self.padded_len()
    }
}

/// Why bytes are not the needle they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NeedleError {
    /// No needle begins here.
    #[error("no needle header")]
    NoHeader,
    /// Metadata or table do not match their checksums or lengths.
    #[error("damaged metadata")]
    Metadata,
    /// Data does not match its checksum.
    #[error("damaged data in chunk {0}")]
    Data(usize),
}

/// The first CRC state of a volume, from its salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub u32);

impl Salt {
    fn crc(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// CRC-32 of each [`CHECKSUM_CHUNK`] of data that comes in frames of any size.
pub fn append_checksums(frames: &[Bytes], table: &mut Vec<u8>) {
    let mut hasher = crc32fast::Hasher::new();
    let mut room = CHECKSUM_CHUNK;
    for frame in frames {
        let mut rest = &frame[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(room));
            hasher.update(now);
            room -= now.len();
            rest = later;
            if room == 0 {
                table.extend_from_slice(&std::mem::take(&mut hasher).finalize().to_le_bytes());
                room = CHECKSUM_CHUNK;
            }
        }
    }
    if room < CHECKSUM_CHUNK {
        table.extend_from_slice(&hasher.finalize().to_le_bytes());
    }
}

/// The data, where it lies in page-aligned memory, so that its needle places it at a page of the volume.
pub fn page_aligned(data: &[Bytes]) -> Option<&Bytes> {
    let [frame] = data else { return None };
    (frame.len() >= PAGES_FROM && frame.as_ptr().addr().is_multiple_of(PAGE)).then_some(frame)
}

/// Appends everything before the data to `out`: header, metadata, table. `location.meta_len` and
/// `data_len` need not be set; the complete location is returned.
pub fn encode_head<M: Serialize>(
    kind: Kind,
    at: (u32, u64),
    salt: Salt,
    meta: &M,
    data: &[Bytes],
    out: &mut Vec<u8>,
) -> Result<Location, postcard::Error> {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    let mut bytes = postcard::to_extend(meta, std::mem::take(out))?;
    if let Some(frame) = page_aligned(data) {
        let table = frame.len().div_ceil(CHECKSUM_CHUNK) * 4;
        let begins = at.1 as usize + bytes.len() - start + table;
        bytes.resize(bytes.len() + begins.next_multiple_of(PAGE) - begins, 0);
    }
    let meta_end = bytes.len();
    append_checksums(data, &mut bytes);
    let location = Location {
        volume: at.0,
        offset: at.1,
        meta_len: (meta_end - start - HEADER_LEN) as u32,
        data_len: data.iter().map(Bytes::len).sum::<usize>() as u32,
    };
    let meta_crc = salt.crc(&bytes[start + HEADER_LEN..meta_end]);
    let table_crc = salt.crc(&bytes[meta_end..]);
    let header = header_bytes(kind, &location, salt, meta_crc, table_crc);
    bytes[start..start + HEADER_LEN].copy_from_slice(&header);
    *out = bytes;
    Ok(location)
}

fn header_bytes(
    kind: Kind,
    location: &Location,
    salt: Salt,
    meta_crc: u32,
    table_crc: u32,
) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0..4].copy_from_slice(&MAGIC);
    header[4] = VERSION;
    header[5] = kind as u8;
    header[8..12].copy_from_slice(&location.volume.to_le_bytes());
    header[12..16].copy_from_slice(&location.meta_len.to_le_bytes());
    header[16..24].copy_from_slice(&location.offset.to_le_bytes());
    header[24..28].copy_from_slice(&location.data_len.to_le_bytes());
    header[28..32].copy_from_slice(&meta_crc.to_le_bytes());
    header[32..36].copy_from_slice(&table_crc.to_le_bytes());
    let crc = salt.crc(&header[..44]);
    header[44..48].copy_from_slice(&crc.to_le_bytes());
    header
}

/// A verified header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it holds.
    pub kind: Kind,
    /// Where it lies.
    pub location: Location,
    meta_crc: u32,
    table_crc: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads the header of the needle that should lie at `at`.
pub fn decode_header(bytes: &[u8], at: (u32, u64), salt: Salt) -> Result<Header, NeedleError> {
    if bytes.len() < HEADER_LEN || bytes[..4] != MAGIC || bytes[4] != VERSION {
        return Err(NeedleError::NoHeader);
    }
    let low = u64::from(u32_at(bytes, 16));
    let location = Location {
        volume: u32_at(bytes, 8),
        offset: low | u64::from(u32_at(bytes, 20)) << 32,
        meta_len: u32_at(bytes, 12),
        data_len: u32_at(bytes, 24),
    };
    let fits = location.meta_len as usize <= MAX_META && (location.volume, location.offset) == at;
    if !fits || salt.crc(&bytes[..44]) != u32_at(bytes, 44) {
        return Err(NeedleError::NoHeader);
    }
    let kind = Kind::from_byte(bytes[5]).ok_or(NeedleError::NoHeader)?;
    Ok(Header { kind, location, meta_crc: u32_at(bytes, 28), table_crc: u32_at(bytes, 32) })
}

/// A needle's verified metadata and checksum table.
pub struct Head<'a> {
    /// The header.
    pub header: Header,
    /// Metadata, still encoded.
    pub meta: &'a [u8],
    table: &'a [u8],
}

impl Head<'_> {
    /// Verifies data that begins at chunk `first` and ends at a chunk's end or the data's.
    pub fn verify(&self, first: usize, data: &[u8]) -> Result<(), NeedleError> {
        for (i, chunk) in data.chunks(CHECKSUM_CHUNK).enumerate() {
            let at = (first + i) * 4;
            if at + 4 > self.table.len() || crc32fast::hash(chunk) != u32_at(self.table, at) {
                return Err(NeedleError::Data(first + i));
            }
        }
        Ok(())
    }

    /// Decodes the metadata.
    pub fn decode<'de, M: Deserialize<'de>>(&'de self) -> Result<M, NeedleError> {
        postcard::from_bytes(self.meta).map_err(|_| NeedleError::Metadata)
    }
}

/// Verifies everything before the data; `bytes` begins at the needle and holds its whole head.
pub fn decode_head(bytes: &[u8], at: (u32, u64), salt: Salt) -> Result<Head<'_>, NeedleError> {
    let header = decode_header(bytes, at, salt)?;
    let meta_end = HEADER_LEN + header.location.meta_len as usize;
    let head_end = header.location.head_len();
    if bytes.len() < head_end {
        return Err(NeedleError::Metadata);
    }
    let (meta, table) = (&bytes[HEADER_LEN..meta_end], &bytes[meta_end..head_end]);
    if salt.crc(meta) != header.meta_crc || salt.crc(table) != header.table_crc {
        return Err(NeedleError::Metadata);
    }
    Ok(Head { header, meta, table })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kodiak_storage_api::KeyHash;
    use proptest::prelude::*;

    fn rows(n: u8) -> RowsMeta {
        let key = DirectoryKey { hash: KeyHash([n; 16]) };
        RowsMeta { key, rows: vec![Row::tombstone("gone".into(), Timestamp::from_micros(5, 1))] }
    }

    fn encode(data: &[Bytes]) -> (Location, Vec<u8>) {
        let mut out = Vec::new();
        let location = encode_head(Kind::Rows, (3, 128), Salt(9), &rows(1), data, &mut out).unwrap();
        data.iter().for_each(|frame| out.extend_from_slice(frame));
        (location, out)
    }

    #[test]
    fn the_format_does_not_change_by_accident() {
        let (_, bytes) = encode(&[Bytes::from_static(b"data")]);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let golden = include_str!("needle.golden").trim();
        assert_eq!(hex, golden, "the on-disk format changed: raise VERSION and read both");
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let (location, bytes) = encode(&[Bytes::from(vec![1; 70_000]), Bytes::from(vec![2; 70_000])]);
        let head = decode_head(&bytes, (3, 128), Salt(9)).unwrap();
        assert_eq!(head.header.location, location);
        assert_eq!(head.decode::<RowsMeta>().unwrap(), rows(1));
        head.verify(0, &bytes[location.head_len()..]).unwrap();
        head.verify(1, &bytes[location.head_len() + CHECKSUM_CHUNK..]).unwrap();
    }

    #[test]
    fn data_of_aligned_memory_begins_at_a_page_and_its_metadata_reads_as_before() {
        let memory = vec![7; 3 * PAGES_FROM];
        let skip = memory.as_ptr().align_offset(PAGE);
        let data = Bytes::from(memory).slice(skip..skip + 2 * PAGES_FROM - 5);
        let (location, bytes) = encode(std::slice::from_ref(&data));
        assert!(location.data_offset().is_multiple_of(PAGE as u64));
        let head = decode_head(&bytes, (3, 128), Salt(9)).unwrap();
        assert_eq!(head.decode::<RowsMeta>().unwrap(), rows(1));
        head.verify(0, &data).unwrap();
    }

    #[test]
    fn a_needle_of_another_place_or_salt_is_none() {
        let (_, bytes) = encode(&[]);
        for (at, salt) in [((3, 64), Salt(9)), ((2, 128), Salt(9)), ((3, 128), Salt(8))] {
            assert_eq!(decode_head(&bytes, at, salt).err(), Some(NeedleError::NoHeader));
        }
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_found(len in 0usize..140_000, bit in any::<prop::sample::Index>()) {
            let (location, mut bytes) = encode(&[Bytes::from(vec![0x5a; len])]);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = match decode_head(&bytes, (3, 128), Salt(9)) {
                Ok(head) => head.verify(0, &bytes[location.head_len()..]).is_err(),
                Err(_) => true,
            };
            prop_assert!(found);
        }
    }
}
