//! Machines become a cluster.
//!
//! A machine joins with a [`JoinToken`]: it checks the cluster's [`Authority`] by its fingerprint, sends a signing
//! request, and gets a certificate and the [`ClusterMap`]. The map is the one document that all members
//! agree on: who they are, the rings, the policies. A [`Change`] makes the next one; a majority of the members decides
//! about it ([`register`]), and it spreads from member to member. [`Membership`] is this machine's part in that.
//! Disks have an identity ([`disk`]), so that none is used in a place that is not its own.
//!
//! The crate knows no sockets but those of [`call`], and nothing of what is stored.

pub mod call;
pub mod certificates;
pub mod change;
mod codec;
pub mod disk;
pub mod file;
pub mod home;
mod id;
pub mod map;
pub mod membership;
pub mod message;
pub mod register;
mod store;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod token;

pub use call::TlsPeers;
pub use certificates::{Authority, CertificateError, NodeCertificate, NodeKey};
pub use change::{Admission, Change, ChangeError, NewPolicy, PolicyUpdate};
pub use home::{Founding, Home, HomeError};
pub use id::{BootId, ClusterId, Digest, DiskId, Epoch, Fingerprint, KeyDigest, TokenHash};
pub use kodiak_storage_api::Mode;
pub use map::{
    ClusterMap, MAX_MEMBERS, MAX_NAME, MapError, Member, MemberDevice, MemberState, Policy, Removed,
    RingFile, Token,
};
pub use membership::Membership;
pub use message::{Caller, Peer, Peers, Refusal, Request, Response};
pub use register::{Accepted, Ballot, Denied, LearnError, Proposal, Register};
pub use store::{StoreError, Stored};
pub use tls::{Credentials, TlsError};
pub use token::{JoinToken, TokenError};
