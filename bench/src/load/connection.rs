//! One HTTP/1.1 connection, kept for many requests.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use anyhow::{Context, bail};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::content::Payload;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    connect: String,
    host: String,
}

impl Address {
    /// The address and the path of an `http://` URL; the path has no slash at its end.
    pub fn parse(url: &str) -> anyhow::Result<(Address, String)> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => bail!("{url}: TLS is not supported; measure behind it"),
            _ => bail!("{url:?} does not begin with http://"),
        }
        let host = uri.authority().with_context(|| format!("{url:?} names no host"))?.to_string();
        let name = uri.host().unwrap_or_default();
        let connect = format!("{name}:{}", uri.port_u16().unwrap_or(80));
        Ok((Address { connect, host }, uri.path().trim_end_matches('/').to_string()))
    }

    /// The value of the `Host` header.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The same as a header.
    pub fn host_header(&self) -> anyhow::Result<HeaderValue> {
        Ok(HeaderValue::from_str(&self.host)?)
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<Payload>,
}

impl Connection {
    /// Connects. With `quickack`, every read asks the kernel to acknowledge at once.
    pub async fn open(address: &Address, quickack: bool) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&address.connect)
            .await
            .with_context(|| format!("cannot connect to {}", address.connect))?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(Stream { stream, quickack });
        let (sender, connection) = http1::Builder::new().writev(true).handshake(io).await?;
        tokio::spawn(connection);
        Ok(Connection { sender })
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(&mut self, request: Request<Payload>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Whether another request can be sent once the last answer has been read.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// The text of an answer, for a message.
pub async fn read_text(response: Response<Incoming>) -> String {
    let body = Limited::new(response.into_body(), 64 << 10).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    let mut short: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = short.char_indices().nth(300) {
        short.truncate(end);
        short.push('…');
    }
    short
}

/// The words of an error and of what caused it.
pub fn explain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

struct Stream {
    stream: TcpStream,
    quickack: bool,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(task, buffer))?;
        if self.quickack {
            // The kernel forgets it again after a while, so it is set after every read.
            rustix::net::sockopt::set_tcp_quickack(&self.stream, true)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(task, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let (address, path) = Address::parse("http://127.0.0.1:8080/auth/v1.0/").unwrap();
        assert_eq!((address.connect.as_str(), path.as_str()), ("127.0.0.1:8080", "/auth/v1.0"));
        let (address, path) = Address::parse("http://host").unwrap();
        assert_eq!((address.connect.as_str(), address.host(), path.as_str()), ("host:80", "host", ""));
        assert!(Address::parse("https://host").is_err());
        assert!(Address::parse("host:80").is_err());
    }
}
