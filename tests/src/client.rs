//! A small client that sees every status. It speaks Swift, and S3 where only S3 has the operation.

use std::time::SystemTime;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::store::S3;
use crate::{Endpoints, Store};

/// A logged-in client with its own connections.
#[derive(Clone)]
pub struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    url: String,
    token: String,
    s3: S3,
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
        Client::log_in_at(store.endpoints()).await
    }

    /// Logs in to a store anywhere.
    pub async fn log_in_at(endpoints: &Endpoints) -> Result<Client> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http: Http<_, Full<Bytes>> = Http::builder(TokioExecutor::new()).build(connector);
        let swift = &endpoints.swift;
        let request = Request::get(&swift.auth_url).header("x-auth-user", &swift.user);
        let request = request.header("x-auth-key", &swift.key);
        let answer = http.request(request.body(Full::default())?).await?;
        let header = |name| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let url = header("x-storage-url").context("no storage URL")?;
        let token = header("x-auth-token").context("no token")?;
        Ok(Client { http, url, token, s3: endpoints.s3.clone() })
    }

    /// The same user at another account.
    pub fn at_account(&self, account: &str) -> Client {
        let base = self.url.rsplit_once('/').map_or("", |(base, _)| base);
        Client { url: format!("{base}/{account}"), ..self.clone() }
    }

    /// The token of this log-in.
    pub fn token(&self) -> &str {
        &self.token
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
        self.answer(request.body(Full::new(body.into()))?).await
    }

    /// Sends an S3 request for `/bucket/key` with these sub-resources, which come in the order of their names.
    pub async fn send_s3(
        &self,
        method: Method,
        path: &str,
        query: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let resource = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let date = httpdate::fmt_http_date(SystemTime::now());
        // Version 2 signs in one step, which is all that a test needs.
        let mut signature: Hmac<sha1::Sha1> = Hmac::new_from_slice(self.s3.secret_key.as_bytes())?;
        signature.update(format!("{method}\n\n\n{date}\n{resource}").as_bytes());
        let signature = STANDARD.encode(signature.finalize().into_bytes());
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{resource}", self.s3.url))
            .header("date", date)
            .header("authorization", format!("AWS {}:{signature}", self.s3.access_key));
        self.answer(request.body(Full::new(body.into()))?).await
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let answer = self.http.request(request).await?;
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
