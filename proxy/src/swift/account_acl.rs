//! Access lists of accounts: `X-Account-Access-Control`, JSON with `admin`, `read-write` and `read-only`.
//!
//! Source: Swift's documentation of TempAuth.

use http::HeaderMap;
use kodiak_auth::Principal;
use kodiak_storage_api::Directory;
use serde::{Deserialize, Serialize};

use super::auth::Want;
use super::error::SwiftError;

/// The header of requests and answers.
pub(super) const HEADER: &str = "x-account-access-control";
/// The header that is stored, which no request can set by its name.
const STORED: &str = "x-account-sysmeta-core-access-control";

/// What an account's list lets somebody do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Level {
    Nothing,
    /// See the account, its containers and their objects.
    Read,
    /// Change containers and objects, but not the account.
    Write,
    /// All that the owner may.
    Admin,
}

impl Level {
    pub(super) fn permits(self, want: Want) -> bool {
        match want {
            Want::Read | Want::List => self >= Level::Read,
            Want::Write | Want::Own => self >= Level::Write,
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Members {
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_write: Option<Vec<String>>,
}

/// What the account's list lets the principal do.
pub(super) fn level(account: &Directory, principal: &Principal) -> Level {
    let Some(stored) = account.header(STORED) else { return Level::Nothing };
    // An unreadable list lets nobody in.
    let members: Members = serde_json::from_str(stored).unwrap_or_default();
    let among = |list: &Option<Vec<String>>| list.iter().flatten().any(|member| is_in(principal, member));
    if among(&members.admin) {
        Level::Admin
    } else if among(&members.read_write) {
        Level::Write
    } else if among(&members.read_only) {
        Level::Read
    } else {
        Level::Nothing
    }
}

/// Members are users, `account:user`, and whole accounts, by name or as the storage account.
fn is_in(principal: &Principal, member: &str) -> bool {
    let account = principal.user.split(':').next().unwrap_or("");
    member == principal.user || member == account || (principal.owner && member == principal.account)
}

/// The change that a request makes to the list.
pub(super) fn change(headers: &HeaderMap) -> Result<Option<(String, String)>, SwiftError> {
    let Some(text) = headers.get(HEADER) else { return Ok(None) };
    let text = std::str::from_utf8(text.as_bytes()).unwrap_or("\u{fffd}");
    let members: Members = match text {
        "" => Members::default(),
        text => serde_json::from_str(text).map_err(|error| {
            let message = format!("X-Account-Access-Control invalid: {error}\n\nInput: {text}\n");
            SwiftError::bad_request(message)
        })?,
    };
    let json = serde_json::to_string(&members).map_err(|error| SwiftError::bad_request(error.to_string()))?;
    Ok(Some((STORED.to_owned(), if json == "{}" { String::new() } else { ascii(&json) })))
}

/// The list as answers show it.
pub(super) fn shown(account: &Directory) -> Option<&str> {
    account.header(STORED)
}

/// JSON whose text is escaped where a header could not hold it.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use kodiak_storage_api::{HeaderValue as Held, PolicyIndex, Timestamp};

    fn changed(json: &str) -> Result<String, SwiftError> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(json.as_bytes()).expect("a value"));
        change(&headers).map(|change| change.expect("a change").1)
    }

    #[test]
    fn a_list_is_stored_compact_and_in_ascii_or_refused() {
        assert_eq!(changed("{ \"admin\": [\"é\"] }").ok().as_deref(), Some("{\"admin\":[\"\\u00e9\"]}"));
        assert_eq!(changed("{}").ok().as_deref(), Some(""));
        for bad in ["yuck", "[]", "{\"admin\":\"x\"}", "{\"other\":[]}", "{\"admin\":[1]}"] {
            assert!(changed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_highest_level_that_names_somebody_holds() {
        let value = changed("{\"read-only\":[\"test\"],\"read-write\":[\"test:b\"]}").expect("a list");
        let held = Held { value, timestamp: Timestamp::ZERO };
        let account = Directory {
            name: "AUTH_x".into(),
            created: Timestamp::ZERO,
            deleted: Timestamp::ZERO,
            policy: PolicyIndex(0),
            headers: [(STORED.to_owned(), held)].into(),
        };
        let user = |user: &str| Principal {
            user: user.into(),
            account: "AUTH_test".into(),
            owner: false,
            reseller_admin: false,
        };
        assert_eq!(level(&account, &user("test:a")), Level::Read);
        assert_eq!(level(&account, &user("test:b")), Level::Write);
        assert_eq!(level(&account, &user("other:a")), Level::Nothing);
        assert!(Level::Write.permits(Want::Own) && !Level::Read.permits(Want::Write));
    }
}
