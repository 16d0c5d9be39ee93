//! Ways into this front's parsers, for `fuzz/`.

use kodiak_storage_api::ObjectPath;

use super::acl::{self, AccessList};
use crate::large;

/// A manifest as a client sends it, and as it is stored.
pub fn manifest(text: &[u8]) {
    let _ = super::slo_put::parse(text, &ObjectPath::new("a", "c", "manifest"));
    if let Ok(entries) = large::parse(text) {
        for entry in &entries {
            entry.path("a");
            entry.length();
        }
        large::entries_etag(&entries);
    }
}

/// An access list, and the page that a request comes from.
pub fn access_list(text: &str, referrer: &str) {
    for write in [false, true] {
        let _ = acl::clean(text, write);
    }
    let list = AccessList::parse(text);
    list.listings();
    list.allows_referrer(Some(referrer));
}
