//! Storage nodes on other machines.
//!
//! In the order a call meets it: [`RemoteNode`] is the [`crate::StorageNode`] that a proxy calls; its breaker
//! says whether the peer is worth a try; a [`Call`] and its bytes become a [`Frame`]; a link carries it over
//! mutual TLS, and the peer's server answers with a [`Reply`]. [`Party`] is what one side tells the other
//! with each call: its cluster, its name, the epoch of its map, its clock.
//!
//! One port carries three things, told apart by ALPN: messages (many over one connection, see [`wire`]), blocks (HTTP,
//! one at a time over a connection), both in a version that both sides speak ([`Versions`]), and what the server is
//! extended by, HTTP too.
//! There is no plain TCP.

mod breaker;
mod frame;
mod gate;
mod gated;
mod health;
mod link;
mod message;
mod messages;
mod meters;
mod node;
mod party;
mod tls;
mod versions;
pub mod wire;

pub use frame::{Chunks, Frame, FrameError, Received, collect};
pub use gate::Gate;
pub use gated::Gated;
pub use message::{Call, Head, Reply, Request, Response};
pub use node::{RemoteNode, Settings};
pub use party::{ClusterView, Party};
pub use tls::{ALPN_GRPC, Identity, Socket, host_name, identify, socket, with_alpn};
pub use versions::{Carries, PROTOCOL, Versions};

/// Where blocks are posted to.
pub const BULK_PATH: &str = "/node";
/// Most bytes of a call: a block, or many rows.
pub const MAX_CALL: usize = 16 << 20;
/// Most bytes of an answer: a page of 10,000 rows with long names.
pub const MAX_ANSWER: usize = 64 << 20;
/// Most entries that a node answers at once.
pub const MAX_ENTRIES: usize = 10_000;
