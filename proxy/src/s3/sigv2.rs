//! Signature version 2, with which boto3 still presigns URLs by default.
//!
//! Source: the S3 API's "Signing and authenticating REST requests". It covers neither the payload nor
//! most headers, so nothing but the named parts of a request is protected.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::request::Parts;
use kodiak_auth::Secret;
use sha1::Sha1;
use subtle::ConstantTimeEq;

use super::error::S3Error;
use crate::http::{header, parse_http_date};

/// How far the time of a request may be from ours, seconds.
const MAX_SKEW: u64 = 15 * 60;
/// The latest end of a presigned URL, seconds since 1970: what 32 bits hold.
const MAX_EXPIRES: u64 = u32::MAX as u64;
/// Query parameters that are part of the resource.
const SUBRESOURCES: [&str; 31] = [
    "accelerate",
    "acl",
    "cors",
    "delete",
    "encryption",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "partNumber",
    "policy",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// What a request says of its signer, not yet believed.
pub(super) struct Claim {
    pub(super) access_key: String,
    signature: Vec<u8>,
    /// Seconds since 1970 at which a presigned URL ends, as it was written.
    expires: Option<String>,
}

impl Claim {
    /// Reads the claim of a request; none if it is not signed in this way.
    pub(super) fn parse(parts: &Parts, query: &[(String, String)]) -> Result<Option<Claim>, S3Error> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| S3Error::signature());
        if let Some(fields) =
            header(&parts.headers, "authorization").and_then(|value| value.strip_prefix("AWS "))
        {
            let wrong = || S3Error::invalid_argument("Authorization header is invalid.");
            let (access_key, signature) = fields.trim().rsplit_once(':').ok_or_else(wrong)?;
            let signature = decode(signature)?;
            return Ok(Some(Claim { access_key: access_key.to_owned(), signature, expires: None }));
        }
        let find = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let Some(access_key) = find("AWSAccessKeyId") else { return Ok(None) };
        let missing = || {
            S3Error::denied(
                "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
            )
        };
        // A plus that was not encoded has become a space.
        let signature = find("Signature").ok_or_else(missing)?.replace(' ', "+");
        let expires = find("Expires").ok_or_else(missing)?;
        Ok(Some(Claim {
            access_key: access_key.to_owned(),
            signature: decode(&signature)?,
            expires: Some(expires.to_owned()),
        }))
    }

    /// Checks time and signature; `bucket` is that of a virtual host, `now` in seconds since 1970.
    pub(super) fn verify(
        &self,
        parts: &Parts,
        query: &[(String, String)],
        bucket: Option<&str>,
        (secret, now): (&Secret, u64),
    ) -> Result<(), S3Error> {
        let amz_date = header(&parts.headers, "x-amz-date");
        let date = match &self.expires {
            Some(expires) => {
                let at = expires.parse().ok().filter(|at: &u64| *at <= MAX_EXPIRES);
                let at = at.ok_or_else(|| S3Error::denied("Invalid date (should be seconds since epoch)"))?;
                if at < now {
                    return Err(S3Error::denied("Request has expired"));
                }
                expires.as_str()
            }
            None => {
                let given = amz_date.or_else(|| header(&parts.headers, "date"));
                let at = given.and_then(parse_http_date);
                let at = at.ok_or_else(|| {
                    S3Error::denied("AWS authentication requires a valid Date or x-amz-date header")
                })?;
                if at.abs_diff(now) > MAX_SKEW {
                    return Err(S3Error::skewed());
                }
                if amz_date.is_some() { "" } else { given.unwrap_or("") }
            }
        };
        let to_sign = to_sign(parts, query, bucket, date);
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).expect("a key of any length");
        mac.update(to_sign.as_bytes());
        if mac.finalize().into_bytes().ct_eq(&self.signature).into() {
            Ok(())
        } else {
            Err(S3Error::signature())
        }
    }
}

fn to_sign(parts: &Parts, query: &[(String, String)], bucket: Option<&str>, date: &str) -> String {
    let named = |name: &str| header(&parts.headers, name).unwrap_or("");
    let mut out = format!("{}\n{}\n{}\n{date}\n", parts.method, named("content-md5"), named("content-type"));
    let mut names: Vec<&str> =
        parts.headers.keys().map(|name| name.as_str()).filter(|name| name.starts_with("x-amz-")).collect();
    names.sort_unstable();
    for name in names {
        let values: Vec<&str> = parts
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok().map(str::trim))
            .collect();
        out.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    if let Some(bucket) = bucket {
        out.push('/');
        out.push_str(bucket);
    }
    out.push_str(parts.uri.path());
    let signed = |name: &String| SUBRESOURCES.contains(&name.as_str());
    let mut named: Vec<&(String, String)> = query.iter().filter(|(name, _)| signed(name)).collect();
    named.sort();
    for (index, (name, value)) in named.into_iter().enumerate() {
        out.push(if index == 0 { '?' } else { '&' });
        out.push_str(name);
        if !value.is_empty() {
            out.push_str(&format!("={value}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_presigned_url_verifies_until_it_expires_and_only_for_its_key() {
        let secret = Secret::new("secret");
        let parts = http::Request::builder().uri("/b/k").body(()).expect("a request").into_parts().0;
        let mut mac = Hmac::<Sha1>::new_from_slice(b"secret").expect("any key");
        mac.update(to_sign(&parts, &[], None, "1000").as_bytes());
        let signature = mac.finalize().into_bytes().to_vec();
        let claim = Claim { access_key: "a".into(), signature, expires: Some("1000".into()) };
        assert_eq!(claim.verify(&parts, &[], None, (&secret, 1000)), Ok(()));
        assert_eq!(claim.verify(&parts, &[], None, (&secret, 1001)).expect_err("late").code, "AccessDenied");
        let other = http::Request::builder().uri("/b/l").body(()).expect("a request").into_parts().0;
        let refused = claim.verify(&other, &[], None, (&secret, 1000)).expect_err("another key");
        assert_eq!(refused.code, "SignatureDoesNotMatch");
    }
}
