//! Symlinks: `X-Symlink-Target`, static ones with `X-Symlink-Target-Etag`, and `?symlink=get`.
//!
//! Source: the documentation of Swift's symlink middleware. What follows them is in [`crate::large::symlink`].

use http::header::{CONTENT_LOCATION, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Response, StatusCode};
use kodiak_storage_api::{Directory, ObjectPath, ObjectRecord};
use percent_encoding::utf8_percent_encode;

use super::SwiftFront;
use super::auth::{Want, denied};
use super::call::{Call, Target, decode};
use super::copy::copied_headers;
use super::error::{Answer, PATH, SwiftError};
use super::object;
use super::put::{created, created_with};
use super::versions::stamp;
use crate::http::{RequestBody, full};
use crate::large::symlink::{self as links, Broken, Link, Why};
use crate::store::{NewObject, OpenObject, StoreError, Written};

/// Names the target, `container/object`.
pub(super) const TARGET: &str = "x-symlink-target";
const ACCOUNT: &str = "x-symlink-target-account";
const ETAG: &str = "x-symlink-target-etag";
const BYTES: &str = "x-symlink-target-bytes";
/// Content type of a dynamic link, where the client names none.
const LINK_TYPE: &str = "application/symlink";

/// Whether a PUT makes a link.
pub(super) fn is_wanted(call: &Call) -> bool {
    call.headers.contains_key(TARGET) && !call.headers.contains_key("x-copy-from")
}

/// A target is set with a PUT only.
pub(super) fn refuse_on_post(call: &Call) -> Result<(), SwiftError> {
    if call.headers.contains_key(TARGET) {
        return Err(SwiftError::bad_request("A PUT request is required to set a symlink target"));
    }
    Ok(())
}

/// The answer to a POST to a link: it was done to the link, and the client may have meant the target.
pub(super) fn redirect(link: &Link) -> Answer {
    let text = "The metadata was set on the symlink itself. POST to its target to set the target's.";
    let mut builder = Response::builder()
        .status(StatusCode::TEMPORARY_REDIRECT)
        .header("location", location(&link.target))
        .header("content-type", "text/html; charset=UTF-8")
        .header("content-length", text.len());
    if let Some(etag) = &link.etag {
        builder = builder.header(ETAG, etag);
    }
    Ok(builder.body(full(text))?)
}

/// The path of an object in the API.
fn location(path: &ObjectPath) -> String {
    format!("/v1/{}", utf8_percent_encode(path.as_str(), PATH))
}

impl SwiftFront {
    /// GET or HEAD of a link: of its target, or with `?symlink=get` of itself.
    pub(super) async fn get_symlink(&self, call: &Call, object: OpenObject) -> Answer {
        if call.query.get("symlink") == Some("get") {
            let record = object.record();
            let mut answer = stamp(object::answer(call, record, &record.etag, &object), object.version())?;
            for (name, stored) in [(TARGET, links::TARGET), (ACCOUNT, links::ACCOUNT)] {
                let shown = record.header(stored).map(|value| utf8_percent_encode(value, PATH).to_string());
                put_header(&mut answer, name, shown.as_deref());
            }
            put_header(&mut answer, ETAG, record.header(links::ETAG));
            put_header(&mut answer, BYTES, record.header(links::BYTES));
            return Ok(answer);
        }
        let object = self.follow(call, object).await?;
        let location = location(object.path());
        let of_target = call.with_target(call.method.clone(), target_of(object.path()));
        match stamp(self.get_opened(&of_target, &object).await, object.version()) {
            Ok(mut answer) => {
                put_header(&mut answer, CONTENT_LOCATION.as_str(), Some(&location));
                Ok(answer)
            }
            Err(error) => Err(error.with(CONTENT_LOCATION, &location)),
        }
    }

    /// What an object stands for, if the asker may read it: itself unless it is a link.
    pub(super) async fn follow(&self, call: &Call, object: OpenObject) -> Result<OpenObject, SwiftError> {
        if links::is_link(object.record()) {
            self.consult_account(call).await?;
        }
        let followed = links::follow(&self.store, &self.access(call), object).await;
        followed.map_err(|broken| broken_link(call, *broken))
    }

    /// PUT with `X-Symlink-Target`.
    pub(super) async fn put_symlink(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let container = self.container_for(call, Want::Write).await?;
        self.check_quotas(call, &container, 0).await?;
        if body.data().await.transpose()?.is_some() {
            return Err(not_empty());
        }
        let Written { record, version } =
            self.store_symlink(call, self.new_object(call)?, &container).await?;
        stamp(created(&record, &record.etag), version)
    }

    /// Copies a link, not what it stands for. The request may change what the copy stands for.
    pub(super) async fn copy_symlink(&self, call: &Call, source: &Target, link: &ObjectRecord) -> Answer {
        let container = self.container_for(call, Want::Write).await?;
        self.check_quotas(call, &container, 0).await?;
        let mut asked = call.clone();
        for (name, stored) in [(TARGET, links::TARGET), (ACCOUNT, links::ACCOUNT), (ETAG, links::ETAG)] {
            let value = link.header(stored).map(|value| utf8_percent_encode(value, PATH).to_string());
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                asked.headers.entry(name).or_insert(value);
            }
        }
        let mut object = self.copied(&asked, link)?;
        object.headers.retain(|(name, _)| !name.starts_with("x-object-sysmeta-symlink-"));
        if let Ok(content_type) = HeaderValue::try_from(object.content_type.as_str()) {
            asked.headers.insert(CONTENT_TYPE, content_type);
        }
        let Written { record, version } = self.store_symlink(&asked, object, &container).await?;
        stamp(created_with(&record, &record.etag, &copied_headers(source, link, &record)), version)
    }

    /// Stores a link of the call's name, which stands for what the call's headers say.
    async fn store_symlink(
        &self,
        call: &Call,
        mut object: NewObject,
        container: &Directory,
    ) -> Result<Written, SwiftError> {
        let path = call.object_path()?;
        let (target, account) = wanted_target(call)?;
        if target == path {
            return Err(SwiftError::bad_request("Symlink cannot target itself"));
        }
        let etag = call.header(ETAG).map(|etag| etag.trim().trim_matches('"'));
        let etag = etag.filter(|etag| !etag.is_empty());
        if etag.is_some_and(|etag| etag.contains([';', '"', '\\'])) {
            return Err(SwiftError::bad_request("Bad X-Symlink-Target-Etag format"));
        }
        let checked = match etag {
            Some(etag) => Some(self.checked_target(call, &target, etag).await?),
            None => None,
        };
        if call.header("content-type").is_none_or(str::is_empty) {
            object.content_type =
                checked.as_ref().map_or_else(|| LINK_TYPE.into(), |record| record.content_type.clone());
        }
        let mut aim = vec![(links::TARGET, format!("{}/{}", target.container(), target.object()))];
        aim.extend(account.map(|account| (links::ACCOUNT, account)));
        object.listing = vec![("symlink_path".into(), location(&target))];
        if let (Some(etag), Some(record)) = (etag, &checked) {
            let size = record.header("x-object-sysmeta-slo-size").map(str::to_owned);
            let bytes = size.unwrap_or_else(|| record.size.to_string());
            object.listing.extend(record.listing.iter().find(|(name, _)| name == "slo_etag").cloned());
            object.listing.push(("symlink_etag".into(), etag.into()));
            object.listing.push(("symlink_bytes".into(), bytes.clone()));
            aim.extend([(links::ETAG, etag.to_owned()), (links::BYTES, bytes)]);
        }
        object.headers.extend(aim.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let policy = container.policy;
        let condition = self.condition(call, &path, policy).await?;
        let staged = self.store.upload(path, policy, false).finish().await?;
        self.store_in(container, staged, object, condition).await
    }

    /// What a new static link stands for.
    async fn checked_target(
        &self,
        call: &Call,
        target: &ObjectPath,
        etag: &str,
    ) -> Result<ObjectRecord, SwiftError> {
        self.consult_account(call).await?;
        match links::check(&self.store, &self.access(call), target.clone(), etag).await {
            Ok(object) => Ok(object.record().clone()),
            Err(broken) => {
                let location = location(&broken.target);
                let error = broken_link(call, *broken);
                if error.code() != StatusCode::NOT_FOUND {
                    return Err(error);
                }
                let missing = SwiftError::new(StatusCode::CONFLICT, "X-Symlink-Target does not exist");
                Err(missing.with(CONTENT_LOCATION, &location))
            }
        }
    }
}

/// A link is made without a body.
pub(super) fn not_empty() -> SwiftError {
    SwiftError::bad_request("Symlink requests require a zero byte body")
}

/// What a request's headers name as a target, and the account if they name it.
fn wanted_target(call: &Call) -> Result<(ObjectPath, Option<String>), SwiftError> {
    let value = call.header(TARGET).unwrap_or("");
    let account = match call.header(ACCOUNT) {
        None => None,
        Some(account) => {
            let account = decode(account).filter(|account| !account.is_empty() && !account.contains('/'));
            let bad = || SwiftError::precondition("Account name cannot be empty or contain slashes");
            Some(account.ok_or_else(bad)?)
        }
    };
    let of = account.as_deref().unwrap_or(call.account());
    let target = Target::of_header(of, value, "X-Symlink-Target")?;
    let absolute = decode(value).is_some_and(|value| value.starts_with('/'));
    let target = target.object_path().filter(|_| !absolute);
    let bad = || {
        SwiftError::precondition("X-Symlink-Target header must be of the form <container name>/<object name>")
    };
    Ok((target.ok_or_else(bad)?, account))
}

fn target_of(path: &ObjectPath) -> Target {
    Target {
        account: path.account().into(),
        container: Some(path.container().into()),
        object: Some(path.object().into()),
    }
}

fn put_header<B>(answer: &mut Response<B>, name: &'static str, value: Option<&str>) {
    if let Some(Ok(value)) = value.map(|value| HeaderValue::from_bytes(value.as_bytes())) {
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// The answer for a link that leads nowhere; it says where the link led.
fn broken_link(call: &Call, broken: Broken) -> SwiftError {
    let target = call.with_target(Method::GET, target_of(&broken.target));
    let conflict = |text: String| SwiftError::new(StatusCode::CONFLICT, text);
    let error = match broken.why {
        Why::TooMany => return conflict(links::too_many()),
        Why::LinksDiffer => conflict("X-Symlink-Target-Etag headers do not match".into()),
        Why::Changed { found, wanted } => {
            conflict(format!("Object Etag '{found}' does not match X-Symlink-Target-Etag header '{wanted}'"))
        }
        Why::Unopened(StoreError::Denied) => denied(&target),
        // Somebody who may not read there is not told what there is.
        Why::Unopened(StoreError::NoContainer) if !target.by_owner() => denied(&target),
        Why::Unopened(error) => error.into(),
    };
    error.with(CONTENT_LOCATION, &location(&broken.target))
}
