//! Reading of large objects, static and dynamic.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use kodiak_storage_api::ObjectRecord;

use super::SwiftFront;
use super::auth::{Want, allowed};
use super::call::{Call, Target};
use super::error::{Answer, SwiftError};
use super::object;
use crate::http::{Payload, Ranges, RequestedRanges, payload};
use crate::large::{self, Access, Large};
use crate::store::{OpenObject, StoreError};

impl SwiftFront {
    /// What the asker may read, for segments that are read later.
    pub(super) fn access(&self, call: &Call) -> Access {
        let call = call.clone();
        Arc::new(move |directory| {
            // Links lead to other accounts, where the asker is somebody else.
            let account = directory.name.split('/').next().unwrap_or("");
            if account == call.account() {
                return allowed(&call, directory, Want::Read);
            }
            let target = Target { account: account.to_owned(), container: None, object: None };
            allowed(&call.with_target(call.method.clone(), target), directory, Want::Read)
        })
    }

    /// The large object that an object is the manifest of; none if it is a plain one.
    pub(super) async fn large_object(
        &self,
        call: &Call,
        object: &OpenObject,
    ) -> Result<Option<Large>, SwiftError> {
        if !large::is_manifest(object.record()) {
            return Ok(None);
        }
        self.consult_account(call).await?;
        match large::open(&self.store, &self.access(call), object).await {
            Err(StoreError::Denied) => Err(super::auth::denied(call)),
            // What the manifest names is not there: the manifest itself is.
            Err(StoreError::NoObject | StoreError::NoContainer) => {
                Err(SwiftError::status(StatusCode::CONFLICT))
            }
            opened => Ok(opened?),
        }
    }

    /// Answers a GET or HEAD of a large object with the bytes of its segments.
    pub(super) async fn get_large(&self, call: &Call, record: &ObjectRecord, large: Large) -> Answer {
        let etag = format!("\"{}\"", large.etag);
        if !call.is_head() {
            let requested = call.header("range").and_then(RequestedRanges::parse);
            let length = large.segments.length();
            let start = match requested.map_or(Ranges::Whole, |ranges| ranges.of(length)) {
                Ranges::Parts(parts) => parts.first().map_or(0, |part| part.start),
                _ => 0,
            };
            match large.segments.check(start).await {
                Ok(()) => {}
                Err(
                    StoreError::NoObject
                    | StoreError::NoContainer
                    | StoreError::Refused(_)
                    | StoreError::Denied,
                ) => {
                    return Err(SwiftError::status(StatusCode::CONFLICT));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let dynamic = record.header(large::STATIC).is_none();
        if dynamic {
            return object::answer(&without_many_ranges(call), record, &etag, &large.segments);
        }
        let mut answer = match part(call, &large)? {
            Some(part) => part_answer(call, record, &large, part)?,
            None => object::answer(call, record, &etag, &large.segments)?,
        };
        if let Ok(manifest) = HeaderValue::from_str(&record.etag) {
            answer.headers_mut().insert("x-manifest-etag", manifest);
        }
        Ok(answer)
    }
}

/// A dynamic large object has no several ranges: they are all of it.
fn without_many_ranges(call: &Call) -> Call {
    let mut call = call.clone();
    if call.header("range").is_some_and(|range| range.contains(',')) {
        call.headers.remove("range");
    }
    call
}

/// The `part-number` that a request asks for, from 1.
fn part(call: &Call, large: &Large) -> Result<Option<usize>, SwiftError> {
    let Some(text) = call.query.get("part-number").filter(|_| large.segments.parts() > 0) else {
        return Ok(None);
    };
    match text.parse::<usize>() {
        Ok(part) if part > 0 => Ok(Some(part)),
        _ => Err(SwiftError::bad_request("Part number must be an integer greater than 0")),
    }
}

/// Answers with one segment, as a range of the whole.
fn part_answer(call: &Call, record: &ObjectRecord, large: &Large, part: usize) -> Answer {
    let builder = object::record_headers(record)
        .header("etag", format!("\"{}\"", large.etag))
        .header("x-parts-count", large.segments.parts());
    match large.segments.part(part) {
        Some(range) => {
            let ranges = Ranges::Parts(vec![range]);
            Ok(payload(builder, &record.content_type, &large.segments, ranges, call.is_head())?)
        }
        None => {
            let text = "The requested part number is not satisfiable";
            let length = if call.is_head() { 0 } else { text.len() };
            let builder = builder
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header("content-range", format!("bytes */{}", large.segments.length()))
                .header("content-type", "text/html; charset=UTF-8")
                .header("content-length", length);
            Ok(builder.body(if call.is_head() { crate::http::empty() } else { crate::http::full(text) })?)
        }
    }
}
