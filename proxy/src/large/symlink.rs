//! Symlinks: objects without bytes that stand for another object, which need not exist.
//!
//! A dynamic link stands for a name; a static one for the object that had an ETag when the link was made.

use kodiak_storage_api::{ObjectPath, ObjectRecord};

use super::Access;
use crate::store::{OpenObject, SharedStore, StoreError};

/// Stored header with `container/object` of the target; not percent-encoded.
pub const TARGET: &str = "x-object-sysmeta-symlink-target";
/// Stored header with the target's account, where it is named.
pub const ACCOUNT: &str = "x-object-sysmeta-symlink-target-account";
/// Stored header with the ETag that a static link's target must have.
pub const ETAG: &str = "x-object-sysmeta-symlink-target-etag";
/// Stored header with the size of a static link's target.
pub const BYTES: &str = "x-object-sysmeta-symlink-target-bytes";

/// Links that are followed in a row.
pub const MAX_LINKS: usize = 2;

/// Where a symlink leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The object it stands for.
    pub target: ObjectPath,
    /// The ETag that the target must have; none for a dynamic link.
    pub etag: Option<String>,
}

impl Link {
    /// The link that an object of an account is; none if it is something else.
    pub fn of(record: &ObjectRecord, account: &str) -> Option<Link> {
        if record.size > 0 {
            return None;
        }
        let (container, object) = record.header(TARGET)?.split_once('/')?;
        let account = record.header(ACCOUNT).unwrap_or(account);
        Some(Link {
            target: ObjectPath::new(account, container, object),
            etag: record.header(ETAG).map(str::to_owned),
        })
    }
}

/// Whether an object is a symlink.
pub fn is_link(record: &ObjectRecord) -> bool {
    record.size == 0 && record.header(TARGET).is_some()
}

/// A link that leads nowhere.
#[derive(Debug)]
pub struct Broken {
    /// What the last link stood for.
    pub target: ObjectPath,
    /// What is wrong with it.
    pub why: Why,
}

/// Why a link leads nowhere.
#[derive(Debug)]
pub enum Why {
    /// More than [`MAX_LINKS`] in a row, or a circle.
    TooMany,
    /// Two static links want different ETags.
    LinksDiffer,
    /// The target is no longer what a static link wants.
    Changed {
        /// The target's ETag.
        found: String,
        /// The link's.
        wanted: String,
    },
    /// The target cannot be opened.
    Unopened(StoreError),
}

impl From<Broken> for StoreError {
    fn from(broken: Broken) -> StoreError {
        match broken.why {
            Why::TooMany => StoreError::Refused(too_many()),
            Why::LinksDiffer => StoreError::Refused("symbolic links want different ETags".into()),
            Why::Changed { .. } => StoreError::Refused("the target of a symbolic link has changed".into()),
            Why::Unopened(error) => error,
        }
    }
}

/// What is said of too long a chain.
pub fn too_many() -> String {
    format!("Too many levels of symbolic links, maximum allowed is {MAX_LINKS}")
}

/// The object that an object stands for: itself unless it is a link.
pub async fn follow(
    store: &SharedStore,
    access: &Access,
    object: OpenObject,
) -> Result<OpenObject, Box<Broken>> {
    let itself = object.path().clone();
    chase(store, access, (object, itself), None, |_| true).await
}

/// The object that a new static link with this ETag would stand for. A dynamic link stands for itself here:
/// its own ETag, that of no bytes, is the one that never changes.
pub async fn check(
    store: &SharedStore,
    access: &Access,
    target: ObjectPath,
    etag: &str,
) -> Result<OpenObject, Box<Broken>> {
    let object = open(store, access, &target).await?;
    chase(store, access, (object, target), Some(etag.to_owned()), |link| link.etag.is_some()).await
}

async fn chase(
    store: &SharedStore,
    access: &Access,
    (mut object, mut target): (OpenObject, ObjectPath),
    mut wanted: Option<String>,
    followed: impl Fn(&Link) -> bool,
) -> Result<OpenObject, Box<Broken>> {
    let mut links = 0;
    loop {
        let link = Link::of(object.record(), object.path().account()).filter(&followed);
        let Some(link) = link else {
            let found = &object.record().etag;
            return match wanted {
                Some(wanted) if wanted != *found => {
                    let found = found.clone();
                    Err(Box::new(Broken { target, why: Why::Changed { found, wanted } }))
                }
                _ => Ok(object),
            };
        };
        let found = link.etag.as_ref().unwrap_or(&object.record().etag);
        if wanted.is_some_and(|wanted| wanted != *found) {
            return Err(Box::new(Broken { target, why: Why::LinksDiffer }));
        }
        if links == MAX_LINKS {
            return Err(Box::new(Broken { target, why: Why::TooMany }));
        }
        links += 1;
        object = open(store, access, &link.target).await?;
        (target, wanted) = (link.target, link.etag);
    }
}

async fn open(store: &SharedStore, access: &Access, target: &ObjectPath) -> Result<OpenObject, Box<Broken>> {
    let broken = |error| Box::new(Broken { target: target.clone(), why: Why::Unopened(error) });
    let container = store.container_record(target.account(), target.container()).await.map_err(broken)?;
    if !access(&container) {
        return Err(broken(StoreError::Denied));
    }
    store.open(target, container.policy).await.map_err(broken)
}

#[cfg(test)]
mod tests {
    use kodiak_storage_api::{Layout, Timestamp};

    use super::*;

    fn record(size: u64, headers: &[(&str, &str)]) -> ObjectRecord {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ObjectRecord {
            timestamp: Timestamp::ZERO,
            size,
            etag: String::new(),
            content_type: String::new(),
            headers: headers.iter().map(own).collect(),
            listing: Vec::new(),
            expires_at: None,
            layout: Layout::Inline,
        }
    }

    #[test]
    fn a_link_is_of_its_own_account_unless_it_names_one() {
        let link = Link::of(&record(0, &[(TARGET, "c/d/e")]), "a").expect("a link");
        assert_eq!(link, Link { target: ObjectPath::new("a", "c", "d/e"), etag: None });
        let link =
            Link::of(&record(0, &[(TARGET, "c/o"), (ACCOUNT, "b"), (ETAG, "x")]), "a").expect("a link");
        assert_eq!(link, Link { target: ObjectPath::new("b", "c", "o"), etag: Some("x".into()) });
    }

    #[test]
    fn what_has_bytes_is_no_link() {
        let record = record(1, &[(TARGET, "c/o")]);
        assert!(!is_link(&record));
        assert_eq!(Link::of(&record, "a"), None);
    }
}
