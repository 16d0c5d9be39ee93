//! A small Swift client that sees every status.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::Store;

/// A logged-in client with its own connections.
#[derive(Clone)]
pub struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    url: String,
    token: String,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Client {
    /// Logs in.
    pub async fn log_in(store: &Store) -> Result<Client> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http: Http<_, Full<Bytes>> = Http::builder(TokioExecutor::new()).build(connector);
        let (url, user, key) = store.login();
        let request = Request::get(url).header("x-auth-user", user).header("x-auth-key", key);
        let answer = http.request(request.body(Full::default())?).await?;
        let header = |name| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let url = header("x-storage-url").context("no storage URL")?;
        let token = header("x-auth-token").context("no token")?;
        Ok(Client { http, url, token })
    }

    /// Sends a request for a path below the account.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("x-auth-token", &self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.http.request(request.body(Full::new(body.into()))?).await?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// PUT.
    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<StatusCode> {
        Ok(self.send(Method::PUT, path, &[], body).await?.status)
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Result<StatusCode> {
        Ok(self.send(Method::DELETE, path, &[], Bytes::new()).await?.status)
    }

    /// All names of a container, page by page.
    pub async fn list(&self, container: &str) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let marker = names.last().cloned().unwrap_or_default();
            let page = self.get(&format!("/{container}?limit=1000&marker={marker}")).await?;
            let before = names.len();
            names.extend(String::from_utf8(page.body.to_vec())?.lines().map(str::to_owned));
            if names.len() == before {
                return Ok(names);
            }
        }
    }
}
