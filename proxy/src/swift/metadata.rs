//! Which headers are stored, and within which limits.
//!
//! Source: Swift's API reference and the constraints that its `/info` announces.

use http::HeaderMap;

use super::acl;
use super::call::is_true;
use super::error::SwiftError;
use crate::http::stored_value;

/// Longest name of a metadata item, without its prefix.
pub(super) const MAX_META_NAME: usize = 128;
/// Longest value of a metadata item.
pub(super) const MAX_META_VALUE: usize = 256;
/// Most metadata items.
pub(super) const MAX_META_COUNT: usize = 90;
/// Longest names and values of all metadata together.
pub(super) const MAX_META_OVERALL: usize = 4096;
/// Longest value of any header.
pub(super) const MAX_HEADER: usize = 8192;

/// Headers of an object besides its metadata that are stored and answered.
const OBJECT_HEADERS: [&str; 7] = [
    "content-disposition",
    "content-encoding",
    "content-language",
    "cache-control",
    "expires",
    "x-robots-tag",
    "x-object-manifest",
];

/// What metadata belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Account,
    Container,
    Object,
}

impl Kind {
    /// Prefix of its metadata headers.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Kind::Account => "x-account-meta-",
            Kind::Container => "x-container-meta-",
            Kind::Object => "x-object-meta-",
        }
    }

    fn remove_prefix(self) -> &'static str {
        match self {
            Kind::Account => "x-remove-account-meta-",
            Kind::Container => "x-remove-container-meta-",
            Kind::Object => "x-remove-object-meta-",
        }
    }
}

/// Checks the metadata of a request against the limits.
pub(super) fn check(headers: &HeaderMap, kind: Kind) -> Result<(), SwiftError> {
    let (mut count, mut overall) = (0, 0);
    for (name, value) in headers {
        let name = name.as_str();
        if value.len() > MAX_HEADER {
            return Err(SwiftError::bad_request(format!("Header value too long: {}", cut(name))));
        }
        let Some(item) = name.strip_prefix(kind.prefix()) else { continue };
        if item.is_empty() {
            return Err(SwiftError::bad_request("Metadata name cannot be empty"));
        }
        // An object's metadata is its owner's business; an account's and a container's is listed as text.
        if kind != Kind::Object && std::str::from_utf8(value.as_bytes()).is_err() {
            return Err(SwiftError::bad_request("Metadata must be valid UTF-8"));
        }
        count += 1;
        overall += item.len() + value.len();
        if item.len() > MAX_META_NAME {
            let message = format!("Metadata name too long: {}", cut(name));
            return Err(SwiftError::bad_request(message));
        }
        if value.len() > MAX_META_VALUE {
            let message = format!("Metadata value longer than {MAX_META_VALUE}: {}", cut(name));
            return Err(SwiftError::bad_request(message));
        }
    }
    check_totals(count, overall)
}

/// Checks how many items there are and how long they are together: of a request, or of what a directory
/// would then have.
pub(super) fn check_totals(count: usize, overall: usize) -> Result<(), SwiftError> {
    if count > MAX_META_COUNT {
        return Err(SwiftError::bad_request(format!("Too many metadata items; max {MAX_META_COUNT}")));
    }
    if overall > MAX_META_OVERALL {
        return Err(SwiftError::bad_request(format!("Total metadata too large; max {MAX_META_OVERALL}")));
    }
    Ok(())
}

fn cut(name: &str) -> &str {
    name.get(..MAX_META_NAME).unwrap_or(name)
}

fn text(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Changes that a request makes to the headers of an account or container; empty values remove.
/// `owner`: may set what only owners set.
pub(super) fn directory_changes(
    headers: &HeaderMap,
    kind: Kind,
    owner: bool,
) -> Result<Vec<(String, String)>, SwiftError> {
    let mut changes = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        if !owner && name.contains("-meta-temp-url-key") {
            continue;
        }
        if let Some(item) = name.strip_prefix(kind.remove_prefix()) {
            changes.push((format!("{}{item}", kind.prefix()), String::new()));
        } else if name.starts_with(kind.prefix()) {
            changes.push((name.to_owned(), text(value)));
        }
    }
    // Setting wins over removing in the same request.
    changes.sort_by_key(|(_, value)| !value.is_empty());
    if kind == Kind::Container && owner {
        container_changes(headers, &mut changes)?;
    }
    Ok(changes)
}

fn container_changes(headers: &HeaderMap, changes: &mut Vec<(String, String)>) -> Result<(), SwiftError> {
    for name in ["x-container-read", "x-container-write"] {
        if headers.contains_key(format!("x-remove-{}", &name[2..])) {
            changes.push((name.to_owned(), String::new()));
        }
        let Some(value) = headers.get(name) else { continue };
        let list = acl::clean(&text(value), name == "x-container-write");
        changes.push((name.to_owned(), list.map_err(SwiftError::bad_request)?));
    }
    for name in ["x-container-sync-key", "x-container-sync-to"] {
        if let Some(value) = headers.get(name) {
            changes.push((name.to_owned(), text(value)));
        }
    }
    Ok(())
}

/// What a request stores with an object: headers, and when it ends.
pub(super) struct ObjectMeta {
    pub(super) headers: Vec<(String, String)>,
    pub(super) expires_at: Option<u64>,
}

/// Reads what a PUT or POST stores with an object.
pub(super) fn object_meta(headers: &HeaderMap, now: u64) -> Result<ObjectMeta, SwiftError> {
    check(headers, Kind::Object)?;
    let mut stored = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        if name.starts_with("x-object-meta-") || OBJECT_HEADERS.contains(&name) {
            stored.push((name.to_owned(), stored_value(value)));
        }
    }
    check_manifest(headers)?;
    Ok(ObjectMeta { headers: stored, expires_at: expiry(headers, now)? })
}

fn check_manifest(headers: &HeaderMap) -> Result<(), SwiftError> {
    let Some(value) = headers.get("x-object-manifest") else { return Ok(()) };
    let malformed = || SwiftError::bad_request("X-Object-Manifest must be in the format container/prefix");
    let value = super::call::decode(&text(value)).ok_or_else(malformed)?;
    let (container, prefix) = value.trim_start_matches('/').split_once('/').ok_or_else(malformed)?;
    let bad = container.is_empty()
        || prefix.is_empty()
        || value.contains(['?', '&', '\0'])
        || prefix.starts_with('/');
    if bad { Err(malformed()) } else { Ok(()) }
}

/// `X-Delete-After` and `X-Delete-At`, checked.
fn expiry(headers: &HeaderMap, now: u64) -> Result<Option<u64>, SwiftError> {
    if headers.get("x-remove-delete-at").is_some_and(|value| is_true(&text(value)) || !value.is_empty()) {
        return Ok(None);
    }
    crate::http::expires_at(headers, now).map_err(SwiftError::bad_request)
}

/// The content type of a new object: as sent, or guessed from the name.
pub(super) fn content_type(headers: &HeaderMap, name: &str) -> Result<String, SwiftError> {
    let detect = headers.get("x-detect-content-type").is_some_and(|value| is_true(&text(value)));
    let given = headers.get("content-type").filter(|value| !detect && !value.is_empty());
    match given.map(|value| String::from_utf8(value.as_bytes().to_vec())) {
        Some(Ok(given)) => Ok(given),
        Some(Err(_)) => Err(SwiftError::bad_request("Please specify the Content-Type as UTF-8")),
        // As the table that Swift's users know has it.
        None if name.ends_with(".wav") => Ok("audio/x-wav".into()),
        None => Ok(mime_guess::from_path(name).first_or_octet_stream().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&str, &str)| {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, http::HeaderValue::from_str(value).expect("a value"))
        };
        pairs.iter().map(parse).collect()
    }

    #[test]
    fn limits_are_enforced() {
        let long = "v".repeat(MAX_META_VALUE + 1);
        assert!(check(&headers(&[("x-object-meta-a", &long)]), Kind::Object).is_err());
        let name = format!("x-object-meta-{}", "n".repeat(MAX_META_NAME + 1));
        assert!(check(&headers(&[(&name, "v")]), Kind::Object).is_err());
        assert!(check(&headers(&[("x-object-meta-a", &long[1..])]), Kind::Object).is_ok());
        assert!(check_totals(MAX_META_COUNT + 1, 0).is_err());
    }
}
