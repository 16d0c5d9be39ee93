//! Static web sites: a container that browsers read, with index pages, listings and error pages.
//!
//! Source: Swift's documentation of staticweb. `X-Container-Meta-Web-*` says what a container serves;
//! browsers come without a token, other clients say `X-Web-Mode: true`.

use http::{HeaderMap, Method, Response, StatusCode, header};
use kodiak_storage_api::{Directory, DirectoryInfo, ListQuery};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use super::SwiftFront;
use super::auth::Want;
use super::call::{Call, Query, is_true};
use super::error::{Answer, SwiftError};
use super::listing::PAGE;
use super::staticweb_page::{self as page, Listing};
use super::tempurl::{WebPage, link_parameters};
use crate::http::{RequestBody, ResponseBody, full};
use crate::store::StoreError;

/// Headers of a request that matter to the pages that are read on its behalf.
const KEPT: [header::HeaderName; 2] = [header::REFERER, header::ORIGIN];

/// What a container serves.
#[derive(Default)]
pub(super) struct Site {
    /// Name of the page that stands for a folder.
    pub(super) index: Option<String>,
    /// What follows the status in the names of error pages.
    error: Option<String>,
    listings: Option<String>,
    /// Style sheet of listings.
    pub(super) css: Option<String>,
    /// What listings call the container.
    pub(super) label: Option<String>,
    directory_type: Option<String>,
}

impl Site {
    fn of(container: &Directory) -> Site {
        let text = |item: &str| {
            let value = container.header(&format!("x-container-meta-web-{item}"))?.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        Site {
            index: text("index"),
            error: text("error"),
            listings: text("listings"),
            css: text("listings-css"),
            label: text("listings-label"),
            directory_type: text("directory-type"),
        }
    }

    fn serves(&self) -> bool {
        self.index.is_some() || self.listings.is_some()
    }

    /// Whether an object only marks a folder.
    fn marks_folder(&self, headers: &HeaderMap) -> bool {
        let marker = self.directory_type.as_deref().unwrap_or("application/directory");
        headers.get("content-type").is_some_and(|content_type| content_type.as_bytes() == marker.as_bytes())
    }
}

/// Whether a request may be answered with a page: it comes without a token, or asks to be.
pub(super) fn asks(call: &Call) -> bool {
    matches!(call.method, Method::GET | Method::HEAD) && (call.principal.is_none() || web_mode(call))
}

fn web_mode(call: &Call) -> bool {
    call.header("x-web-mode").is_some_and(is_true)
}

fn code(answer: &Answer) -> StatusCode {
    answer.as_ref().map_or_else(SwiftError::code, Response::status)
}

fn is_found(answer: &Answer) -> bool {
    code(answer).is_success() || code(answer).is_redirection()
}

impl SwiftFront {
    pub(super) async fn web(&self, call: &Call, body: &mut RequestBody) -> Answer {
        match &call.target.object {
            None => self.web_root(call, body).await,
            Some(object) => {
                let answer = self.object(call, body).await;
                if !may_be_folder(&answer) {
                    return answer;
                }
                self.web_folder(call, object, answer).await
            }
        }
    }

    async fn web_root(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let info = match self.store.container(call.account(), call.container()).await {
            Ok(info) => info,
            Err(StoreError::NoContainer) => return self.container(call).await,
            Err(error) => return Err(error.into()),
        };
        let site = Site::of(&info.directory);
        if let Err(denied) = self.authorize(call, &info.directory, Want::List).await {
            return self.error_page(call, &site, Err(denied)).await;
        }
        if !site.serves() {
            return if web_mode(call) { Err(SwiftError::not_found()) } else { self.container(call).await };
        }
        if !call.uri.path().ends_with('/') {
            return Err(self.with_slash(call));
        }
        let Some(index) = &site.index else { return self.web_listing(call, &info, &site, "").await };
        let answer = self.object(&call.with_object(index.clone()), body).await;
        match code(&answer) {
            StatusCode::NOT_FOUND => self.web_listing(call, &info, &site, "").await,
            _ if is_found(&answer) => answer,
            _ => self.error_page(call, &site, answer).await,
        }
    }

    /// Answers for a name without an object: with the index page or the listing of the folder of that
    /// name, if the container serves such. `plain` is what it is answered otherwise.
    async fn web_folder(&self, call: &Call, object: &str, plain: Answer) -> Answer {
        let info = match self.store.container(call.account(), call.container()).await {
            Ok(info) => info,
            Err(_) => return plain,
        };
        let site = Site::of(&info.directory);
        let is_object = plain.as_ref().is_ok_and(|response| !site.marks_folder(response.headers()));
        if !site.serves() || is_object {
            return plain;
        }
        let folder = format!("{}/", object.strip_suffix('/').unwrap_or(object));
        let slash = object.ends_with('/');
        if let Some(index) = &site.index {
            let index = call.with_object(format!("{}{index}", if slash { object } else { &folder }));
            let answer = self.object(&index, &mut RequestBody::full("")).await;
            match code(&answer) {
                StatusCode::NOT_FOUND => {}
                _ if is_found(&answer) && !slash => return Err(self.with_slash(call)),
                _ => return answer,
            }
        }
        if slash {
            return self.web_listing(call, &info, &site, object).await;
        }
        let query = ListQuery { prefix: folder, limit: 1, ..ListQuery::default() };
        let listable = self.authorize(call, &info.directory, Want::List).await.is_ok();
        if listable
            && !self.store.list_objects(call.account(), call.container(), query).await?.entries.is_empty()
        {
            return Err(self.with_slash(call));
        }
        self.error_page(call, &site, Err(SwiftError::not_found())).await
    }

    async fn web_listing(&self, call: &Call, info: &DirectoryInfo, site: &Site, prefix: &str) -> Answer {
        let path = format!("{}/{}/{prefix}", call.account(), call.container());
        let label = match &site.label {
            Some(label) => format!("{label}/{prefix}"),
            None => format!("/v1/{path}"),
        };
        let listing = Listing { site, label, prefix };
        if !site.listings.as_deref().is_some_and(is_true) {
            let disabled = SwiftError::new(StatusCode::NOT_FOUND, listing.disabled());
            return self.error_page(call, site, Err(disabled)).await;
        }
        if let Err(denied) = self.authorize(call, &info.directory, Want::List).await {
            return self.error_page(call, site, Err(denied)).await;
        }
        let query = ListQuery {
            prefix: prefix.to_owned(),
            delimiter: Some("/".into()),
            limit: PAGE,
            ..ListQuery::default()
        };
        let entries = self.store.list_objects(call.account(), call.container(), query).await?.entries;
        if entries.is_empty() && !prefix.is_empty() {
            return self.error_page(call, site, Err(SwiftError::not_found())).await;
        }
        let parameters = call.preauthorized.as_ref().and_then(|_| link_parameters(&call.query));
        // The holder of a signed prefix gets no link to what lies above it.
        let signed = call.query.get("temp_url_prefix").filter(|_| parameters.is_some()).unwrap_or("");
        let parent = prefix.len() > signed.len();
        let html = listing.html(&entries, parent, &parameters.unwrap_or_default());
        let builder = Response::builder()
            .header("content-type", page::CONTENT_TYPE)
            .header("content-length", html.len())
            .extension(WebPage);
        Ok(builder.body(full(html))?)
    }

    /// The site's own page for a failure, with the status of the failure; the failure itself if it has
    /// none.
    async fn error_page(&self, call: &Call, site: &Site, failed: Answer) -> Answer {
        let Some(suffix) = &site.error else { return failed };
        let mut page = call.with_object(format!("{}{suffix}", code(&failed).as_u16()));
        page.method = Method::GET;
        page.query = Query::default();
        page.headers = KEPT
            .into_iter()
            .filter_map(|name| call.headers.get(&name).map(|value| (name, value.clone())))
            .collect();
        match self.object(&page, &mut RequestBody::full("")).await {
            Ok(response) if response.status().is_success() => Ok(with_status(response, code(&failed))),
            _ => failed,
        }
    }

    /// Sends the client to the same place with a slash, so that relative links lead into the folder.
    fn with_slash(&self, call: &Call) -> SwiftError {
        let host = call.header("host").unwrap_or("localhost");
        let path = utf8_percent_encode(call.uri.path(), CONTROLS);
        let location = format!("{}://{host}{path}/", self.settings.scheme);
        SwiftError::status(StatusCode::MOVED_PERMANENTLY).with(header::LOCATION, &location)
    }
}

/// Whether the name may be a folder's: there is no such object, or next to nothing in it.
fn may_be_folder(answer: &Answer) -> bool {
    match answer {
        Ok(response) if response.status().is_success() => {
            let length = response.headers().get(header::CONTENT_LENGTH);
            length.is_none_or(|length| matches!(length.as_bytes(), b"0" | b"1"))
        }
        answer => code(answer) == StatusCode::NOT_FOUND,
    }
}

fn with_status(mut response: Response<ResponseBody>, status: StatusCode) -> Response<ResponseBody> {
    *response.status_mut() = status;
    response
}
