//! TLS between members: both sides show certificates of the cluster's authority, TLS 1.3 only.
//!
//! A server takes callers without a certificate too, since a machine that joins has none; what they may ask is
//! [`crate::Membership`]'s decision. A certificate that has expired or that another authority signed ends the handshake.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{Fingerprint, certificates};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key cannot be used.
    #[error("a certificate or key of the cluster cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
    /// The authority cannot be used.
    #[error("the authority's certificate cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// No PEM.
    #[error("a certificate or key of the cluster is no PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authority: &CertificateDer<'static>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    Ok(roots)
}

/// This node's certificate, which is replaced while it serves.
#[derive(Debug)]
pub struct Credentials {
    authority: CertificateDer<'static>,
    current: ArcSwap<CertifiedKey>,
}

impl Credentials {
    /// Reads the node's certificate and key, and the authority's certificate.
    ///
    /// # Errors
    /// When one cannot be read, or the key is not the certificate's.
    pub fn new(authority: &str, certificate: &str, key: &str) -> Result<Arc<Credentials>, TlsError> {
        let authority = CertificateDer::from_pem_slice(authority.as_bytes())?;
        let current = ArcSwap::from_pointee(certified(&authority, certificate, key)?);
        Ok(Arc::new(Credentials { authority, current }))
    }

    /// Uses another certificate from the next connection on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn renew(&self, certificate: &str, key: &str) -> Result<(), TlsError> {
        self.current.store(Arc::new(certified(&self.authority, certificate, key)?));
        Ok(())
    }

    /// This node's certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        // It was made with at least one.
        self.current.load().cert.first().cloned().unwrap_or_else(|| self.authority.clone())
    }

    /// For serving members.
    ///
    /// # Errors
    /// When the authority cannot be used.
    pub fn server(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&self.authority)?), provider())
                .allow_unauthenticated()
                .build()?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.clone());
        Ok(Arc::new(config))
    }

    /// For calling members.
    ///
    /// # Errors
    /// When the authority cannot be used.
    pub fn client(self: &Arc<Self>) -> Result<Arc<ClientConfig>, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots(&self.authority)?)
            .with_client_cert_resolver(self.clone());
        Ok(Arc::new(config))
    }
}

fn certified(authority: &CertificateDer<'static>, pem: &str, key: &str) -> Result<CertifiedKey, TlsError> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    // The authority goes along for machines that join: they know only its fingerprint.
    Ok(CertifiedKey::from_der(vec![certificate, authority.clone()], key, &provider())?)
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// For a machine that joins: it has no certificate, and knows the authority by its fingerprint.
///
/// # Errors
/// When TLS cannot be set up.
pub fn joining(authority: Fingerprint) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { authority }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Accepts what the authority of a fingerprint has signed.
#[derive(Debug)]
struct Pinned {
    authority: Fingerprint,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|sent| certificates::fingerprint(sent) == self.authority);
        let unknown = rustls::Error::InvalidCertificate(TlsCertificateError::UnknownIssuer);
        let authority = pinned.ok_or(unknown)?.clone().into_owned();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(&authority)?), provider()).build();
        let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, OffsetDateTime};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::{Authority, ClusterId, NodeKey};

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    struct Node {
        authority: Authority,
        credentials: Arc<Credentials>,
    }

    fn node(name: &str, authority: Authority, age: Duration) -> Node {
        let key = NodeKey::create().unwrap();
        let pem = authority.sign(CLUSTER, name, &key, OffsetDateTime::now_utc() - age).unwrap();
        let credentials = Credentials::new(authority.pem(), &pem, &key.pem()).unwrap();
        Node { authority, credentials }
    }

    fn authority() -> Authority {
        Authority::create(CLUSTER, OffsetDateTime::now_utc()).unwrap()
    }

    fn again(authority: &Authority) -> Authority {
        Authority::load(authority.pem(), &authority.key_pem()).unwrap()
    }

    /// What client and server say of a handshake; a byte goes each way, since TLS 1.3 tells a client late.
    async fn shake(server: &Node, client: Arc<ClientConfig>, name: &str) -> Result<(), String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(server.credentials.server().unwrap());
        let serve = async {
            let mut stream = acceptor.accept(listener.accept().await?.0).await?;
            stream.write_u8(1).await?;
            stream.flush().await
        };
        let host = ServerName::try_from(certificates::host_name(CLUSTER, name)).unwrap();
        let call = async {
            let stream = TcpStream::connect(address).await?;
            TlsConnector::from(client).connect(host, stream).await?.read_u8().await
        };
        let (served, called) = tokio::join!(serve, call);
        match (served, called) {
            (Ok(()), Ok(_)) => Ok(()),
            (served, called) => Err(format!("server: {served:?}; client: {called:?}")),
        }
    }

    #[tokio::test]
    async fn members_talk_and_what_the_authority_did_not_sign_or_is_over_does_not() {
        let server = node("n1", authority(), Duration::ZERO);
        let client = node("n2", again(&server.authority), Duration::ZERO);
        shake(&server, client.credentials.client().unwrap(), "n1").await.unwrap();
        let other = shake(&server, client.credentials.client().unwrap(), "n3").await.unwrap_err();
        assert!(other.contains("NotValidForName"), "{other}");
        let old = node("n2", again(&server.authority), Duration::days(31));
        let expired = shake(&server, old.credentials.client().unwrap(), "n1").await.unwrap_err();
        assert!(expired.contains("ExpiredContext") || expired.contains("Expired"), "{expired}");
        // A node of another cluster believes its own authority only; one that pretends to have ours shows a
        // certificate that ours did not sign.
        let stranger = node("n2", authority(), Duration::ZERO);
        let foreign = shake(&server, stranger.credentials.client().unwrap(), "n1").await.unwrap_err();
        // Both authorities have one name: only the signature tells them apart.
        assert!(foreign.contains("client: Err") && foreign.contains("BadSignature"), "{foreign}");
        let current = stranger.credentials.current.load_full();
        let liar =
            Credentials { authority: client.credentials.authority.clone(), current: ArcSwap::new(current) };
        let forged = shake(&server, Arc::new(liar).client().unwrap(), "n1").await.unwrap_err();
        assert!(forged.contains("server: Err") && forged.contains("BadSignature"), "{forged}");
    }

    #[tokio::test]
    async fn a_machine_that_joins_talks_only_to_the_authority_of_its_token() {
        let server = node("n1", authority(), Duration::ZERO);
        shake(&server, joining(server.authority.fingerprint()).unwrap(), "n1").await.unwrap();
        let wrong = shake(&server, joining(Fingerprint([1; 32])).unwrap(), "n1").await.unwrap_err();
        assert!(wrong.contains("UnknownIssuer") || wrong.contains("UnknownCA"), "{wrong}");
        let name = shake(&server, joining(server.authority.fingerprint()).unwrap(), "n2").await.unwrap_err();
        assert!(name.contains("NotValidForName"), "{name}");
    }
}
