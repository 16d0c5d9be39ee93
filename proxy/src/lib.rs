//! The front door: [`swift`] and [`s3`] as siblings over one typed object API, [`store`].
//!
//! Knows neither RocksDB nor files. In the order a request meets them: `server` accepts and bounds
//! it, `swift` or `s3` authenticates it and translates it, [`store::Store`] places, replicates and
//! merges, and a [`kodiak_storage_api::StorageNode`] stores.

#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod large;
pub mod s3;
pub mod server;
pub mod store;
pub mod swift;
