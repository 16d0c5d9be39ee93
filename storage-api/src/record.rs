//! What is stored of an object.

use serde::{Deserialize, Serialize};

use crate::{BLOCK_SIZE, DataId, ObjectPath, Row, Timestamp, VersionId};

/// The newest write of an object's name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Version {
    /// The object as it is.
    Live(ObjectRecord),
    /// A tombstone: deleted at this time.
    Deleted(Timestamp),
    /// A tombstone of a name whose extents another record has taken over, so that they stay.
    Moved(Timestamp),
}

/// An object's metadata and where its bytes are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// When it was written (data or metadata): `Last-Modified`. Versions are ordered by [`crate::Stamp`].
    pub timestamp: Timestamp,
    /// Bytes of the object.
    pub size: u64,
    /// As answered, without quotes: MD5 in hex, or S3's `md5-of-md5s-N`.
    pub etag: String,
    /// `Content-Type`.
    pub content_type: String,
    /// Every other stored header, names in lower case. Swift's names are used: user metadata is
    /// `x-object-meta-*`; `x-object-sysmeta-*` is never shown to clients.
    pub headers: Vec<(String, String)>,
    /// Extra fields of its listing row (see [`Row::extra`]).
    pub listing: Vec<(String, String)>,
    /// Seconds since 1970 at which the object ends, if it does.
    pub expires_at: Option<u64>,
    /// Where the bytes are.
    pub layout: Layout,
}

/// Where an object's bytes are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Layout {
    /// In the record's own needle.
    Inline,
    /// In blocks: the concatenation of these extents.
    Extents(Vec<Extent>),
    /// In a record of its own, a version of the same object: this record says which one is the current.
    /// Its other fields are the version's, so that a listing shows it, but for the headers, which are
    /// the version's alone.
    Version(VersionId),
}

/// The bytes of one upload (an object, or one part of a multipart upload): blocks 0, 1, … of
/// [`BLOCK_SIZE`] bytes, the last one shorter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// The upload.
    pub data: DataId,
    /// Bytes in all.
    pub len: u64,
}

impl Extent {
    /// How many blocks it has.
    pub fn blocks(&self) -> u32 {
        self.len.div_ceil(BLOCK_SIZE as u64) as u32
    }

    /// Bytes of block `index`.
    pub fn block_len(&self, index: u32) -> usize {
        let start = u64::from(index) * BLOCK_SIZE as u64;
        (self.len - start).min(BLOCK_SIZE as u64) as usize
    }
}

impl ObjectRecord {
    /// The value of a stored header (lower-case name).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether the object has ended at `now` (seconds since 1970).
    pub fn expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

impl Version {
    /// When it was written.
    pub fn timestamp(&self) -> Timestamp {
        match self {
            Version::Live(record) => record.timestamp,
            Version::Deleted(at) | Version::Moved(at) => *at,
        }
    }

    /// The record, unless deleted.
    pub fn live(&self) -> Option<&ObjectRecord> {
        match self {
            Version::Live(record) => Some(record),
            Version::Deleted(_) | Version::Moved(_) => None,
        }
    }

    /// The listing row that shows this version; rows are ordered by their versions' ballots.
    pub fn row(&self, path: &ObjectPath, ballot: Timestamp) -> Row {
        let name = path.object().to_owned();
        match self {
            Version::Live(record) => {
                let mut row = Row {
                    name,
                    timestamp: ballot,
                    deleted: false,
                    objects: 1,
                    bytes: record.size,
                    etag: record.etag.clone(),
                    content_type: record.content_type.clone(),
                    extra: record.listing.clone(),
                };
                if let Layout::Version(id) = record.layout {
                    row.link(id);
                }
                row
            }
            Version::Deleted(_) | Version::Moved(_) => Row::tombstone(name, ballot),
        }
    }
}
