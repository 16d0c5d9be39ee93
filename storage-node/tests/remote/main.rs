//! A storage node through real sockets and TLS.

mod bad_input;
mod calls;
mod certificates;
mod faults;
mod machine;
#[path = "../node/rig.rs"]
#[allow(dead_code, reason = "shared with the node's own tests")]
mod rig;
