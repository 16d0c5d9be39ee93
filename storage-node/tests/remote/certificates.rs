//! Certificates of clusters that live as long as a test.

use std::sync::Arc;

use kodiak_storage_api::remote::host_name;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// What a node shows and trusts.
pub struct Credentials {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        // Each authority has a name of its own, as those of clusters do.
        let name = format!("authority {:x}", rand::random::<u64>());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed").der().clone();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    pub fn node(&self, node: &str, cluster: &str) -> Credentials {
        self.signed(node, cluster, 2099)
    }

    pub fn expired(&self, node: &str, cluster: &str) -> Credentials {
        self.signed(node, cluster, 2020)
    }

    fn signed(&self, node: &str, cluster: &str, until: i32) -> Credentials {
        let mut params = CertificateParams::new(vec![host_name(node, cluster)]).expect("a name");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Credentials { certificate, key, roots: Arc::new(roots) }
    }
}

impl Credentials {
    pub fn client(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())
            .expect("a client")
    }

    /// Trusts what another trusts.
    pub fn trusting(self, other: &Credentials) -> Credentials {
        Credentials { roots: other.roots.clone(), ..self }
    }

    pub fn anonymous(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth()
    }

    /// As a cluster's members serve: machines that join have no certificate yet.
    pub fn server(&self) -> ServerConfig {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider());
        ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().expect("a verifier"))
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .expect("a server")
    }
}
