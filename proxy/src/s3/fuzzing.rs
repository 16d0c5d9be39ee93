//! Ways into this front's parsers, for `fuzz/`.

use bytes::Bytes;
use kodiak_auth::Secret;

use super::bucket::CreateBucketConfiguration;
use super::chunked::ChunkedDecoder;
use super::complete::CompleteMultipartUpload;
use super::delete::Delete;
use super::sigv4::{Claim, SigningKeys, Verified};
use super::xml;

/// An `aws-chunked` body that comes in pieces of `cut` bytes.
pub fn chunked(body: &[u8], cut: usize, expected: u64, trailer: bool) {
    let chains = [None, Some(Verified::without_chunks())];
    for signed in chains {
        let mut decoder = ChunkedDecoder::new(signed, trailer, expected);
        let mut decoded = 0;
        let refused = body.chunks(cut.max(1)).any(|piece| {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(content)) => decoded += content.len() as u64,
                    Ok(None) => return false,
                    Err(_) => return true,
                }
            }
        });
        if !refused && decoder.finish().is_ok() {
            assert_eq!(decoded, expected);
        }
    }
}

/// A signed request: its path and query, and `name: value` lines.
pub fn signed_request(target: &str, headers: &str) {
    let mut request = http::Request::builder().uri(target);
    for line in headers.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        request = request.header(name.trim(), value.trim());
    }
    let Ok(request) = request.body(()) else { return };
    let (parts, ()) = request.into_parts();
    let Ok(query) = super::query::parse(parts.uri.query().unwrap_or("")) else { return };
    let (secret, now) = (Secret::new("secret"), 1_700_000_000);
    if let Ok(Some(claim)) = Claim::parse(&parts, &query) {
        let verified = claim.verify(&parts, &secret, &SigningKeys::default(), ("us-east-1", now));
        assert!(verified.is_err(), "forged: {target} {headers}");
    }
    if let Ok(Some(claim)) = super::sigv2::Claim::parse(&parts, &query) {
        let verified = claim.verify(&parts, &query, Some("bucket"), (&secret, now));
        assert!(verified.is_err(), "forged: {target} {headers}");
    }
}

/// Each kind of XML body.
pub fn xml_body(body: &[u8]) {
    // Whatever comes is a document or an error.
    let _ = xml::parse::<CompleteMultipartUpload>(body);
    let _ = xml::parse::<Delete>(body);
    let _ = xml::parse::<CreateBucketConfiguration>(body);
}
