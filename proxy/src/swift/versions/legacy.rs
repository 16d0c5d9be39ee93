//! Headers of the older versioning, in which a container names another one (see `store::Location`).

use kodiak_storage_api::DirectoryInfo;

use crate::store::{LOCATION, LOCATION_MODE, Location, Versioning};
use crate::swift::call::{Call, decode};
use crate::swift::error::SwiftError;

const STACK_HEADER: &str = "x-versions-location";
const HISTORY_HEADER: &str = "x-history-location";

/// The header that tells of a location.
pub(super) fn header(location: &Location<'_>) -> &'static str {
    if location.history { HISTORY_HEADER } else { STACK_HEADER }
}

/// What a PUT or POST of a container changes of where copies are kept.
pub(super) fn changes(
    call: &Call,
    info: Option<&DirectoryInfo>,
    changes: &mut Vec<(String, String)>,
) -> Result<(), SwiftError> {
    let given = |name: &'static str| call.header(name).filter(|value| !value.is_empty());
    let (location, mode) = match (given(STACK_HEADER), given(HISTORY_HEADER)) {
        (Some(_), Some(_)) => {
            return Err(SwiftError::bad_request(format!(
                "Only one of {STACK_HEADER} or {HISTORY_HEADER} may be specified"
            )));
        }
        (Some(location), None) => (location, "stack"),
        (None, Some(location)) => (location, "history"),
        (None, None) => {
            let empty = [STACK_HEADER, HISTORY_HEADER].iter().any(|name| call.headers.contains_key(*name));
            let removed = given("x-remove-versions-location").or_else(|| given("x-remove-history-location"));
            if empty || removed.is_some() {
                changes.push((LOCATION.into(), String::new()));
                changes.push((LOCATION_MODE.into(), String::new()));
            }
            return Ok(());
        }
    };
    if decode(location).is_none_or(|name| name.is_empty() || name.contains(['/', '\0'])) {
        return Err(SwiftError::precondition("Container name cannot be empty or contain slashes"));
    }
    if info.is_some_and(|info| Versioning::of(&info.directory) != Versioning::Never) {
        return Err(SwiftError::bad_request("The container keeps versions by X-Versions-Enabled."));
    }
    changes.push((LOCATION.into(), location.into()));
    changes.push((LOCATION_MODE.into(), mode.into()));
    Ok(())
}
