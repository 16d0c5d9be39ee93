//! Starts the real program for end-to-end tests, and talks to it.

mod client;
mod store;

pub use client::{Answer, Client};
pub use store::Store;
