//! A member's folder: what it needs to be one.
//!
//! | file | what |
//! | --- | --- |
//! | `ca.pem`, `ca.key` | the authority: every member has its key |
//! | `node.pem`, `node.key` | this node's certificate and its own key |
//! | `register` | the newest map, and this node's vote about the next one |
//! | `devices.json` | which disk is in which slot |
//!
//! All are 0600. The register is written last: a folder without it is of no member.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kodiak_ring::RingBuilder;
use time::OffsetDateTime;

use crate::change::{self, Change};
use crate::disk::{DiskError, Disks};
use crate::message::Welcome;
use crate::{
    Authority, CertificateError, ChangeError, ClusterId, ClusterMap, Credentials, Digest, Epoch, MapError,
    Member, MemberState, NodeCertificate, NodeKey, Policy, RingFile, StoreError, Stored, TlsError, file,
};

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: std::io::Error,
    },
    /// A certificate cannot be used.
    #[error("{path}: {error}")]
    Certificate {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: CertificateError,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The register cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The map cannot be used.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A ring cannot be made.
    #[error(transparent)]
    Ring(#[from] kodiak_ring::RingError),
    /// The first map cannot be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The certificate names another node than the configuration.
    #[error(
        "{path} is of node {found}, but the configuration of {expected}: put the files of one machine together"
    )]
    OtherNode {
        /// The certificate.
        path: PathBuf,
        /// Its node.
        found: String,
        /// The configuration's.
        expected: String,
    },
}

/// What a cluster begins with.
pub struct Founding {
    /// Its first member, with its devices; its clock and key are chosen.
    pub member: Member,
    /// Which cluster.
    pub cluster: ClusterId,
    /// Replicas of accounts and containers, once there are as many devices.
    pub directory_replicas: u16,
    /// Storage policies; their rings are filled.
    pub policies: Vec<Policy>,
    /// The ring that all begin as: without devices.
    pub ring: RingBuilder,
    /// Seconds since 1970.
    pub now: u64,
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
}

/// Everything that was in it.
pub struct Opened {
    /// Signs certificates.
    pub authority: Authority,
    /// For TLS.
    pub credentials: Arc<Credentials>,
    /// This node's key.
    pub key: NodeKey,
    /// The map and the vote.
    pub stored: Stored,
}

impl Home {
    /// The folder at `path`.
    pub fn new(path: &Path) -> Home {
        Home { path: path.to_owned() }
    }

    /// Where the register is.
    pub fn register(&self) -> PathBuf {
        self.path.join("register")
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn make(&self) -> Result<(), HomeError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|source| HomeError::Io { path: self.path.clone(), source })
    }

    /// Which disks are in which slots.
    ///
    /// # Errors
    /// When the notes cannot be read.
    pub fn disks(&self, cluster: ClusterId, node: &str) -> Result<Disks, DiskError> {
        Disks::load(&self.path.join("devices.json"), cluster, node)
    }

    fn read(&self, name: &str) -> Result<String, HomeError> {
        let path = self.path.join(name);
        std::fs::read_to_string(&path).map_err(|source| HomeError::Io { path, source })
    }

    fn write(&self, name: &str, text: &str) -> Result<(), HomeError> {
        let path = self.path.join(name);
        file::replace(&path, text.as_bytes()).map_err(|source| HomeError::Io { path, source })
    }

    fn certificate<T>(&self, result: Result<T, CertificateError>) -> Result<T, HomeError> {
        result.map_err(|error| HomeError::Certificate { path: self.path.clone(), error })
    }

    /// This node's key. The first call makes it, and later ones give the same: a machine whose join was cut short asks
    /// again as who it was.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub fn key(&self) -> Result<NodeKey, HomeError> {
        if self.path.join("node.key").exists() {
            return self.certificate(NodeKey::load(&self.read("node.key")?));
        }
        let key = self.certificate(NodeKey::create())?;
        self.write("node.key", &key.pem())?;
        Ok(key)
    }

    /// Begins a cluster.
    ///
    /// # Errors
    /// When a file cannot be written or a ring not be made.
    pub fn found(&self, founding: Founding) -> Result<(), HomeError> {
        let Founding { mut member, cluster, directory_replicas, mut policies, ring, now } = founding;
        let time = OffsetDateTime::now_utc();
        let key = self.key()?;
        let authority = self.certificate(Authority::create(cluster, time))?;
        let certificate = self.certificate(authority.sign(cluster, &member.name, &key, time))?;
        policies.iter_mut().for_each(|policy| policy.ring = RingFile::of(&ring));
        let (name, address, devices) =
            (member.name.clone(), member.address, std::mem::take(&mut member.devices));
        (member.clock, member.key, member.state) = (1, key.digest(), MemberState::Active);
        let empty = ClusterMap {
            cluster,
            epoch: Epoch(0),
            follows: Digest([0; 32]),
            next_clock: 2,
            members: vec![member],
            removed: Vec::new(),
            accounts: RingFile::of(&ring),
            containers: RingFile::of(&ring),
            directory_replicas,
            policies,
            default_policy: 0,
            tokens: Vec::new(),
        };
        let first = change::apply(&empty, &Change::Present { name, address, devices }, now)?;
        self.write("ca.pem", authority.pem())?;
        self.write("ca.key", &authority.key_pem())?;
        self.write("node.pem", &certificate)?;
        // Only what can be read again is a map.
        let first = ClusterMap::decode(&first.unwrap_or(empty).encode()?)?;
        Stored::create(&self.register(), Arc::new(first))?;
        Ok(())
    }

    /// Keeps what an admitted machine was given.
    ///
    /// # Errors
    /// When a file cannot be written, or the map is not one.
    pub fn settle(&self, welcome: &Welcome) -> Result<Arc<ClusterMap>, HomeError> {
        let map = Arc::new(ClusterMap::decode(&welcome.map.0)?);
        self.write("ca.pem", &welcome.authority)?;
        self.write("ca.key", &welcome.authority_key)?;
        self.write("node.pem", &welcome.certificate)?;
        Stored::create(&self.register(), map.clone())?;
        Ok(map)
    }

    /// Reads the folder of the member `node`; a certificate that is due is renewed first.
    ///
    /// # Errors
    /// When something is missing, damaged or of another node.
    pub fn open(&self, node: &str) -> Result<Opened, HomeError> {
        let authority = self.certificate(Authority::load(&self.read("ca.pem")?, &self.read("ca.key")?))?;
        let key = self.key()?;
        let mut pem = self.read("node.pem")?;
        let certificate = self.certificate(NodeCertificate::read_pem(&pem))?;
        if certificate.node != node {
            let (path, expected) = (self.path.join("node.pem"), node.to_owned());
            return Err(HomeError::OtherNode { path, found: certificate.node, expected });
        }
        let stored = Stored::open(&self.register(), certificate.cluster)?;
        let now = OffsetDateTime::now_utc();
        if certificate.due(now) {
            pem = self.certificate(authority.sign(certificate.cluster, node, &key, now))?;
            self.write("node.pem", &pem)?;
        }
        let credentials = Credentials::new(authority.pem(), &pem, &key.pem())?;
        Ok(Opened { authority, credentials, key, stored })
    }

    /// Keeps a certificate that was renewed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_certificate(&self, pem: &str) -> Result<(), HomeError> {
        self.write("node.pem", pem)
    }
}
