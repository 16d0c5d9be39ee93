//! Bulk upload: `PUT ?extract-archive=tar|tar.gz|tar.bz2` stores the files of an archive as objects.
//!
//! Source: Swift's documentation of bulk. The archive is read as it comes: nothing is kept but the piece
//! that is being stored.

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::sync::{Semaphore, mpsc};

use super::SwiftFront;
use super::bulk_report::Report;
use super::call::{Call, Query, Target};
use super::error::{Answer, PATH, SwiftError, status_line};
use super::put::MAX_FILE;
use super::unpack::{self, Compression, FileHead, Unpacked};
use crate::http::{RequestBody, RequestBodyError};
use crate::store::StoreError;

/// Containers that one archive creates.
pub(super) const MAX_CONTAINERS: usize = 10_000;
/// Files that may fail before the rest is given up.
pub(super) const MAX_FAILED: usize = 1000;
/// Archives that are unpacked at once: each has a thread.
static UNPACKERS: Semaphore = Semaphore::const_new(16);
/// Pieces that wait between the client, the unpacker and the store.
const QUEUE: usize = 4;

/// What became of the files.
#[derive(Default)]
struct Extracted {
    created: usize,
    errors: Vec<(String, String)>,
    /// A file failed for a reason of ours.
    server_failed: bool,
    /// Ended early, with this status and for this reason.
    ended: Option<(StatusCode, String)>,
    containers_seen: HashSet<String>,
    containers_created: usize,
}

impl SwiftFront {
    pub(super) fn is_archive(&self, call: &Call) -> bool {
        call.method == Method::PUT && call.query.has("extract-archive")
    }

    pub(super) async fn extract_archive(&self, call: &Call, body: &mut RequestBody) -> Answer {
        if call.principal.is_none() {
            return Err(super::auth::denied(call));
        }
        let format = call.query.get("extract-archive").unwrap_or("").trim_matches('.').to_lowercase();
        let compression = match format.as_str() {
            "tar" => Compression::Plain,
            "tar.gz" => Compression::Gzip,
            "tar.bz2" => Compression::Bzip2,
            _ => return Err(SwiftError::bad_request("Unsupported archive format")),
        };
        if call.header("content-length").is_none() && !call.headers.contains_key("transfer-encoding") {
            return Err(SwiftError::status(StatusCode::LENGTH_REQUIRED));
        }
        let unavailable = |_| SwiftError::status(StatusCode::SERVICE_UNAVAILABLE);
        let _permit = UNPACKERS.acquire().await.map_err(unavailable)?;
        let (pieces, packed) = mpsc::channel(QUEUE);
        let (out, files) = mpsc::channel(QUEUE);
        let run = move || unpack::unpack(compression, packed, &out);
        // A thread, not a task: the pool for blocking work is what the files are stored with.
        std::thread::Builder::new().name("unpack".into()).spawn(run).map_err(|error| {
            tracing::error!(%error, "cannot start a thread");
            SwiftError::status(StatusCode::SERVICE_UNAVAILABLE)
        })?;
        let (fed, extracted) = tokio::join!(feed(body, pieces), self.store_files(call, files));
        fed?;
        body.drain().await;
        extracted.answer(call)
    }

    async fn store_files(&self, call: &Call, mut files: mpsc::Receiver<Unpacked>) -> Extracted {
        let mut done = Extracted::default();
        while done.ended.is_none() && done.errors.len() < MAX_FAILED {
            match files.recv().await {
                Some(Unpacked::File(head)) => self.store_file(call, head, &mut files, &mut done).await,
                // Of a file that is passed over.
                Some(Unpacked::Data(_)) => {}
                Some(Unpacked::End) => break,
                Some(Unpacked::Failed(why)) => done.invalid(&why),
                None => done.invalid("it could not be read"),
            }
        }
        done
    }

    async fn store_file(
        &self,
        call: &Call,
        head: FileHead,
        files: &mut mpsc::Receiver<Unpacked>,
        done: &mut Extracted,
    ) {
        let Some(path) = destination(&call.target, &head.path) else { return };
        let target = match target(call.account(), &path) {
            Ok(target) => target,
            Err(status) => return done.failed(&path, status),
        };
        if head.size > MAX_FILE {
            return done.failed(&path, StatusCode::PAYLOAD_TOO_LARGE);
        }
        let no_container = self.ensure_container(call, &target, done).await.err();
        if done.ended.is_some() {
            return;
        }
        let mut put = call.with_target(Method::PUT, target);
        put.query = Query::default();
        put.headers = headers(&call.headers, &head);
        let (pieces, body) = mpsc::channel(QUEUE);
        // The body goes when the PUT ends, so that the rest of a file that was refused is passed over.
        let store = async {
            let mut body = RequestBody::pieces(body, Some(head.size));
            self.object(&put, &mut body).await
        };
        let (forwarded, stored) = tokio::join!(forward(files, pieces, head.size), store);
        match stored {
            Ok(_) => done.created += 1,
            Err(error) => {
                if let Some(status) = no_container {
                    done.failed(format!("/{}", put.container()).as_bytes(), status);
                }
                done.failed(&path, error.code());
                if error.code() == StatusCode::UNAUTHORIZED {
                    done.ended = Some((StatusCode::UNAUTHORIZED, String::new()));
                }
            }
        }
        if let Err(why) = forwarded {
            done.invalid(&why);
        }
    }

    /// Creates the container of a file; the status if it cannot be. The file may still be stored, where an
    /// access list says so.
    async fn ensure_container(
        &self,
        call: &Call,
        target: &Target,
        done: &mut Extracted,
    ) -> Result<(), StatusCode> {
        let container = target.container.clone().unwrap_or_default();
        if !done.containers_seen.insert(container.clone()) {
            return Ok(());
        }
        match self.store.container(&target.account, &container).await {
            Ok(_) => return Ok(()),
            Err(StoreError::NoContainer) => {}
            Err(error) => return Err(SwiftError::from(error).code()),
        }
        if done.containers_created >= MAX_CONTAINERS {
            let why = format!("More than {MAX_CONTAINERS} containers to create from tar.");
            done.ended = Some((StatusCode::BAD_REQUEST, why));
            return Err(StatusCode::BAD_REQUEST);
        }
        let target = Target { object: None, ..target.clone() };
        let mut put = call.with_target(Method::PUT, target);
        (put.query, put.headers) = (Query::default(), HeaderMap::new());
        match self.container(&put).await {
            Ok(_) => {
                done.containers_created += 1;
                Ok(())
            }
            Err(error) => Err(error.code()),
        }
    }
}

/// Gives the body to the unpacker; the end of either ends it.
async fn feed(body: &mut RequestBody, pieces: mpsc::Sender<Bytes>) -> Result<(), RequestBodyError> {
    while let Some(data) = body.data().await {
        if pieces.send(data?).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Gives a file's bytes to whoever stores it. They are taken from the unpacker even if nobody wants them.
async fn forward(
    files: &mut mpsc::Receiver<Unpacked>,
    pieces: mpsc::Sender<Result<Bytes, RequestBodyError>>,
    mut left: u64,
) -> Result<(), String> {
    while left > 0 {
        match files.recv().await {
            Some(Unpacked::Data(data)) => {
                left = left.saturating_sub(data.len() as u64);
                let _ = pieces.send(Ok(data)).await;
            }
            Some(Unpacked::Failed(why)) => return Err(why),
            _ => return Err("it could not be read".into()),
        }
    }
    Ok(())
}

/// Where in the account a file goes: below what the request's path names. None for a file that would be in
/// no container.
fn destination(target: &Target, path: &[u8]) -> Option<Vec<u8>> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = &path[path.iter().position(|byte| *byte != b'/')?..];
    let names = [&target.container, &target.object];
    let base: Vec<_> = names.into_iter().flatten().map(|name| name.trim_end_matches('/')).collect();
    let mut whole = base.join("/").into_bytes();
    if !whole.is_empty() {
        whole.push(b'/');
    }
    whole.extend_from_slice(path);
    whole.contains(&b'/').then_some(whole)
}

fn target(account: &str, path: &[u8]) -> Result<Target, StatusCode> {
    let path = std::str::from_utf8(path).map_err(|_| StatusCode::PRECONDITION_FAILED)?;
    if path.contains('\0') {
        return Err(StatusCode::PRECONDITION_FAILED);
    }
    let (container, object) = path.split_once('/').ok_or(StatusCode::BAD_REQUEST)?;
    let target = Target {
        account: account.to_owned(),
        container: Some(container.to_owned()),
        object: Some(object.to_owned()),
    };
    let empty = container.is_empty() || object.is_empty();
    if empty || target.check_lengths().is_err() { Err(StatusCode::BAD_REQUEST) } else { Ok(target) }
}

/// Headers of one file's PUT: what the request says of all files, and then what the file's attributes say.
fn headers(request: &HeaderMap, file: &FileHead) -> HeaderMap {
    let of_all =
        |name: &str| matches!(name, "x-delete-at" | "x-delete-after") || name.starts_with("x-object-meta-");
    let mut headers: HeaderMap = request
        .iter()
        .filter(|(name, _)| of_all(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in &file.headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            headers.insert(name, value);
        }
    }
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(file.size));
    headers
}

impl Extracted {
    fn failed(&mut self, path: &[u8], status: StatusCode) {
        let path =
            &path[..path.len().min(super::call::MAX_OBJECT_NAME + super::call::MAX_CONTAINER_NAME + 2)];
        let name = percent_encoding::percent_encode(path, PATH).to_string();
        self.server_failed |= status.is_server_error();
        self.errors.push((name, status_line(status)));
    }

    fn invalid(&mut self, why: &str) {
        self.ended.get_or_insert((StatusCode::BAD_REQUEST, format!("Invalid Tar File: {why}")));
    }

    fn answer(self, call: &Call) -> Answer {
        let (status, body) = match self.ended {
            Some(ended) => ended,
            None if self.server_failed => (StatusCode::BAD_GATEWAY, String::new()),
            None if !self.errors.is_empty() => (StatusCode::BAD_REQUEST, String::new()),
            None if self.created == 0 => {
                (StatusCode::BAD_REQUEST, "Invalid Tar File: No Valid Files".to_owned())
            }
            None => (StatusCode::CREATED, String::new()),
        };
        Report {
            root: "extract",
            counts: &[("Number Files Created", self.created)],
            status: &status_line(status),
            body: &body,
            errors: &self.errors,
        }
        .answer(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_below_the_path_of_the_request() {
        let at = |container: Option<&str>, object: Option<&str>, path: &str| {
            let target = Target {
                account: "a".into(),
                container: container.map(str::to_owned),
                object: object.map(str::to_owned),
            };
            destination(&target, path.as_bytes()).map(|path| String::from_utf8(path).expect("text"))
        };
        assert_eq!(at(None, None, "./c/o").as_deref(), Some("c/o"));
        assert_eq!(at(Some("c"), None, "/o").as_deref(), Some("c/o"));
        assert_eq!(at(Some("c"), Some("d/"), "o/p").as_deref(), Some("c/d/o/p"));
        assert_eq!(at(None, None, "o"), None);
        assert_eq!(at(None, None, "/"), None);
    }

    #[test]
    fn a_path_that_names_no_object_is_refused() {
        assert!(target("a", b"c/o").is_ok());
        assert_eq!(target("a", b"c/\xff").err(), Some(StatusCode::PRECONDITION_FAILED));
        assert_eq!(target("a", b"c/").err(), Some(StatusCode::BAD_REQUEST));
    }
}
