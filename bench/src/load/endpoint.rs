//! Where the requests go, and what they look like there.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::connection::{Address, Connection};
use super::content::{Object, Payload};
use super::s3::{Credentials, Signer};
use super::swift::Login;

/// What SigV4 escapes in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// What it escapes in a query.
const QUERY: &AsciiSet = &PATH.add(b'/');

/// The file that `kodiak up` writes, and `bench/peers` for other stores.
#[derive(Clone, Debug, Deserialize)]
pub struct EndpointsFile {
    /// The Swift API.
    pub swift: Option<SwiftEntry>,
    /// The S3 API.
    pub s3: Option<S3Entry>,
    /// The server's process.
    pub pid: Option<u32>,
    /// Its processes, where it has several.
    #[serde(default)]
    pub pids: Vec<u32>,
}

/// A login to Swift.
#[derive(Clone, Debug, Deserialize)]
pub struct SwiftEntry {
    pub auth_url: String,
    pub user: String,
    pub key: String,
}

/// Access to S3.
#[derive(Clone, Debug, Deserialize)]
pub struct S3Entry {
    pub url: String,
    pub access_key: String,
    pub secret_key: String,
    #[serde(default = "default_region")]
    pub region: String,
}

fn default_region() -> String {
    "us-east-1".into()
}

impl EndpointsFile {
    /// Reads the file.
    pub fn read(path: &Path) -> anyhow::Result<EndpointsFile> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not as expected", path.display()))
    }
}

/// How requests prove who sends them.
#[derive(Clone, Debug)]
pub enum Access {
    /// By a signature.
    S3(Arc<Credentials>),
    /// By a token.
    Swift(Login),
}

/// An API of a server, as it is named on the command line.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// URL of the S3 service; Swift's login tells its own.
    pub url: String,
    /// Who sends requests.
    pub access: Access,
}

impl Endpoint {
    /// An S3 service of a file.
    pub fn of_s3(entry: S3Entry, signed_payload: bool) -> Endpoint {
        let S3Entry { url, access_key, secret_key, region } = entry;
        let credentials = Credentials { access_key, secret_key, region, signed_payload };
        Endpoint { url, access: Access::S3(Arc::new(credentials)) }
    }

    /// A Swift service of a file.
    pub fn of_swift(SwiftEntry { auth_url, user, key }: SwiftEntry) -> Endpoint {
        Endpoint { url: auth_url.clone(), access: Access::Swift(Login { auth_url, user, key }) }
    }

    /// Logs in, and says how requests to this bucket are made.
    pub async fn requester(&self, bucket: &str, prefix: &str, page: usize) -> anyhow::Result<Requester> {
        let (url, proof) = match &self.access {
            Access::S3(credentials) => {
                (self.url.clone(), Proof::Signature(Box::new(Signer::new(credentials.clone()))))
            }
            Access::Swift(login) => {
                let session = login.session().await?;
                (session.storage_url, Proof::Token(session.token))
            }
        };
        let (address, root) = Address::parse(&url)?;
        let bucket = format!("{root}/{}", utf8_percent_encode(bucket, PATH));
        let query = match &proof {
            Proof::Signature(_) => {
                let prefix = utf8_percent_encode(prefix, QUERY);
                format!("list-type=2&max-keys={page}&prefix={prefix}%2F&start-after={prefix}%2F")
            }
            Proof::Token(_) => {
                let prefix = utf8_percent_encode(prefix, QUERY);
                format!("format=json&limit={page}&prefix={prefix}%2F&marker={prefix}%2F")
            }
        };
        let objects = format!("{bucket}/{}/", utf8_percent_encode(prefix, PATH));
        let host = address.host_header()?;
        Ok(Requester { address, host, bucket, objects, query, proof })
    }
}

#[derive(Clone, Debug)]
enum Proof {
    Signature(Box<Signer>),
    Token(HeaderValue),
}

/// Makes requests.
#[derive(Clone, Debug)]
pub struct Requester {
    address: Address,
    host: HeaderValue,
    bucket: String,
    objects: String,
    query: String,
    proof: Proof,
}

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub enum About {
    /// The bucket.
    Bucket,
    /// An object.
    Object(Object),
    /// The page of names that begins with an object.
    PageFrom(Object),
}

impl Requester {
    /// A request, signed or with its token.
    pub fn request(
        &mut self,
        method: Method,
        about: About,
        body: Payload,
    ) -> anyhow::Result<Request<Payload>> {
        let mut target = String::with_capacity(256);
        match about {
            About::Bucket => target.push_str(&self.bucket),
            About::Object(object) => write!(target, "{}{:012}", self.objects, object.number)?,
            About::PageFrom(object) => {
                // The name before, with a suffix that no object has.
                write!(target, "{}?{}", self.bucket, self.query)?;
                match object.number.checked_sub(1) {
                    Some(before) => write!(target, "{before:012}~")?,
                    None => target.push_str("%21"),
                }
            }
        }
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_maybe_shared(Bytes::from(target))?;
        request.headers_mut().reserve(8);
        request.headers_mut().insert(header::HOST, self.host.clone());
        if request.method() == Method::PUT {
            // hyper leaves it out where the body is empty, and S3 wants to see it.
            let length = request.body().remaining().into();
            request.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        match &mut self.proof {
            Proof::Signature(signer) => {
                signer.add_headers(&mut request, self.address.host(), SystemTime::now())?;
            }
            Proof::Token(token) => {
                request.headers_mut().insert("x-auth-token", token.clone());
            }
        }
        Ok(request)
    }

    /// Opens a connection.
    pub async fn connect(&self, quickack: bool) -> anyhow::Result<Connection> {
        Connection::open(&self.address, quickack).await
    }

    /// The last part of an object's name, as listings show it.
    pub fn name(object: Object) -> String {
        format!("{:012}", object.number)
    }

    /// Makes the bucket, or sees that it is there; says whether it is new.
    pub async fn make_bucket(&mut self) -> anyhow::Result<bool> {
        let (status, text) = self.once(Method::PUT, About::Bucket).await?;
        match status {
            200 | 201 => Ok(true),
            202 | 409 => Ok(false),
            _ => bail!("making the bucket was answered with {status}: {text}"),
        }
    }

    /// Deletes the bucket.
    pub async fn delete_bucket(&mut self) -> anyhow::Result<()> {
        match self.once(Method::DELETE, About::Bucket).await? {
            (200..300 | 404, _) => Ok(()),
            (status, text) => bail!("deleting the bucket was answered with {status}: {text}"),
        }
    }

    async fn once(&mut self, method: Method, about: About) -> anyhow::Result<(u16, String)> {
        let request = self.request(method, about, Payload::default())?;
        let response = self.connect(false).await?.send(request).await?;
        let status = response.status().as_u16();
        Ok((status, super::connection::read_text(response).await))
    }
}
