//! What a PUT of a manifest reports: problems of its segments, and with `heartbeat=on` everything, after
//! blanks that keep the connection alive while the segments are looked up.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Response, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use super::SwiftFront;
use super::call::Call;
use super::error::{Answer, PATH, SwiftError};
use super::listing::Format;
use super::slo_put::{Manifest, Problem, SloError, StoredSlo};
use crate::http::{http_date, streamed};

/// How often a blank is sent.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);

type Storing = JoinHandle<Result<StoredSlo, SloError>>;

impl SwiftFront {
    /// Answers at once, with 202, and says in the body what becomes of the manifest.
    pub(super) fn put_slo_slowly(&self, call: &Call, manifest: Manifest) -> Answer {
        let (front, asked) = (self.clone(), call.clone());
        let storing = tokio::spawn(async move { front.try_store_slo(&asked, manifest).await });
        let call = call.clone();
        let builder = Response::builder()
            .status(StatusCode::ACCEPTED)
            .header("content-type", report(&call, &[], &[]).0);
        let beats = stream::unfold(Some(storing), move |storing| beat(call.clone(), storing));
        let body = stream::iter([Bytes::from_static(b" ")]).chain(beats).map(Ok);
        Ok(builder.body(streamed(body))?)
    }
}

/// The next bytes: a blank, or at last the report.
async fn beat(call: Call, storing: Option<Storing>) -> Option<(Bytes, Option<Storing>)> {
    let mut storing = storing?;
    let Ok(stored) = tokio::time::timeout(HEARTBEAT, &mut storing).await else {
        return Some((Bytes::from_static(b" "), Some(storing)));
    };
    let stored = stored
        .unwrap_or_else(|_| Err(SloError::Refused(SwiftError::status(StatusCode::INTERNAL_SERVER_ERROR))));
    Some((format!("\r\n\r\n{}", outcome(&call, stored)).into(), None))
}

fn outcome(call: &Call, stored: Result<StoredSlo, SloError>) -> String {
    let refused = |error: &SwiftError, problems: &[Problem]| {
        let fields = [("Response Body", error.explained()), ("Response Status", error.code().to_string())];
        report(call, &fields, problems).1
    };
    match stored {
        Ok(StoredSlo { record, etag, .. }) => {
            let fields = [
                ("Etag", etag),
                ("Last Modified", http_date(record.timestamp)),
                ("Response Body", String::new()),
                ("Response Status", StatusCode::CREATED.to_string()),
            ];
            report(call, &fields, &[]).1
        }
        Err(SloError::Problems(problems)) => refused(&SwiftError::status(StatusCode::BAD_REQUEST), &problems),
        Err(SloError::Refused(error)) => refused(&error, &[]),
    }
}

/// A report's content type, and the report in the form that the request accepts: fields, which are in the
/// order of their names, and problems.
pub(super) fn report(call: &Call, fields: &[(&str, String)], problems: &[Problem]) -> (&'static str, String) {
    match Format::of(call) {
        Ok(Format::Json) => {
            let mut object: Map<String, Value> =
                fields.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
            object.insert("Errors".into(), json!(problems));
            ("application/json", Value::Object(object).to_string())
        }
        _ => {
            let mut text: String = fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            text.push_str("Errors:\n");
            text.extend(problems.iter().map(|(name, what)| format!("{name}, {what}\n")));
            ("text/plain", text)
        }
    }
}

/// A segment's name as reports show it.
pub(super) fn encoded(name: &str) -> String {
    utf8_percent_encode(name, PATH).to_string()
}
