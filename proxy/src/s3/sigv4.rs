//! Signature version 4: reading the claim of a request and verifying it.
//!
//! Source: the S3 API's "Authenticating Requests (AWS Signature Version 4)".

use std::collections::HashMap;

use hmac::{Hmac, KeyInit, Mac};
use http::request::Parts;
use kodiak_auth::Secret;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::canonical::canonical_request;
use super::error::S3Error;
use crate::http::header;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far the time of a request may be from ours, seconds.
const MAX_SKEW: i64 = 15 * 60;
/// Longest life of a presigned URL, seconds.
const MAX_EXPIRES: i64 = 7 * 24 * 3600;
/// Signing keys that are kept; a key is good for one day.
const MAX_KEYS: usize = 10_000;

/// What a request says of its signer, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) access_key: String,
    /// `date/region/service/aws4_request`.
    pub(super) scope: String,
    signed_headers: String,
    signature: [u8; 32],
    /// `YYYYMMDDTHHMMSSZ`.
    pub(super) time: String,
    /// Seconds, of a presigned URL.
    expires: Option<i64>,
    pub(super) payload: Payload,
}

/// What `x-amz-content-sha256` says of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    /// Not part of the signature.
    Unsigned,
    /// Its SHA-256.
    Sha256([u8; 32]),
    /// In `aws-chunked` chunks.
    Chunked {
        /// Each chunk has a signature.
        signed: bool,
        /// Trailers follow.
        trailer: bool,
    },
}

/// A request whose signature is right.
#[derive(Debug, Clone)]
pub(super) struct Verified {
    /// Its signature, which those of chunks continue.
    pub(super) signature: [u8; 32],
    /// What signs its chunks.
    pub(super) key: [u8; 32],
    /// `date/region/service/aws4_request`.
    pub(super) scope: String,
    /// `YYYYMMDDTHHMMSSZ`.
    pub(super) time: String,
}

impl Verified {
    /// A request that was verified in a way that signs no chunks.
    pub(super) fn without_chunks() -> Verified {
        Verified { signature: [0; 32], key: [0; 32], scope: String::new(), time: String::new() }
    }
}

fn malformed(message: &'static str) -> S3Error {
    S3Error::new(http::StatusCode::BAD_REQUEST, "AuthorizationHeaderMalformed", message)
}

fn malformed_query(message: &'static str) -> S3Error {
    S3Error::new(http::StatusCode::BAD_REQUEST, "AuthorizationQueryParametersError", message)
}

impl Claim {
    /// Reads the claim of a request; none if it is not signed.
    pub(super) fn parse(parts: &Parts, query: &[(String, String)]) -> Result<Option<Claim>, S3Error> {
        if let Some(authorization) = header(&parts.headers, "authorization") {
            return Claim::of_header(parts, authorization).map(Some);
        }
        let find = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        if find("X-Amz-Algorithm").is_some() {
            return Claim::of_query(parts, find).map(Some);
        }
        if find("AWSAccessKeyId").is_some() || find("X-Amz-Credential").is_some() {
            return Err(S3Error::invalid_request("Sign with AWS4-HMAC-SHA256."));
        }
        Ok(None)
    }

    fn of_header(parts: &Parts, authorization: &str) -> Result<Claim, S3Error> {
        let Some(fields) = authorization.strip_prefix(ALGORITHM) else {
            return Err(S3Error::invalid_argument("Unsupported Authorization Type"));
        };
        let field = |name: &str| {
            fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let credential = field("Credential").ok_or_else(|| malformed("The Credential is missing."))?;
        let signed_headers = field("SignedHeaders").ok_or_else(|| malformed("SignedHeaders is missing."))?;
        let signature = field("Signature").ok_or_else(|| malformed("The Signature is missing."))?;
        let (access_key, scope) =
            credential.split_once('/').ok_or_else(|| malformed("The Credential has no scope."))?;
        let time = match (header(&parts.headers, "x-amz-date"), header(&parts.headers, "date")) {
            (Some(time), _) => time.to_owned(),
            (None, Some(date)) => amz_time(crate::http::parse_http_date(date)),
            (None, None) => String::new(),
        };
        if seconds(&time).is_none() {
            return Err(S3Error::denied("AWS authentication requires a valid Date or x-amz-date header"));
        }
        Ok(Claim {
            access_key: access_key.to_owned(),
            scope: scope.to_owned(),
            signed_headers: signed_headers.to_owned(),
            signature: parse_signature(signature)?,
            time,
            expires: None,
            payload: payload(parts, None, false)?,
        })
    }

    fn of_query<'a>(parts: &Parts, find: impl Fn(&str) -> Option<&'a str>) -> Result<Claim, S3Error> {
        if find("X-Amz-Algorithm") != Some(ALGORITHM) {
            return Err(malformed_query("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"."));
        }
        let field = |name: &str| {
            find(name).filter(|value| !value.is_empty()).ok_or_else(|| {
                malformed_query(
                    "Query-string authentication needs X-Amz-Algorithm, X-Amz-Credential, \
                    X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders and X-Amz-Expires.",
                )
            })
        };
        let no_scope = || malformed_query("X-Amz-Credential has no scope.");
        let (access_key, scope) = field("X-Amz-Credential")?.split_once('/').ok_or_else(no_scope)?;
        let expires = field("X-Amz-Expires")?.parse::<i64>();
        let expires = expires.map_err(|_| malformed_query("X-Amz-Expires should be a number"))?;
        if expires < 0 {
            return Err(malformed_query("X-Amz-Expires must be non-negative"));
        }
        if expires > MAX_EXPIRES {
            return Err(malformed_query("X-Amz-Expires must be less than 604800 seconds"));
        }
        let time = field("X-Amz-Date")?.to_owned();
        if seconds(&time).is_none() {
            return Err(malformed_query("X-Amz-Date must be in the form YYYYMMDDTHHMMSSZ."));
        }
        Ok(Claim {
            access_key: access_key.to_owned(),
            scope: scope.to_owned(),
            signed_headers: field("X-Amz-SignedHeaders")?.to_owned(),
            signature: parse_signature(field("X-Amz-Signature")?)?,
            time,
            expires: Some(expires),
            payload: payload(parts, find("X-Amz-Content-Sha256"), true)?,
        })
    }

    /// Checks scope, time and signature; `now` in seconds since 1970.
    pub(super) fn verify(
        &self,
        parts: &Parts,
        secret: &Secret,
        keys: &SigningKeys,
        (region, now): (&str, u64),
    ) -> Result<Verified, S3Error> {
        let malformed = if self.expires.is_some() { malformed_query } else { malformed };
        let mut scope = self.scope.split('/');
        let (Some(date), Some(of), Some("s3"), Some("aws4_request"), None) =
            (scope.next(), scope.next(), scope.next(), scope.next(), scope.next())
        else {
            return Err(malformed("The credential scope must be date/region/s3/aws4_request."));
        };
        if of != region {
            let message = format!("The region '{of}' is wrong; expecting '{region}'");
            let code = malformed("").code;
            return Err(S3Error::new(http::StatusCode::BAD_REQUEST, code, message).with("Region", region));
        }
        self.check_time(date, now as i64)?;
        let mut canonical = String::with_capacity(1024);
        canonical_request(parts, &self.signed_headers, self.expires.is_some(), &mut canonical)?;
        let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
        let key = keys.get(&self.access_key, secret, date, of);
        let to_sign = format!("{ALGORITHM}\n{}\n{}\n{hash}", self.time, self.scope);
        let expected = sign(&key, to_sign.as_bytes());
        if !bool::from(expected.ct_eq(&self.signature)) {
            return Err(S3Error::signature());
        }
        Ok(Verified { signature: expected, key, scope: self.scope.clone(), time: self.time.clone() })
    }

    fn check_time(&self, date: &str, now: i64) -> Result<(), S3Error> {
        let then = seconds(&self.time).ok_or_else(S3Error::access_denied)?;
        if !self.time.starts_with(date) {
            return Err(malformed("The date of the credential scope is not that of the request."));
        }
        match self.expires {
            Some(expires) if now > then + expires => Err(S3Error::denied("Request has expired")),
            Some(_) if now < then - MAX_SKEW => Err(S3Error::denied("Request is not valid yet")),
            None if (now - then).abs() > MAX_SKEW => Err(S3Error::skewed()
                .with("RequestTime", self.time.as_str())
                .with("ServerTime", amz_time(u64::try_from(now).ok()))
                .with("MaxAllowedSkewMilliseconds", (MAX_SKEW * 1000).to_string())),
            _ => Ok(()),
        }
    }
}

fn parse_signature(text: &str) -> Result<[u8; 32], S3Error> {
    let mut signature = [0; 32];
    hex::decode_to_slice(text, &mut signature).map_err(|_| S3Error::signature())?;
    Ok(signature)
}

fn payload(parts: &Parts, queried: Option<&str>, presigned: bool) -> Result<Payload, S3Error> {
    let Some(value) = header(&parts.headers, "x-amz-content-sha256").or(queried) else {
        return match presigned {
            true => Ok(Payload::Unsigned),
            false => Err(S3Error::invalid_request(
                "Missing required header for this request: x-amz-content-sha256",
            )),
        };
    };
    match value {
        "UNSIGNED-PAYLOAD" => Ok(Payload::Unsigned),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(Payload::Chunked { signed: true, trailer: false }),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(Payload::Chunked { signed: true, trailer: true }),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Payload::Chunked { signed: false, trailer: true }),
        _ => {
            let mut hash = [0; 32];
            hex::decode_to_slice(value, &mut hash).map_err(|_| {
                S3Error::invalid_argument("x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a streaming form, or a valid sha256 value.")
            })?;
            Ok(Payload::Sha256(hash))
        }
    }
}

/// Seconds since 1970 of `YYYYMMDDTHHMMSSZ`.
fn seconds(time: &str) -> Option<i64> {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    Some(time::PrimitiveDateTime::parse(time, &format).ok()?.assume_utc().unix_timestamp())
}

fn amz_time(seconds: Option<u64>) -> String {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    let at = seconds.and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds as i64).ok());
    at.and_then(|at| at.format(&format).ok()).unwrap_or_default()
}

/// HMAC-SHA-256.
pub(super) fn sign(key: &[u8], data: &[u8]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// The key of a day and a region.
fn signing_key(secret: &Secret, date: &str, region: &str) -> [u8; 32] {
    let key = sign(format!("AWS4{}", secret.expose()).as_bytes(), date.as_bytes());
    let key = sign(&key, region.as_bytes());
    let key = sign(&key, b"s3");
    sign(&key, b"aws4_request")
}

/// Which key: access key, date and region.
type KeyName = (String, String, String);

/// Signing keys that were made already: four HMACs fewer for each request.
#[derive(Default)]
pub(super) struct SigningKeys {
    keys: Mutex<HashMap<KeyName, (Secret, [u8; 32])>>,
}

impl SigningKeys {
    fn get(&self, access_key: &str, secret: &Secret, date: &str, region: &str) -> [u8; 32] {
        let name = (access_key.to_owned(), date.to_owned(), region.to_owned());
        let mut keys = self.keys.lock();
        if let Some((of, key)) = keys.get(&name)
            && of == secret
        {
            return *key;
        }
        if keys.len() >= MAX_KEYS {
            keys.clear();
        }
        let key = signing_key(secret, date, region);
        keys.insert(name, (secret.clone(), key));
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The examples of the API's documentation, of 24 May 2013.
    const ACCESS: &str = "AKIAIOSFODNN7EXAMPLE";
    const NOW: u64 = 1_369_353_600;

    fn secret() -> Secret {
        Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    }

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().uri(uri).header("host", "examplebucket.s3.amazonaws.com");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request").into_parts().0
    }

    fn verify(parts: &Parts, now: u64) -> Result<Verified, S3Error> {
        let query = super::super::query::parse(parts.uri.query().unwrap_or("")).expect("a query");
        let claim = Claim::parse(parts, &query)?.expect("a signature");
        assert_eq!(claim.access_key, ACCESS);
        claim.verify(parts, &secret(), &SigningKeys::default(), ("us-east-1", now))
    }

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn get_object() -> Parts {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={ACCESS}/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;range;\
             x-amz-content-sha256;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let headers = [
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
            ("authorization", authorization.as_str()),
        ];
        parts("/test.txt", &headers)
    }

    #[test]
    fn the_documented_get_verifies() {
        verify(&get_object(), NOW).expect("the documented signature");
    }

    #[test]
    fn the_documented_listing_verifies() {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={ACCESS}/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;\
             x-amz-content-sha256;x-amz-date,Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
        let headers = [
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
            ("authorization", authorization.as_str()),
        ];
        verify(&parts("/?max-keys=2&prefix=J", &headers), NOW).expect("the documented signature");
    }

    #[test]
    fn the_documented_presigned_url_verifies_until_it_expires() {
        let uri = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524\
                   %2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400\
                   &X-Amz-SignedHeaders=host&X-Amz-Signature=\
                   aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        let parts = parts(uri, &[]);
        verify(&parts, NOW + 86_400).expect("the documented signature");
        assert_eq!(verify(&parts, NOW + 86_401).expect_err("expired").code, "AccessDenied");
    }

    #[test]
    fn whatever_is_changed_the_signature_does_not_fit() {
        let mut changed = get_object();
        changed.headers.insert("range", "bytes=0-10".parse().expect("a value"));
        assert_eq!(verify(&changed, NOW).expect_err("range").code, "SignatureDoesNotMatch");
        let mut changed = get_object();
        changed.uri = "/test2.txt".parse().expect("a path");
        assert_eq!(verify(&changed, NOW).expect_err("path").code, "SignatureDoesNotMatch");
        let mut changed = get_object();
        changed.method = http::Method::PUT;
        assert_eq!(verify(&changed, NOW).expect_err("method").code, "SignatureDoesNotMatch");
        let mut changed = get_object();
        changed.headers.insert("x-amz-meta-new", "unsigned".parse().expect("a value"));
        assert_eq!(verify(&changed, NOW).expect_err("header").code, "AccessDenied");
        assert_eq!(verify(&get_object(), NOW + 901).expect_err("late").code, "RequestTimeTooSkewed");
    }
}
