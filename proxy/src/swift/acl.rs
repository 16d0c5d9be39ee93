//! Access lists of containers: `X-Container-Read` and `X-Container-Write`.
//!
//! Source: Swift's overview_acl. Elements are `account`, `account:user` (with `*`), `.r:host`,
//! `.r:-host`, `.r:.domain`, `.r:*` and `.rlistings`.

use kodiak_auth::Principal;

/// An access list whose syntax has been checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AccessList {
    referrers: Vec<String>,
    groups: Vec<String>,
    listings: bool,
}

impl AccessList {
    /// Reads a stored list.
    pub(super) fn parse(text: &str) -> AccessList {
        let mut list = AccessList::default();
        for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
            if let Some(referrer) = element.strip_prefix(".r:") {
                list.referrers.push(referrer.to_owned());
            } else if element == ".rlistings" {
                list.listings = true;
            } else {
                list.groups.push(element.to_owned());
            }
        }
        list
    }

    /// Whether the list names the principal.
    pub(super) fn names(&self, principal: &Principal) -> bool {
        self.groups.iter().any(|element| principal.is_named(element))
    }

    /// Whether anybody may list.
    pub(super) fn listings(&self) -> bool {
        self.listings
    }

    /// Whether a request that comes from this page may read. The last element that fits decides.
    pub(super) fn allows_referrer(&self, referrer: Option<&str>) -> bool {
        let host = referrer.and_then(host_of).unwrap_or_default();
        let mut allowed = false;
        for element in &self.referrers {
            let (fits, verdict) = match element.strip_prefix('-') {
                Some(denied) => (matches_host(denied, &host), false),
                None => (matches_host(element, &host), true),
            };
            if fits {
                allowed = verdict;
            }
        }
        allowed
    }
}

fn matches_host(element: &str, host: &str) -> bool {
    element == "*" || element == host || (element.starts_with('.') && host.ends_with(element))
}

fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("//")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    Some(host.split(':').next()?.to_ascii_lowercase())
}

/// The list in its stored form, or why it is not one. `write`: referrers make no sense there.
pub(super) fn clean(text: &str, write: bool) -> Result<String, String> {
    let mut elements = Vec::new();
    for raw in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        let Some((first, second)) = raw.split_once(':') else {
            if write && raw == ".rlistings" {
                return Err(format!("Referrers not allowed in write ACL: {raw:?}"));
            }
            elements.push(raw.to_owned());
            continue;
        };
        let (first, second) = (first.trim(), second.trim());
        if !first.starts_with('.') {
            elements.push(raw.to_owned());
            continue;
        }
        if !matches!(first, ".r" | ".ref" | ".referer" | ".referrer") {
            return Err(format!("Unknown designator {first:?} in ACL: {raw:?}"));
        }
        if write {
            return Err(format!("Referrers not allowed in write ACL: {raw:?}"));
        }
        elements.push(referrer(second, raw)?);
    }
    Ok(elements.join(","))
}

fn referrer(value: &str, raw: &str) -> Result<String, String> {
    let (sign, host) = match value.strip_prefix('-') {
        Some(host) => ("-", host.trim()),
        None => ("", value),
    };
    // `*.domain` is `.domain`.
    let host = if host != "*" { host.strip_prefix('*').unwrap_or(host).trim() } else { host };
    if host.is_empty() || host == "." {
        return Err(format!("No host/domain value after referrer designation in ACL: {raw:?}"));
    }
    Ok(format!(".r:{sign}{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_referrer_that_fits_decides() {
        let list = AccessList::parse(".r:*,.r:-.example.com,.r:ok.example.com,.rlistings");
        assert!(list.listings());
        assert!(list.allows_referrer(None));
        assert!(!list.allows_referrer(Some("http://www.example.com/page")));
        assert!(list.allows_referrer(Some("https://u@ok.example.com:8080/page")));
        assert!(!AccessList::parse("test:tester").allows_referrer(None));
    }

    #[test]
    fn lists_are_cleaned_or_refused() {
        assert_eq!(clean(" .referrer : *.example.com , a:b ", false), Ok(".r:.example.com,a:b".into()));
        assert!(clean(".r:", false).is_err());
        assert!(clean(".unknown:x", false).is_err());
        assert!(clean(".r:*", true).is_err());
        assert_eq!(clean("a,b:c", true), Ok("a,b:c".into()));
    }
}
