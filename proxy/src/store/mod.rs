//! The typed object API: what Swift and S3 have in common.
//!
//! A write is an [`Upload`] (bytes in, nothing visible) and then [`Store::commit`]. A read is
//! [`Store::open`] and then [`OpenObject::read`]. Accounts and containers are directories.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use kodiak_ring::PlacementKey;
use kodiak_storage_api::{
    Clock, DirectoryInfo, Extent, ListQuery, ObjectPath, ObjectRecord, Page, PolicyIndex, Timestamp,
};

/// Why an operation of the store was refused or failed; each front renders it in its own protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The account does not exist.
    #[error("no such account")]
    NoAccount,
    /// The container does not exist.
    #[error("no such container")]
    NoContainer,
    /// The object does not exist (or has expired).
    #[error("no such object")]
    NoObject,
    /// A container with objects cannot be deleted.
    #[error("the container is not empty")]
    NotEmpty,
    /// A condition of the request does not hold.
    #[error("a precondition failed")]
    PreconditionFailed,
    /// Another write of the same object won.
    #[error("a newer write of the object exists")]
    Conflict,
    /// No room.
    #[error("insufficient storage")]
    Full,
    /// No intact replica of the data is left.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// Too much is waiting; try again.
    #[error("too busy")]
    Overloaded,
    /// A majority of the replicas did not answer.
    #[error("a majority of replicas does not answer: {0}")]
    Unavailable(String),
}

/// What must hold of the current version for a write to happen; checked atomically with it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// `If-None-Match: *`: there is no object.
    Absent,
    /// `If-Match`: there is an object with one of these ETags (`*`: any).
    Matches(Vec<String>),
    /// `If-None-Match` with ETags: there is no object with one of these.
    MatchesNone(Vec<String>),
    /// The newest version is exactly this one (the expirer's delete).
    Is(Timestamp),
}

/// Everything of a new object but its bytes.
#[derive(Clone, Debug, Default)]
pub struct NewObject {
    /// `Content-Type`.
    pub content_type: String,
    /// Stored headers (see [`ObjectRecord::headers`]).
    pub headers: Vec<(String, String)>,
    /// Extra fields of the listing row.
    pub listing: Vec<(String, String)>,
    /// Seconds since 1970 at which it ends.
    pub expires_at: Option<u64>,
    /// ETag to answer in place of the content's MD5 (S3 multipart).
    pub etag: Option<String>,
    /// When given (Swift's `X-Timestamp` of trusted callers); else the store's clock.
    pub timestamp: Option<Timestamp>,
}

/// Where things lie: the rings and the key that hashes names.
pub struct Placement {
    /// Hashes names.
    pub key: PlacementKey,
    /// Ring of the accounts.
    pub accounts: kodiak_ring::Ring,
    /// Ring of the containers.
    pub containers: kodiak_ring::Ring,
    /// One ring a policy, by [`PolicyIndex`].
    pub objects: Vec<kodiak_ring::Ring>,
}

/// The coordinator of all reads and writes.
pub struct Store {}

/// Bytes on their way in. Nothing of it is visible before [`Store::commit`]; dropped without a
/// commit, what it has stored is deleted in the background.
pub struct Upload {}

/// A complete upload.
pub struct Staged {}

/// An object that is being read. Its bytes are those of one version, whatever happens meanwhile.
pub struct OpenObject {}

/// A stream of an object's bytes; ends with an error rather than with wrong bytes.
pub type ByteStream = BoxStream<'static, Result<Bytes, StoreError>>;

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Store {
    pub fn clock(&self) -> &Clock {
        todo!()
    }

    /// Creates an account or sets headers of it; whether it is new.
    pub async fn create_account(
        &self,
        account: &str,
        headers: Vec<(String, String)>,
    ) -> Result<bool, StoreError> {
        todo!()
    }
    pub async fn account(&self, account: &str) -> Result<DirectoryInfo, StoreError> {
        todo!()
    }
    pub async fn update_account(
        &self,
        account: &str,
        headers: Vec<(String, String)>,
    ) -> Result<(), StoreError> {
        todo!()
    }
    /// Deletes an account that has no containers ([`StoreError::NotEmpty`] otherwise).
    pub async fn delete_account(&self, account: &str) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn list_containers(&self, account: &str, query: ListQuery) -> Result<Page, StoreError> {
        todo!()
    }

    /// Creates a container (its account must exist) or sets headers of it; whether it is new.
    pub async fn create_container(
        &self,
        account: &str,
        container: &str,
        policy: PolicyIndex,
        headers: Vec<(String, String)>,
    ) -> Result<(DirectoryInfo, bool), StoreError> {
        todo!()
    }
    pub async fn container(&self, account: &str, container: &str) -> Result<DirectoryInfo, StoreError> {
        todo!()
    }
    pub async fn update_container(
        &self,
        account: &str,
        container: &str,
        headers: Vec<(String, String)>,
    ) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn delete_container(&self, account: &str, container: &str) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn list_objects(
        &self,
        account: &str,
        container: &str,
        query: ListQuery,
    ) -> Result<Page, StoreError> {
        todo!()
    }

    /// Begins an upload. `policy` is the container's. `expected` is the length if it is known.
    /// With `always_blocks`, even a small body goes to blocks (multipart parts, which are assembled).
    pub fn upload(
        &self,
        path: ObjectPath,
        policy: PolicyIndex,
        expected: Option<u64>,
        always_blocks: bool,
    ) -> Upload {
        todo!()
    }
    /// Makes an upload the newest version of its path.
    pub async fn commit(
        &self,
        staged: Staged,
        object: NewObject,
        condition: Precondition,
    ) -> Result<ObjectRecord, StoreError> {
        todo!()
    }
    /// Makes the concatenation of extents that other records (multipart parts) hold the newest
    /// version of `path`, without touching their bytes. `object.etag` must be given. Afterwards the
    /// parts' records are removed with [`Store::forget`], which leaves their extents alone.
    pub async fn assemble(
        &self,
        path: ObjectPath,
        policy: PolicyIndex,
        extents: Vec<Extent>,
        object: NewObject,
        condition: Precondition,
    ) -> Result<ObjectRecord, StoreError> {
        todo!()
    }
    /// Replaces headers and listing fields without touching the bytes. `change` gets the current
    /// record, edits `content_type`, `headers`, `listing` and `expires_at`, and may refuse.
    pub async fn update_object<F>(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        change: F,
    ) -> Result<ObjectRecord, StoreError>
    where
        F: FnMut(&mut ObjectRecord) -> Result<(), StoreError> + Send,
    {
        todo!()
    }
    /// Deletes an object and answers what it was; [`StoreError::NoObject`] if there was none.
    pub async fn delete_object(
        &self,
        path: &ObjectPath,
        policy: PolicyIndex,
        condition: Precondition,
    ) -> Result<ObjectRecord, StoreError> {
        todo!()
    }
    /// Deletes the record of a part whose extents another record has taken over.
    pub async fn forget(&self, path: &ObjectPath, policy: PolicyIndex) -> Result<(), StoreError> {
        todo!()
    }
    /// The newest version's record, without its bytes; expired ones are [`StoreError::NoObject`].
    pub async fn head(&self, path: &ObjectPath, policy: PolicyIndex) -> Result<ObjectRecord, StoreError> {
        todo!()
    }
    /// The newest version, ready to be read.
    pub async fn open(&self, path: &ObjectPath, policy: PolicyIndex) -> Result<OpenObject, StoreError> {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Upload {
    /// Takes the next bytes; waits while the devices are behind. Never copies them.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        todo!()
    }
    /// Bytes taken so far.
    pub fn written(&self) -> u64 {
        todo!()
    }
    /// Ends the upload: all its blocks are on stable storage and its MD5 is known.
    pub async fn finish(self) -> Result<Staged, StoreError> {
        todo!()
    }
}

#[allow(clippy::todo, missing_docs)]
impl Staged {
    pub fn size(&self) -> u64 {
        todo!()
    }
    pub fn md5(&self) -> [u8; 16] {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo, missing_docs)]
impl OpenObject {
    pub fn record(&self) -> &ObjectRecord {
        todo!()
    }
    /// The bytes of `range`, which lies within the object. Small objects come in one piece.
    pub fn read(&self, range: Range<u64>) -> ByteStream {
        todo!()
    }
    /// The whole object if it lies inline: for answers without a stream.
    pub fn inline(&self) -> Option<Bytes> {
        todo!()
    }
}

/// A store to share.
pub type SharedStore = Arc<Store>;
