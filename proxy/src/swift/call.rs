//! A request as Swift sees it: whose, of what, with which parameters.

use std::sync::OnceLock;

use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use kodiak_auth::Principal;
use kodiak_storage_api::ObjectPath;
use percent_encoding::percent_decode_str;

use super::account_acl::Level;
use super::error::SwiftError;
use super::tempurl::Scope;
use crate::http::header;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) account: String,
    pub(super) container: Option<String>,
    pub(super) object: Option<String>,
}

/// Longest names, bytes.
pub(super) const MAX_OBJECT_NAME: usize = 1024;
pub(super) const MAX_CONTAINER_NAME: usize = 256;
pub(super) const MAX_ACCOUNT_NAME: usize = 256;

impl Target {
    /// Reads `/v1/account[/container[/object]]`, percent-encoded.
    pub(super) fn parse(path: &str) -> Result<Target, SwiftError> {
        let rest = path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v1.0/"));
        let bad_url = || SwiftError::precondition("Bad URL");
        let Some(rest) = rest else {
            let whole = path.trim_start_matches('/').contains('/');
            return Err(if whole { SwiftError::not_found() } else { bad_url() });
        };
        let rest = decode(rest).ok_or_else(invalid_utf8)?;
        if rest.contains('\0') {
            return Err(invalid_utf8());
        }
        let mut names = rest.splitn(3, '/');
        let mut next = || names.next().map(str::to_owned).filter(|name| !name.is_empty());
        let (account, container, object) = (next(), next(), next());
        let account = match (account, &container, &object) {
            (Some(account), ..) => account,
            (None, None, None) => return Err(bad_url()),
            _ => return Err(SwiftError::not_found()),
        };
        if container.is_none() && object.is_some() {
            return Err(SwiftError::not_found());
        }
        let target = Target { account, container, object };
        target.check_lengths()?;
        Ok(target)
    }

    pub(super) fn check_lengths(&self) -> Result<(), SwiftError> {
        let too_long = |name: &Option<String>, what: &str, limit: usize| match name {
            Some(name) if name.len() > limit => Err(SwiftError::bad_request(format!(
                "{what} name length of {} longer than {limit}",
                name.len()
            ))),
            _ => Ok(()),
        };
        too_long(&Some(self.account.clone()), "Account", MAX_ACCOUNT_NAME)?;
        too_long(&self.container, "Container", MAX_CONTAINER_NAME)?;
        too_long(&self.object, "Object", MAX_OBJECT_NAME)
    }

    /// `container/object` of a header such as `X-Copy-From`, percent-encoded, in this account.
    pub(super) fn of_header(account: &str, value: &str, name: &str) -> Result<Target, SwiftError> {
        let malformed = || {
            SwiftError::precondition(format!(
                "{name} header must be of the form <container name>/<object name>"
            ))
        };
        let path = decode(value).ok_or_else(malformed)?;
        // Names with a NUL are the cluster's own.
        if path.contains('\0') || account.contains('\0') {
            return Err(invalid_utf8());
        }
        let path = path.strip_prefix('/').unwrap_or(&path);
        match path.split_once('/') {
            Some((container, object)) if !container.is_empty() && !object.is_empty() => {
                let target = Target {
                    account: account.to_owned(),
                    container: Some(container.to_owned()),
                    object: Some(object.to_owned()),
                };
                target.check_lengths()?;
                Ok(target)
            }
            _ => Err(malformed()),
        }
    }

    /// The object's path, for a target that names one.
    pub(super) fn object_path(&self) -> Option<ObjectPath> {
        Some(ObjectPath::new(&self.account, self.container.as_deref()?, self.object.as_deref()?))
    }
}

fn invalid_utf8() -> SwiftError {
    SwiftError::precondition("Invalid UTF8 or contains NULL")
}

/// Undoes percent-encoding; none if the result is not UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

/// The query of a request, decoded.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Result<Query, SwiftError> {
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |text: &str| {
                let text = decode(&text.replace('+', " "));
                text.ok_or_else(|| SwiftError::bad_request("Invalid parameter: not valid UTF-8"))
            };
            pairs.push((text(name)?, text(value)?));
        }
        Ok(Query(pairs))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Its value, if it is there and not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// Drops all other parameters.
    pub(super) fn keep(&mut self, names: &[&str]) {
        self.0.retain(|(name, _)| names.contains(&name.as_str()));
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether a parameter says yes, in one of the spellings that Swift takes.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }
}

/// Whether a value says yes.
pub(super) fn is_true(value: &str) -> bool {
    ["true", "1", "yes", "on", "t", "y"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// A request on its way through the front.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// As the client sent it.
    pub(super) uri: Uri,
    pub(super) target: Target,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    /// Who asks; none: anybody.
    pub(super) principal: Option<Principal>,
    /// A signed URL has already decided what this request may do.
    pub(super) preauthorized: Option<Scope>,
    /// What the account's access list lets the asker do, once that has been looked up.
    pub(super) level: OnceLock<Level>,
}

impl Call {
    /// Reads a request; `path` replaces the path that it names.
    pub(super) fn parse(parts: Parts, path: Option<&str>) -> Result<Call, SwiftError> {
        Ok(Call {
            target: Target::parse(path.unwrap_or_else(|| parts.uri.path()))?,
            query: Query::parse(parts.uri.query().unwrap_or(""))?,
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            principal: None,
            preauthorized: None,
            level: OnceLock::new(),
        })
    }

    /// The same asker's request for something else.
    pub(super) fn with_target(&self, method: Method, target: Target) -> Call {
        let mut call = Call { method, target, ..self.clone() };
        if call.target.account != self.target.account {
            call.level = OnceLock::new();
        }
        call
    }

    /// The same request for another object of the container.
    pub(super) fn with_object(&self, object: String) -> Call {
        let target = Target { object: Some(object), ..self.target.clone() };
        self.with_target(self.method.clone(), target)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(super) fn account(&self) -> &str {
        &self.target.account
    }

    /// The container's name; empty for an account.
    pub(super) fn container(&self) -> &str {
        self.target.container.as_deref().unwrap_or("")
    }

    pub(super) fn object_path(&self) -> Result<ObjectPath, SwiftError> {
        self.target.object_path().ok_or_else(SwiftError::not_found)
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether the asker owns the account: sees what only owners see.
    pub(super) fn by_owner(&self) -> bool {
        self.principal.as_ref().is_some_and(|principal| principal.owns(&self.target.account))
            || self.level.get() == Some(&Level::Admin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_an_account_a_container_or_an_object() {
        let target = Target::parse("/v1/AUTH_a/c/d%20e/f/").expect("a path");
        assert_eq!(target.object.as_deref(), Some("d e/f/"));
        assert_eq!(Target::parse("/v1/AUTH_a/c/").expect("a path").object, None);
        assert_eq!(Target::parse("/v1/AUTH_a/").expect("a path").container, None);
        for bad in ["/v1/", "/v2/a", "/v1/a/%00", "/v1/a/%ff", "/v1/a//o"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_copy_source_needs_container_and_object() {
        let target = Target::of_header("a", "/c/o%2Fp", "X-Copy-From").expect("a source");
        assert_eq!((target.container.as_deref(), target.object.as_deref()), (Some("c"), Some("o/p")));
        for bad in ["c", "/c", "c/", "//o", "%00c/o", "c/%00o"] {
            assert!(Target::of_header("a", bad, "X-Copy-From").is_err(), "{bad}");
        }
    }
}
