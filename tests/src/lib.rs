//! Starts the real program for end-to-end tests, talks to it, and knows what it may answer after a crash.

mod client;
mod ledger;
mod linearizable;
mod load;
mod store;

pub use client::{Answer, Client};
pub use ledger::{Depth, Ledger, content};
pub use linearizable::{Event, Operation, Value, linearizable};
pub use load::{load, write};
pub use store::{Endpoints, Store, program};
