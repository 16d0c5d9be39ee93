//! Bulk delete: many names in one request.

use http::{Method, StatusCode};

use super::SwiftFront;
use super::auth::Want;
use super::bulk_report::Report;
use super::call::{Call, Target, decode};
use super::error::{Answer, SwiftError, status_line};
use crate::http::RequestBody;
use crate::store::Precondition;

/// Names of one request.
pub(super) const MAX_DELETES: usize = 10_000;
/// Longest body: so many names, each as long as may be and percent-encoded.
const MAX_BODY: usize = 8 << 20;

/// What became of the names.
#[derive(Default)]
pub(super) struct Deleted {
    deleted: usize,
    not_found: usize,
    errors: Vec<(String, String)>,
    denied: bool,
}

impl Deleted {
    pub(super) fn failed(&mut self, target: &Target, status: StatusCode) {
        self.failed_as(target, status, status_line(status));
    }

    /// With other words than the status has.
    pub(super) fn failed_as(&mut self, target: &Target, status: StatusCode, what: String) {
        let name = [Some(&target.container), Some(&target.object)]
            .into_iter()
            .flatten()
            .flatten()
            .fold(String::new(), |path, name| format!("{path}/{name}"));
        let encoded = percent_encoding::utf8_percent_encode(&name, super::error::PATH).to_string();
        self.denied |= status == StatusCode::UNAUTHORIZED;
        self.errors.push((encoded, what));
    }

    /// Counts what became of a name.
    pub(super) fn count(&mut self, call: &Call, deleted: Result<(), SwiftError>) {
        match deleted {
            Ok(()) => self.deleted += 1,
            Err(error) if error.code() == StatusCode::NOT_FOUND => self.not_found += 1,
            Err(error) => {
                self.failed(&call.target, error.code());
            }
        }
    }

    /// The report, in the form that the request accepts. The status of the request itself is 200.
    pub(super) fn answer(self, call: &Call) -> Answer {
        let status = if self.denied {
            "401 Unauthorized"
        } else if !self.errors.is_empty() {
            "400 Bad Request"
        } else if self.deleted == 0 && self.not_found > 0 {
            "404 Not Found"
        } else {
            "200 OK"
        };
        Report {
            root: "delete",
            counts: &[("Number Deleted", self.deleted), ("Number Not Found", self.not_found)],
            status,
            body: "",
            errors: &self.errors,
        }
        .answer(call)
    }
}

impl SwiftFront {
    pub(super) fn is_bulk_delete(&self, call: &Call) -> bool {
        call.query.has("bulk-delete") && matches!(call.method, Method::POST | Method::DELETE)
    }

    pub(super) async fn bulk_delete(&self, call: &Call, body: &mut RequestBody) -> Answer {
        if call.principal.is_none() {
            return Err(super::auth::denied(call));
        }
        let too_large = || SwiftError::status(StatusCode::PAYLOAD_TOO_LARGE);
        let text = body.collect_up_to(MAX_BODY).await?.ok_or_else(too_large)?;
        let text = String::from_utf8(text.to_vec()).map_err(|_| SwiftError::precondition("Invalid UTF8"))?;
        let names: Vec<&str> = text.lines().map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Err(SwiftError::bad_request("Invalid bulk delete: no names."));
        }
        if names.len() > MAX_DELETES {
            return Err(SwiftError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("Maximum Bulk Deletes: {MAX_DELETES} per request"),
            ));
        }
        let mut report = Deleted::default();
        for name in names {
            let Some(path) = decode(name).filter(|path| !path.contains('\0')) else {
                report.errors.push((name.to_owned(), "412 Precondition Failed".into()));
                continue;
            };
            let mut parts = path.trim_start_matches('/').splitn(2, '/').map(str::to_owned);
            let container = parts.next().filter(|name| !name.is_empty());
            let object = parts.next().filter(|name| !name.is_empty());
            let target = Target { account: call.account().to_owned(), container, object };
            if target.container.is_none() || target.check_lengths().is_err() {
                report.failed(&target, StatusCode::BAD_REQUEST);
                continue;
            }
            self.delete_one(&call.with_target(Method::DELETE, target), &mut report).await;
        }
        report.answer(call)
    }

    /// Deletes what one name of a bulk request names.
    pub(super) async fn delete_one(&self, call: &Call, report: &mut Deleted) {
        report.count(call, self.try_delete(call).await);
    }

    async fn try_delete(&self, call: &Call) -> Result<(), SwiftError> {
        let Some(path) = call.target.object_path() else {
            self.container_for(call, Want::Own).await?;
            return Ok(self.store.delete_container(call.account(), call.container()).await?);
        };
        let container = self.container_for(call, Want::Write).await?;
        self.delete_in(&container, &path, Precondition::None).await.map(drop)
    }
}
