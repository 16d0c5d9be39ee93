//! The bytes of an answer: whole, one range, or several as `multipart/byteranges`.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::response::Builder;
use http::{Response, StatusCode};
use rand::RngCore;

use super::{Ranges, ResponseBody, empty, full, streamed};
use crate::store::{ByteStream, StoreError};

/// Bytes that can be read by range: an object, or the segments of a large one.
pub trait Payload: Send + Sync {
    /// Bytes in all.
    fn length(&self) -> u64;
    /// The bytes of a range, if they are in memory.
    fn in_memory(&self, range: Range<u64>) -> Option<Bytes>;
    /// The bytes of a range.
    fn stream(&self, range: Range<u64>) -> ByteStream;
}

/// Completes an answer that has its other headers: status, lengths, ranges and body. With `head`, the
/// body stays away.
pub fn payload(
    builder: Builder,
    content_type: &str,
    source: &dyn Payload,
    ranges: Ranges,
    head: bool,
) -> Result<Response<ResponseBody>, http::Error> {
    let length = source.length();
    let part = |builder: Builder, range: Range<u64>| {
        let size = range.end - range.start;
        let body = match (head, size) {
            (true, _) | (_, 0) => empty(),
            _ => match source.in_memory(range.clone()) {
                Some(bytes) => full(bytes),
                None => streamed(source.stream(range)),
            },
        };
        builder.header("content-length", size).header("content-type", content_type).body(body)
    };
    match ranges {
        Ranges::Whole => part(builder.status(StatusCode::OK), 0..length),
        Ranges::Unsatisfiable => builder
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header("content-range", format!("bytes */{length}"))
            .header("content-length", 0)
            .body(empty()),
        Ranges::Parts(parts) => match <[Range<u64>; 1]>::try_from(parts) {
            Ok([range]) => {
                let content_range = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                part(
                    builder.status(StatusCode::PARTIAL_CONTENT).header("content-range", content_range),
                    range,
                )
            }
            Err(parts) => several(builder, content_type, source, parts, head),
        },
    }
}

fn several(
    builder: Builder,
    content_type: &str,
    source: &dyn Payload,
    parts: Vec<Range<u64>>,
    head: bool,
) -> Result<Response<ResponseBody>, http::Error> {
    let boundary = format!("{:016x}{:016x}", rand::rng().next_u64(), rand::rng().next_u64());
    let length = source.length();
    let mut total = 0;
    let mut pieces: Vec<ByteStream> = Vec::new();
    let text =
        |text: String| -> ByteStream { stream::iter([Ok::<_, StoreError>(Bytes::from(text))]).boxed() };
    for range in parts {
        let begin = format!(
            "--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: bytes {}-{}/{length}\r\n\r\n",
            range.start,
            range.end - 1
        );
        total += begin.len() as u64 + (range.end - range.start) + 2;
        pieces.push(text(begin));
        if !head {
            pieces.push(source.stream(range));
        }
        pieces.push(text("\r\n".into()));
    }
    let end = format!("--{boundary}--");
    total += end.len() as u64;
    pieces.push(text(end));
    let body = if head { empty() } else { streamed(stream::iter(pieces).flatten()) };
    builder
        .status(StatusCode::PARTIAL_CONTENT)
        .header("content-length", total)
        .header("content-type", format!("multipart/byteranges;boundary={boundary}"))
        .body(body)
}
