//! What members say to each other about the map. Each request gets one response; both travel in postcard's
//! encoding.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use kodiak_storage_api::Holding;
use kodiak_storage_api::jobs::JobStatus;
use serde::{Deserialize, Serialize};

use crate::map::byte_string;
use crate::{Ballot, BootId, Change, ChangeError, ClusterId, ClusterMap, Digest, Epoch, KeyDigest, MapError};

/// A map's bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MapBytes(#[serde(with = "byte_string")] pub Bytes);

impl MapBytes {
    /// Encodes a map.
    ///
    /// # Errors
    /// See [`ClusterMap::encode`].
    pub fn of(map: &ClusterMap) -> Result<MapBytes, MapError> {
        map.encode().map(MapBytes)
    }
}

/// What is asked. New requests go to the end, as new responses do: their order is part of the protocol.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// A newer map than this one, if there is any.
    GetMap {
        /// What the caller has.
        have: Epoch,
    },
    /// A promise about the map after this one.
    Prepare {
        /// The caller's process.
        boot: BootId,
        /// The map before: its epoch.
        epoch: Epoch,
        /// And its digest.
        digest: Digest,
        /// The attempt.
        ballot: Ballot,
    },
    /// To accept a map.
    Accept {
        /// The caller's process.
        boot: BootId,
        /// The attempt.
        ballot: Ballot,
        /// The map.
        map: MapBytes,
    },
    /// To take over a map that is decided.
    Announce(MapBytes),
    /// To be admitted. The only request that needs no certificate.
    Join(Box<Join>),
    /// How the member is.
    Status,
    /// The caller is alive.
    Hello(Hello),
    /// To change the map.
    Change(Change),
    /// What the member does in the background.
    Jobs,
    /// What its devices have of the rings' partitions.
    Holdings,
}

/// A machine asks to be admitted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Join {
    /// The token's secret.
    pub secret: [u8; 32],
    /// Signing request for its key.
    pub request: Vec<u8>,
    /// The name it wants.
    pub name: String,
    /// Region.
    pub region: u32,
    /// Zone.
    pub zone: u32,
    /// Where it will serve the cluster.
    pub address: SocketAddr,
}

/// What an admitted machine gets. It holds secrets.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its certificate.
    pub certificate: String,
    /// The authority's certificate.
    pub authority: String,
    /// The authority's key.
    pub authority_key: String,
    /// The map.
    pub map: MapBytes,
    /// What the binary needs to serve: placement key, users.
    pub settings: String,
}

impl std::fmt::Debug for Welcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Welcome")
    }
}

/// A member says that it is alive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Its process.
    pub boot: BootId,
    /// Where that process serves the cluster.
    pub address: SocketAddr,
    /// Its newest map.
    pub epoch: Epoch,
}

/// How a member is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its process.
    pub boot: BootId,
    /// Its newest map.
    pub epoch: Epoch,
    /// Second since 1970 at which its certificate expires.
    pub certificate_expires: i64,
    /// Version of its program.
    pub version: String,
    /// Its devices.
    pub devices: Vec<DeviceRoom>,
    /// The map whose rings its devices go by.
    pub placed: Epoch,
}

/// Room of a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceRoom {
    /// Its name.
    pub name: String,
    /// Free bytes.
    pub available: u64,
    /// Bytes in all.
    pub total: u64,
    /// It takes no more writes.
    pub failed: bool,
    /// Partitions that it is a replica of, but has not been filled with yet.
    pub missing: usize,
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// A newer map, or none.
    Map(Option<MapBytes>),
    /// The promise, with what was accepted before.
    Promised(Option<(Ballot, MapBytes)>),
    /// Done; the newest map here has this epoch.
    Done(Epoch),
    /// The member lacks the map before; its newest one has this epoch.
    Behind(Epoch),
    /// Another attempt is ahead.
    Outbid(Ballot),
    /// Admitted.
    Welcome(Box<Welcome>),
    /// How the member is.
    Status(NodeStatus),
    /// Not done.
    Refused(Refusal),
    /// What it does in the background.
    Jobs(Vec<JobStatus>),
    /// What its devices have, by the rings of this map.
    Holdings(Epoch, Vec<Holding>),
}

/// Why a request is refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It needs a certificate.
    #[error("this call needs the certificate of a member: join the cluster first")]
    Anonymous,
    /// Its certificate is another cluster's.
    #[error("the caller belongs to cluster {theirs}, this machine to {own}")]
    OtherCluster {
        /// This one.
        own: ClusterId,
        /// The caller's.
        theirs: ClusterId,
    },
    /// Its certificate is not what the map lists.
    #[error(
        "the certificate in the name of {node} is not that of a member: if {node} was installed anew, remove the old \
         one with `kodiak node remove {node} --force` and join again"
    )]
    NotAMember {
        /// Whom the certificate names.
        node: String,
    },
    /// It was removed.
    #[error(
        "{node} was removed from the cluster with map {epoch}: join again with a new token and an empty folder"
    )]
    WasRemoved {
        /// Whom the certificate names.
        node: String,
        /// Since when.
        epoch: Epoch,
    },
    /// Another process has its name.
    #[error(
        "another process runs as {node} at {address}: one of the two is a copy. Stop the copy and delete its folder; \
         a machine that is to take over joins with a token and `kodiak node replace`"
    )]
    Duplicate {
        /// The name.
        node: String,
        /// Where the other one is.
        address: SocketAddr,
    },
    /// The process has not said hello.
    #[error("the process must say hello before it proposes")]
    Stranger,
    /// The change is not possible.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The map is not taken over.
    #[error("{0}")]
    Map(String),
    /// Too few voters have answered.
    #[error(
        "only {reached} of {voters} members with a vote have answered, and {majority} are needed ({missing}). What was \
         asked for may still happen when they are back: look with `kodiak cluster status`, then try again"
    )]
    NoMajority {
        /// How many have answered.
        reached: usize,
        /// How many there are.
        voters: usize,
        /// How many are needed.
        majority: usize,
        /// Who is missing, and why.
        missing: String,
    },
    /// Replicas lack what others have.
    #[error(
        "not now, since replicas are still being filled ({0}): wait until `kodiak cluster status` shows that none is. A \
         machine that is lost is given up with `kodiak node remove --force`"
    )]
    Filling(String),
    /// Others change the map all the time.
    #[error("other changes of the cluster were faster: try again")]
    Contention,
    /// It could not be stored or signed.
    #[error("{0}")]
    Failed(String),
}

/// Who asks, as TLS and the map say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Caller {
    /// Somebody without a certificate.
    Anonymous,
    /// A member.
    Member(String),
}

/// A member to call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it serves the cluster.
    pub address: SocketAddr,
    /// Its key, if the caller knows it.
    pub key: Option<KeyDigest>,
}

/// Why a member did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CallError(pub String);

/// The way to the other members.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Asks a member. Ends within some seconds, whatever the member does.
    async fn call(&self, peer: &Peer, request: Request) -> Result<Response, CallError>;
}
