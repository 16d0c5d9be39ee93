//! Versions of objects.
//!
//! **Where they are.** A container that keeps versions has a second one, which nobody can name:
//! `NUL versions NUL container` in the same account. A version is an object of it, named `NUL object NUL
//! inverted-id`, so that a name's newest version comes first; no such name is ever used twice. The name
//! itself holds a *link* ([`Layout::Version`]) to the version that is current, or an object as in every
//! other container: its version without an id, `null`. A delete marker is a version without bytes.
//!
//! **What is on stable storage when.** A write stores the version, then the link; it is answered when
//! both are. A crash between them leaves the name as it was, and a version that nobody was told of. A
//! deletion stores its marker and then removes the link. The removal of the current version moves or
//! removes the link first. So a link never names a version that is not there, and nothing that was
//! acknowledged depends on a step that comes later. All steps of a name's change are made under its lock.
//!
//! **Objects from before.** When a link is to replace an object without an id, the object gets a second
//! record among the versions first, at its own time, with the same extents. That the link replaces the
//! first record then queues these extents for deletion, as always; the worker asks
//! [`Store::without_kept`] whether a version names them. To ask when they are to be deleted, and not to
//! note it when they are replaced, is right too when a lost index is made anew from volumes that no
//! longer hold every record between the two.

mod containers;
mod legacy;
mod list;
mod read;
mod remove;
mod write;

use kodiak_storage_api::{Directory, ObjectPath, ObjectRecord, Row, VersionId};

pub use legacy::{LOCATION, LOCATION_MODE, Location};
pub use list::{VersionEntry, VersionMarker, VersionPage, VersionQuery, VersionRow};
pub use remove::Deletion;

#[cfg(doc)]
use super::Store;
#[cfg(doc)]
use kodiak_storage_api::Layout;

/// Header of a container that keeps versions, or has kept some: `True` or `False`.
pub const ENABLED: &str = "x-container-sysmeta-versions-enabled";
/// Header of an account that has such containers.
const ACCOUNT: &str = "x-account-sysmeta-versions";
/// Content type of delete markers.
pub const DELETE_MARKER: &str = "application/x-deleted;swift_versions_deleted=1";
/// Listing field of a version that had no id when it was current.
const NULL: &str = "-null";

/// Whether a container keeps versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Versioning {
    /// It never has.
    #[default]
    Never,
    /// It does.
    Enabled,
    /// No more, but earlier versions may be there.
    Suspended,
}

impl Versioning {
    /// What a container's record says.
    pub fn of(container: &Directory) -> Versioning {
        match container.header(ENABLED) {
            None => Versioning::Never,
            Some("True") => Versioning::Enabled,
            Some(_) => Versioning::Suspended,
        }
    }

    /// How changes treat what is there; `suspended`: in a container that keeps no more versions.
    pub fn mode(self, suspended: Mode) -> Mode {
        match self {
            Versioning::Never => Mode::Replace,
            Versioning::Enabled => Mode::Keep,
            Versioning::Suspended => suspended,
        }
    }
}

/// What a write or a deletion of a name does with what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The name's object goes; versions stay.
    Replace,
    /// It stays as a version, and what is written gets an id.
    Keep,
    /// As [`Mode::Replace`], but of all versions without an id the one that is written remains (S3).
    ReplaceNull,
}

/// What a write has stored.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object.
    pub record: ObjectRecord,
    /// Its version, if it has an id.
    pub version: Option<VersionId>,
}

/// Whether a version says that the object was deleted.
pub fn is_delete_marker(record: &ObjectRecord) -> bool {
    record.content_type == DELETE_MARKER
}

/// Whether a version had no id when it was current.
pub fn is_null(record: &ObjectRecord) -> bool {
    record.listing.iter().any(|(name, _)| name == NULL)
}

/// Whether a row is of a version that had no id when it was current.
pub fn is_null_row(row: &Row) -> bool {
    row.extra(NULL).is_some()
}

fn is_marker_row(row: &Row) -> bool {
    row.content_type == DELETE_MARKER
}

/// The container of a container's versions.
fn versions_container(container: &str) -> String {
    format!("\0versions\0{container}")
}

/// What the names of an object's versions begin with.
fn versions_prefix(object: &str) -> String {
    format!("\0{object}\0")
}

/// The container of an object's versions, and what their names there begin with.
pub(super) fn versions_of(object: &ObjectPath) -> (String, String) {
    (versions_container(object.container()), versions_prefix(object.object()))
}

/// The object that a path is, or is a version of.
pub(super) fn object_of(path: &ObjectPath) -> ObjectPath {
    let container = path.container().strip_prefix(&versions_container(""));
    match container.zip(parse_version(path.object())) {
        Some((container, (object, _))) => ObjectPath::new(path.account(), container, object),
        None => path.clone(),
    }
}

/// Where a version of an object is.
fn version_path(object: &ObjectPath, id: VersionId) -> ObjectPath {
    let name = format!("{}{}", versions_prefix(object.object()), id.inverted());
    ObjectPath::new(object.account(), &versions_container(object.container()), &name)
}

/// The object and the version that a name among the versions is of.
fn parse_version(name: &str) -> Option<(&str, VersionId)> {
    let (object, id) = name.strip_prefix('\0')?.rsplit_once('\0')?;
    Some((object, VersionId::from_inverted(id)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kodiak_storage_api::Timestamp;

    #[test]
    fn a_version_is_named_after_its_object_and_the_newest_comes_first() {
        let object = ObjectPath::new("a", "c", "o/p");
        let (old, new) = (Timestamp::from_micros(5, 0), Timestamp::from_micros(6, 0));
        let (old, new) = (version_path(&object, VersionId(old)), version_path(&object, VersionId(new)));
        assert_eq!(old.container(), "\0versions\0c");
        assert!(new.object() < old.object());
        let id = VersionId(Timestamp::from_micros(5, 0));
        assert_eq!(parse_version(old.object()), Some(("o/p", id)));
        assert_eq!(parse_version("o"), None);
    }
}
