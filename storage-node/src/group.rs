//! A group: the needles that one write and one sync make durable together.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::ops::Range;

use bytes::Bytes;
use kodiak_storage_api::{
    BlockKey, BlockWrite, DirectoryInfo, DirectoryKey, DirectoryWrite, ItemKey, NodeError, ObjectKey,
    ObjectWrite, Promise, Row, Timestamp,
};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::directories::{Checked, Fence};
use crate::index::{BlockEntry, ObjectEntry};
use crate::needle::{self, Forgotten, Kind, Location};
use crate::quarantine::Damage;
use crate::volume::Tail;

/// The answer to a request goes here.
pub type Done<T> = oneshot::Sender<Result<T, NodeError>>;

/// What the writer of a device is asked to do.
pub enum Request {
    /// Store a version.
    Object(Box<ObjectWrite>, Done<()>),
    /// Store a version that has taken effect.
    Learn(Box<ObjectWrite>, Done<()>),
    /// Promise a ballot of an object, and say what is known of a write's origin.
    Prepare(ObjectKey, (Timestamp, Timestamp), Done<Promise>),
    /// Store a block.
    Block(Box<BlockWrite>, Done<()>),
    /// Delete blocks.
    DeleteBlocks(Vec<BlockKey>, Done<()>),
    /// Change an account or container.
    Directory(DirectoryWrite, Done<(DirectoryInfo, bool)>),
    /// Put rows, durably by themselves.
    Rows(DirectoryKey, Vec<Row>, Fence, Done<()>),
    /// Copy a live needle out of a volume that is to go.
    Move(Box<Move>, Done<()>),
    /// Drop items that are still these; answers how many.
    Forget(Forgotten, Done<usize>),
    /// Answer a damaged item no more.
    Quarantine(Box<Damage>, Done<()>),
}

/// A live needle of a volume that is being compacted.
pub struct Move {
    /// What it holds.
    pub kind: Kind,
    /// Where it was read.
    pub from: Location,
    /// Its metadata, as stored.
    pub meta: Vec<u8>,
    /// Its verified data.
    pub data: Bytes,
}

/// A request whose needle is in the group.
pub enum Item {
    /// See [`Request::Object`].
    Object { write: Box<ObjectWrite>, location: Location, old: Option<ObjectEntry>, done: Done<()> },
    /// See [`Request::Block`].
    Block { key: BlockKey, location: Location, old: Option<BlockEntry>, done: Done<()> },
    /// See [`Request::DeleteBlocks`].
    DeleteBlocks { keys: Vec<BlockKey>, done: Done<()> },
    /// See [`Request::Directory`].
    Directory { key: DirectoryKey, checked: Checked, location: Location, done: Done<(DirectoryInfo, bool)> },
    /// See [`Request::Rows`].
    Rows { key: DirectoryKey, rows: Vec<Row>, fence: Fence, done: Done<()> },
    /// See [`Request::Move`].
    Move { moved: Box<Move>, location: Location, done: Done<()> },
    /// See [`Request::Forget`].
    Forget { forgotten: Forgotten, done: Done<usize> },
    /// See [`Request::Quarantine`].
    Quarantine { damage: Box<Damage>, done: Done<()> },
}

impl Item {
    /// Answers that the group failed.
    pub fn fail(self, error: NodeError) {
        // A receiver that is gone has given up waiting.
        match self {
            Item::Directory { done, .. } => drop(done.send(Err(error))),
            Item::Forget { done, .. } => drop(done.send(Err(error))),
            Item::Object { done, .. }
            | Item::Block { done, .. }
            | Item::DeleteBlocks { done, .. }
            | Item::Rows { done, .. }
            | Item::Move { done, .. }
            | Item::Quarantine { done, .. } => drop(done.send(Err(error))),
        }
    }
}

/// A name that may stand only once in a group, since its check reads the index.
#[derive(PartialEq, Eq, Hash)]
pub enum Name {
    /// An object.
    Object(ObjectKey),
    /// A directory.
    Directory(DirectoryKey),
    /// A block.
    Block(BlockKey),
}

impl Request {
    /// The names whose state in the index this request is checked against.
    pub fn names(&self) -> Vec<Name> {
        let item = |key: &ItemKey| match key {
            ItemKey::Object(key) => Some(Name::Object(*key)),
            ItemKey::Block(key) => Some(Name::Block(*key)),
            ItemKey::Directory(key) => Some(Name::Directory(*key)),
            // Rows are checked when they are applied, under their directory's lock.
            ItemKey::Row(..) => None,
        };
        match self {
            Request::Object(write, _) | Request::Learn(write, _) => vec![Name::Object(write.key)],
            Request::Prepare(key, ..) => vec![Name::Object(*key)],
            Request::Block(block, _) => vec![Name::Block(block.key)],
            Request::DeleteBlocks(keys, _) => keys.iter().map(|key| Name::Block(*key)).collect(),
            Request::Directory(write, _) => vec![Name::Directory(write.key)],
            Request::Forget(forgotten, _) => forgotten.items.iter().filter_map(|i| item(&i.key)).collect(),
            Request::Quarantine(damage, _) => item(&damage.key).into_iter().collect(),
            Request::Rows(..) | Request::Move(..) => Vec::new(),
        }
    }
}

enum Piece {
    /// Header, metadata, table or padding, in the arena.
    Head(Range<usize>),
    /// A frame of data, as it came from the client.
    Frame(Bytes),
    /// Whole pages of data in page-aligned memory, to be written at a page.
    Pages(Bytes),
}

/// Needles that are written together.
#[derive(Default)]
pub struct Group {
    arena: Vec<u8>,
    pieces: Vec<Piece>,
    /// The requests, in the order of their needles.
    pub items: Vec<Item>,
    /// Versions that are stored already: only their rows may be missing.
    pub stored: Vec<(Box<ObjectWrite>, Done<()>)>,
    /// Names that are in it.
    pub names: HashSet<Name>,
    /// It holds moves, and nothing else.
    pub moves: bool,
    start: u64,
    end: u64,
}

const ZEROS: [u8; needle::ALIGN as usize] = [0; needle::ALIGN as usize];

impl Group {
    /// An empty group at the tail; keeps the buffers of the last one.
    pub fn begin(&mut self, tail: &Tail) {
        self.arena.clear();
        self.pieces.clear();
        self.names.clear();
        (_, self.start) = tail.position();
        self.end = self.start;
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Offset after its last needle.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Adds a needle if there is room for it. Its data is not copied.
    pub fn add<M: Serialize>(
        &mut self,
        tail: &mut Tail,
        kind: Kind,
        meta: &M,
        data: &[Bytes],
        urgent: bool,
    ) -> Result<Location, NodeError> {
        let Some(volume) = tail.volume() else { return Err(NodeError::Unavailable("no open volume".into())) };
        let (number, salt, begin) = (volume.number, volume.salt, self.arena.len());
        let encoded = needle::encode_head(kind, (number, self.end), salt, meta, data, &mut self.arena);
        let location = encoded.map_err(|error| NodeError::Corrupt(format!("cannot encode: {error}")))?;
        if location.meta_len as usize > needle::MAX_META {
            self.arena.truncate(begin);
            return Err(NodeError::Corrupt("metadata is larger than any reader accepts".into()));
        }
        if let Err(error) = tail.ensure(location.end(), urgent) {
            self.arena.truncate(begin);
            return Err(error);
        }
        self.pieces.push(Piece::Head(begin..self.arena.len()));
        match needle::page_aligned(data) {
            Some(frame) => {
                let pages = frame.len() / needle::PAGE * needle::PAGE;
                self.pieces.push(Piece::Pages(frame.slice(..pages)));
                self.pieces.push(Piece::Frame(frame.slice(pages..)));
            }
            None => self.pieces.extend(data.iter().map(|frame| Piece::Frame(frame.clone()))),
        }
        let padding = location.padded_len() as usize - location.content_len();
        let begin = self.arena.len();
        self.arena.extend_from_slice(&ZEROS[..padding]);
        self.pieces.push(Piece::Head(begin..self.arena.len()));
        self.end = location.end();
        Ok(location)
    }

    /// Writes and syncs the group: after `Ok` every needle of it is on stable storage.
    pub fn write(&self, tail: &Tail) -> io::Result<()> {
        let Some(volume) = tail.volume() else { return Err(io::ErrorKind::NotFound.into()) };
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(self.pieces.len());
        // Where `slices` begin, and where the next piece goes.
        let (mut begin, mut at) = (self.start, self.start);
        for piece in &self.pieces {
            let bytes = match piece {
                Piece::Head(range) => &self.arena[range.clone()],
                Piece::Frame(bytes) | Piece::Pages(bytes) => bytes,
            };
            if matches!(piece, Piece::Pages(_)) {
                volume.file.write_at(&mut slices, begin)?;
                slices.clear();
                volume.file.write_pages_at(bytes, at)?;
                begin = at + bytes.len() as u64;
            } else if !bytes.is_empty() {
                slices.push(IoSlice::new(bytes));
            }
            at += bytes.len() as u64;
        }
        volume.file.write_at(&mut slices, begin)?;
        volume.file.sync()
    }

    /// Lets go of the clients' data as soon as it is written.
    pub fn release(&mut self) {
        self.pieces.clear();
    }
}
