//! A storage node through real sockets and TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod calls;
mod certificates;
mod faults;
mod machine;
#[path = "../node/rig.rs"]
#[allow(dead_code, reason = "shared with the node's own tests")]
mod rig;
