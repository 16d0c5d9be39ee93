//! A request as S3 sees it: whose, of which bucket and key, with which parameters.

use http::request::Parts;
use http::{HeaderMap, Method};
use kodiak_auth::Principal;
use kodiak_storage_api::ObjectPath;
use percent_encoding::percent_decode_str;

use super::S3Settings;
use super::error::S3Error;
use super::sigv4::{Payload, Verified};
use crate::http::header;

/// Longest key, bytes.
pub(super) const MAX_KEY: usize = 1024;

/// A request whose signer is known.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) bucket: Option<String>,
    pub(super) key: Option<String>,
    query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) principal: Principal,
    pub(super) payload: Payload,
    pub(super) verified: Verified,
}

impl Call {
    pub(super) fn new(
        parts: Parts,
        query: Vec<(String, String)>,
        settings: &S3Settings,
        principal: Principal,
        (payload, verified): (Payload, Verified),
    ) -> Result<Call, S3Error> {
        let path = percent_decode_str(parts.uri.path()).decode_utf8();
        let path = path.map_err(|_| S3Error::invalid_uri())?;
        if path.contains('\0') {
            return Err(S3Error::invalid_uri());
        }
        let path = path.strip_prefix('/').unwrap_or(&path);
        let whole = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let host = header(&parts.headers, "host").unwrap_or("");
        let (bucket, key) = match bucket_of_host(host, &settings.domains) {
            Some(bucket) => (Some(bucket), whole(path)),
            None => match path.split_once('/') {
                Some((bucket, key)) => (whole(bucket), whole(key)),
                None => (whole(path), None),
            },
        };
        if key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
            return Err(S3Error::key_too_long());
        }
        Ok(Call {
            method: parts.method,
            bucket,
            key,
            query,
            headers: parts.headers,
            principal,
            payload,
            verified,
        })
    }

    /// `x-amz-expected-bucket-owner` and its sibling for the source of a copy: both are the asker's.
    pub(super) fn check_owner(&self) -> Result<(), S3Error> {
        let owners = ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"];
        let wrong =
            owners.iter().filter_map(|name| self.header(name)).any(|owner| owner != self.principal.user);
        if wrong { Err(S3Error::access_denied()) } else { Ok(()) }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// A query parameter.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.query(name).is_some()
    }

    pub(super) fn account(&self) -> &str {
        &self.principal.account
    }

    /// The bucket's name; empty where there is none.
    pub(super) fn bucket(&self) -> &str {
        self.bucket.as_deref().unwrap_or("")
    }

    /// The key; empty where there is none.
    pub(super) fn key(&self) -> &str {
        self.key.as_deref().unwrap_or("")
    }

    pub(super) fn path(&self) -> ObjectPath {
        ObjectPath::new(self.account(), self.bucket(), self.key())
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

/// The bucket of a virtual host, if the host is one of the domains'.
pub(super) fn bucket_of_host(host: &str, domains: &[String]) -> Option<String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let bucket = domains.iter().find_map(|domain| name.strip_suffix(domain.as_str())?.strip_suffix('.'))?;
    (!bucket.is_empty()).then(|| bucket.to_owned())
}

/// Whether a bucket may have this name. Source: the API's "Bucket naming rules".
pub(super) fn valid_bucket_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (3..=63).contains(&name.len())
        && name.split('.').all(label)
        && name.parse::<std::net::Ipv4Addr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_host_names_the_bucket() {
        let domains = ["s3.example.com".to_owned(), "localhost".to_owned()];
        assert_eq!(bucket_of_host("b.c.s3.example.com:80", &domains), Some("b.c".into()));
        assert_eq!(bucket_of_host("b.localhost", &domains), Some("b".into()));
        assert_eq!(bucket_of_host("s3.example.com", &domains), None);
        assert_eq!(bucket_of_host("127.0.0.1:8080", &domains), None);
    }

    #[test]
    fn bucket_names_follow_the_rules() {
        for good in ["abc", "a-b.c1", "0bucket"] {
            assert!(valid_bucket_name(good), "{good}");
        }
        for bad in ["ab", "Abc", "a_b", "a..b", ".abc", "-abc", "abc-", "127.0.0.1", &"x".repeat(64)] {
            assert!(!valid_bucket_name(bad), "{bad}");
        }
    }
}
