//! The register on this machine's disk.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic `KODKCREG` |
//! | 8 | 4 | format version, 1, little-endian |
//! | 12 | | the maps' bytes and the ballots in postcard's encoding |
//! | end - 32 | 32 | BLAKE3 of everything before |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::map::byte_string;
use crate::{Accepted, Ballot, ClusterId, ClusterMap, MapError, Register, file};

const MAGIC: &[u8; 8] = b"KODKCREG";
const VERSION: u32 = 1;
const HEADER: usize = 12;
const CHECKSUM: usize = 32;

/// Why the register cannot be read or stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: std::io::Error,
    },
    /// Changed since it was written.
    #[error(
        "{0} is damaged: its checksum is wrong. This machine cannot know any more how it has voted: let it join \
         anew under another name, and run `kodiak node replace` on another machine"
    )]
    Damaged(PathBuf),
    /// A newer program's.
    #[error("{path} has format {found}, this program knows {VERSION}: update this machine's kodiak")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The map in it cannot be used.
    #[error("{path}: {error}")]
    Map {
        /// The file.
        path: PathBuf,
        /// Why.
        error: MapError,
    },
    /// It was made for another cluster than the certificate.
    #[error(
        "{path} is of cluster {found}, but this machine's certificate of {expected}: put the files of one cluster \
         back together"
    )]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// This machine's.
        expected: ClusterId,
    },
}

#[derive(Serialize, Deserialize)]
struct Form {
    #[serde(with = "byte_string")]
    map: Bytes,
    promised: Ballot,
    accepted: Option<(Ballot, Whole)>,
}

#[derive(Serialize, Deserialize)]
struct Whole(#[serde(with = "byte_string")] Bytes);

/// A register and its file.
#[derive(Debug)]
pub struct Stored {
    path: PathBuf,
    register: Register,
}

impl Stored {
    /// Writes the first map of a cluster, or the one with which this machine was admitted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, map: Arc<ClusterMap>) -> Result<Stored, StoreError> {
        let failed = |error| StoreError::Map { path: path.to_owned(), error };
        let stored = Stored { path: path.to_owned(), register: Register::new(map).map_err(failed)? };
        stored.save(&stored.register)?;
        Ok(stored)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or of another cluster.
    pub fn open(path: &Path, cluster: ClusterId) -> Result<Stored, StoreError> {
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(io)?;
        let register = read(&bytes, path)?;
        let found = register.map().cluster;
        if found != cluster {
            return Err(StoreError::OtherCluster { path: path.to_owned(), found, expected: cluster });
        }
        Ok(Stored { path: path.to_owned(), register })
    }

    /// What is on the disk.
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// Changes the register. When it returns `Ok`, the changed register is on stable storage.
    ///
    /// # Errors
    /// When it cannot be written; it is then as it was.
    pub fn update<T>(&mut self, change: impl FnOnce(&mut Register) -> T) -> Result<T, StoreError> {
        let mut register = self.register.clone();
        let answer = change(&mut register);
        if register != self.register {
            self.save(&register)?;
            self.register = register;
        }
        Ok(answer)
    }

    fn save(&self, register: &Register) -> Result<(), StoreError> {
        let failed = |error| StoreError::Map { path: self.path.clone(), error };
        let accepted = register
            .accepted()
            .map(|accepted| Ok::<_, MapError>((accepted.ballot, Whole(accepted.map.encode()?))));
        let form = Form {
            map: register.map().encode().map_err(failed)?,
            promised: register.promised(),
            accepted: accepted.transpose().map_err(failed)?,
        };
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        let encoded = postcard::to_extend(&form, out);
        let mut out = encoded.map_err(|error| failed(MapError::Contradiction(error.to_string())))?;
        let checksum = blake3::hash(&out);
        out.extend_from_slice(checksum.as_bytes());
        file::replace(&self.path, &out).map_err(|source| StoreError::Io { path: self.path.clone(), source })
    }
}

fn read(bytes: &[u8], path: &Path) -> Result<Register, StoreError> {
    let damaged = || StoreError::Damaged(path.to_owned());
    if bytes.len() < HEADER + CHECKSUM || !bytes.starts_with(MAGIC) {
        return Err(damaged());
    }
    let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
    if blake3::hash(body).as_bytes() != checksum {
        return Err(damaged());
    }
    let version = body[8..HEADER].try_into().map_or(0, u32::from_le_bytes);
    if version != VERSION {
        return Err(StoreError::Version { path: path.to_owned(), found: version });
    }
    let form: Form = postcard::from_bytes(&body[HEADER..]).map_err(|_| damaged())?;
    let decode = |bytes: &[u8]| {
        let map = ClusterMap::decode(bytes);
        map.map(Arc::new).map_err(|error| StoreError::Map { path: path.to_owned(), error })
    };
    let accepted = form.accepted.map(|(ballot, whole)| Ok(Accepted { ballot, map: decode(&whole.0)? }));
    Register::restore(decode(&form.map)?, form.promised, accepted.transpose()?)
        .map_err(|error| StoreError::Map { path: path.to_owned(), error })
}
