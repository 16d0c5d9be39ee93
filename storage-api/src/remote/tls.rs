//! Who a certificate is of.
//!
//! TLS itself checks that the cluster's authority has signed it, that it has not expired and, for a server, that
//! it is of the node that was meant. Renewed certificates are the configurations' matter (a resolver).

use rustls_pki_types::CertificateDer;
use tokio::io::BufReader;
use tokio::net::TcpStream;

/// The protocol of other services on the same port.
pub const ALPN_GRPC: &[u8] = b"h2";

/// Bytes that are read from a socket at once: rustls asks for 4 KiB at a time.
const READ: usize = 64 << 10;

/// What TLS reads from.
pub type Socket = BufReader<TcpStream>;

/// A connection, ready for TLS.
pub fn socket(stream: TcpStream) -> std::io::Result<Socket> {
    // Without it a small message waits for an acknowledgement, 40 ms.
    stream.set_nodelay(true)?;
    Ok(BufReader::with_capacity(READ, stream))
}

/// The host name in the certificate of a node.
pub fn host_name(node: &str, cluster: &str) -> String {
    format!("{node}.{cluster}.kodiak")
}

/// The node that a checked certificate is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name in the rings.
    pub node: String,
    /// The certificate, DER.
    pub certificate: CertificateDer<'static>,
}

/// Reads a node's name from a certificate whose signature has been checked.
pub fn identify(certificate: &CertificateDer<'_>, cluster: &str) -> Result<Identity, String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    let suffix = host_name("", cluster);
    let mut names = parsed.valid_dns_names();
    let node = names.find_map(|name| name.strip_suffix(&suffix).filter(|node| !node.contains('.')));
    match node {
        Some(node) => Ok(Identity { node: node.to_owned(), certificate: certificate.clone().into_owned() }),
        None => Err(format!(
            "its certificate is of no node of cluster {cluster} but of {:?}",
            parsed.valid_dns_names().collect::<Vec<_>>()
        )),
    }
}

/// A configuration that offers these protocols.
pub fn with_alpn(config: &rustls::ClientConfig, protocols: Vec<Vec<u8>>) -> rustls::ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols = protocols;
    // A resumed session would not look at the certificates again.
    config.resumption = rustls::client::Resumption::disabled();
    config
}
