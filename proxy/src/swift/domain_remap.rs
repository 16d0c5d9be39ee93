//! Accounts and containers as host names: `container.AUTH-account.domain/object`.
//!
//! Source: Swift's documentation of domain_remap.

use http::StatusCode;
use http::request::Parts;

use super::SwiftFront;
use super::error::SwiftError;
use crate::http::header;

/// What an account's name begins with; hosts may write it in any case, and `-` for `_`.
const PREFIX: &str = "AUTH";

impl SwiftFront {
    /// The path that the request's host and path stand for; none where the host names no account.
    pub(super) fn remap(&self, parts: &Parts) -> Result<Option<String>, SwiftError> {
        let domains = &self.settings.storage_domains;
        if domains.is_empty() {
            return Ok(None);
        }
        let Some(labels) = header(&parts.headers, "host").and_then(|host| labels(host, domains)) else {
            return Ok(None);
        };
        let (container, account) = match labels.split('.').collect::<Vec<_>>()[..] {
            [account] => (None, account),
            [container, account] => (Some(container), account),
            _ => return Err(SwiftError::new(StatusCode::BAD_REQUEST, "Bad domain in host header")),
        };
        let container = container.map(|container| format!("/{container}")).unwrap_or_default();
        Ok(real_account(account).map(|account| format!("/v1/{account}{container}{}", parts.uri.path())))
    }
}

/// The labels of a host before one of the domains.
pub(super) fn labels<'a>(host: &'a str, domains: &[String]) -> Option<&'a str> {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    domains.iter().find_map(|domain| {
        let domain = domain.trim_start_matches('.');
        let start = host.len().checked_sub(domain.len())?;
        let same = host.get(start..)?.eq_ignore_ascii_case(domain);
        host.get(..start)?.strip_suffix('.').filter(|labels| same && !labels.is_empty())
    })
}

fn real_account(label: &str) -> Option<String> {
    let separator = if label.contains('_') { '_' } else { '-' };
    let (prefix, name) = label.split_once(separator)?;
    prefix.eq_ignore_ascii_case(PREFIX).then(|| format!("{PREFIX}_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_below_a_domain_have_labels() {
        let domains = ["example.net".to_owned()];
        let labels = |host| labels(host, &domains);
        assert_eq!(labels("c.AUTH_a.Example.net:80"), Some("c.AUTH_a"));
        for other in ["example.net", ".example.net", "badexample.net", "example.org", "é"] {
            assert_eq!(labels(other), None, "{other}");
        }
    }

    #[test]
    fn an_account_is_recognized_by_its_prefix() {
        assert_eq!(real_account("auth-a-b").as_deref(), Some("AUTH_a-b"));
        assert_eq!(real_account("AUTH_a_b").as_deref(), Some("AUTH_a_b"));
        assert_eq!(real_account("other_a"), None);
        assert_eq!(real_account("auth"), None);
    }
}
