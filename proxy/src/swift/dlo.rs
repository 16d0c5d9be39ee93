//! Reading of large objects, static and dynamic.

use std::sync::Arc;

use http::StatusCode;
use kodiak_storage_api::ObjectRecord;

use super::SwiftFront;
use super::auth::Want;
use super::call::Call;
use super::error::{Answer, SwiftError};
use super::object;
use crate::http::{Ranges, RequestedRanges};
use crate::large::{self, Access, Large};
use crate::store::{OpenObject, StoreError};

impl SwiftFront {
    /// What the asker may read, for segments that are read later.
    fn access(&self, call: &Call) -> Access {
        let call = call.clone();
        Arc::new(move |directory| super::auth::allowed(&call, directory, Want::Read))
    }

    /// The large object that an object is the manifest of; none if it is a plain one.
    pub(super) async fn large_object(
        &self,
        call: &Call,
        object: &OpenObject,
    ) -> Result<Option<Large>, SwiftError> {
        Ok(large::open(&self.store, &self.access(call), object).await?)
    }

    /// Answers a GET or HEAD of a large object with the bytes of its segments.
    pub(super) async fn get_large(&self, call: &Call, record: &ObjectRecord, large: Large) -> Answer {
        let etag = format!("\"{}\"", large.etag);
        if !call.is_head() {
            let requested = call.header("range").and_then(RequestedRanges::parse);
            let length = crate::http::Payload::length(&large.segments);
            let start = match requested.map_or(Ranges::Whole, |ranges| ranges.of(length)) {
                Ranges::Parts(parts) => parts.first().map_or(0, |part| part.start),
                _ => 0,
            };
            match large.segments.check(start).await {
                Ok(()) => {}
                Err(StoreError::NoObject | StoreError::NoContainer | StoreError::Refused(_)) => {
                    return Err(SwiftError::status(StatusCode::CONFLICT));
                }
                Err(error) => return Err(error.into()),
            }
        }
        object::answer(call, record, &etag, &large.segments)
    }
}
