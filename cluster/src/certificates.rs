//! Certificates: the cluster's authority, and one for each node.
//!
//! The authority's key is in every member's folder, so that any member can admit a machine and each renews
//! its own certificate without asking. A certificate alone admits nobody: the map lists the key of
//! each member, and every other key is refused, whoever signed it. A node's own key never leaves it.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;

use crate::id::random;
use crate::{ClusterId, Fingerprint, KeyDigest};

/// Life of the authority.
const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Life of a node's certificate; it is renewed when two thirds of it are over.
const NODE_LIFE: Duration = Duration::days(30);
/// Clocks of machines that join may be behind by this.
const SKEW: Duration = Duration::hours(1);
/// Ends the host names in certificates.
const SUFFIX: &str = "kodiak";

/// Why a certificate cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be read.
    #[error("the {0} cannot be read: {1}")]
    Unreadable(&'static str, String),
    /// It could not be made.
    #[error("no certificate could be made: {0}")]
    Signing(#[from] rcgen::Error),
    /// It is not one of a node.
    #[error("the certificate names no node of a cluster")]
    NoNode,
}

/// The host name in a node's certificate.
pub fn host_name(cluster: ClusterId, node: &str) -> String {
    format!("{node}.{cluster}.{SUFFIX}")
}

/// SHA-256 of a certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

fn digest(key: &impl PublicKeyData) -> KeyDigest {
    KeyDigest(*blake3::hash(&key.subject_public_key_info()).as_bytes())
}

/// Signs certificates.
pub struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn create(cluster: ClusterId, now: OffsetDateTime) -> Result<Authority, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Kodiak cluster {cluster}"));
        (params.not_before, params.not_after) = (now - SKEW, now + AUTHORITY_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(serial());
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Authority {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads an authority.
    ///
    /// # Errors
    /// When one of the two cannot be read.
    pub fn load(pem: &str, key_pem: &str) -> Result<Authority, CertificateError> {
        let unreadable = |error: rcgen::Error| {
            CertificateError::Unreadable("authority's certificate or key", error.to_string())
        };
        let key = KeyPair::from_pem(key_pem).map_err(unreadable)?;
        let der = parse(pem)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(unreadable)?;
        Ok(Authority { pem: pem.to_owned(), der, issuer })
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its key: a secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// What join tokens pin.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.der)
    }

    /// Certifies a node's own key.
    ///
    /// # Errors
    /// When the name is not possible.
    pub fn sign(
        &self,
        cluster: ClusterId,
        node: &str,
        key: &NodeKey,
        now: OffsetDateTime,
    ) -> Result<String, CertificateError> {
        Ok(params(cluster, node, now)?.signed_by(&key.0, &self.issuer)?.pem())
    }

    /// Certifies the key of a signing request. Only its key counts, not what it asks for; that its sender has
    /// the key is checked.
    ///
    /// # Errors
    /// When the request is not sound.
    pub fn sign_request(
        &self,
        cluster: ClusterId,
        node: &str,
        request: &[u8],
        now: OffsetDateTime,
    ) -> Result<String, CertificateError> {
        let request = read_request(request)?;
        Ok(params(cluster, node, now)?.signed_by(&request.public_key, &self.issuer)?.pem())
    }
}

fn read_request(request: &[u8]) -> Result<CertificateSigningRequestParams, CertificateError> {
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(|error| CertificateError::Unreadable("signing request", error.to_string()))
}

/// The key that a signing request is for.
///
/// # Errors
/// When it cannot be read or was not signed with that key.
pub fn request_key(request: &[u8]) -> Result<KeyDigest, CertificateError> {
    Ok(digest(&read_request(request)?.public_key))
}

fn params(cluster: ClusterId, node: &str, now: OffsetDateTime) -> Result<CertificateParams, rcgen::Error> {
    let host = host_name(cluster, node);
    let mut params = CertificateParams::new(vec![host])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, node);
    (params.not_before, params.not_after) = (now - SKEW, now + NODE_LIFE);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    Ok(params)
}

fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = random();
    // Positive and without leading zeros, as X.509 wants it.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn parse(pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| CertificateError::Unreadable("certificate", error.to_string()))
}

/// A node's own key.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// Makes a new one.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn create() -> Result<NodeKey, CertificateError> {
        Ok(NodeKey(KeyPair::generate()?))
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(pem: &str) -> Result<NodeKey, CertificateError> {
        let key = KeyPair::from_pem(pem);
        key.map(NodeKey).map_err(|error| CertificateError::Unreadable("node's key", error.to_string()))
    }

    /// For its file: a secret.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// What the map lists.
    pub fn digest(&self) -> KeyDigest {
        digest(&self.0)
    }

    /// Asks for a certificate.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn request(&self) -> Result<Vec<u8>, CertificateError> {
        Ok(CertificateParams::default().serialize_request(&self.0)?.der().to_vec())
    }
}

/// What a node's certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeCertificate {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Which node.
    pub node: String,
    /// Its key.
    pub key: KeyDigest,
    /// From when on it is good.
    pub begins: OffsetDateTime,
    /// Until when.
    pub expires: OffsetDateTime,
}

impl NodeCertificate {
    /// Reads a certificate. Who signed it is TLS's business.
    ///
    /// # Errors
    /// When it is not one of a node.
    pub fn read(der: &[u8]) -> Result<NodeCertificate, CertificateError> {
        let unreadable = |error: String| CertificateError::Unreadable("certificate", error);
        let (_, x509) = x509_parser::parse_x509_certificate(der).map_err(|e| unreadable(e.to_string()))?;
        let names = x509.subject_alternative_name().map_err(|e| unreadable(e.to_string()))?;
        let names = names.ok_or(CertificateError::NoNode)?;
        let [GeneralName::DNSName(host)] = names.value.general_names[..] else {
            return Err(CertificateError::NoNode);
        };
        let mut labels = host.split('.');
        let (Some(node), Some(cluster), Some(SUFFIX), None) =
            (labels.next(), labels.next(), labels.next(), labels.next())
        else {
            return Err(CertificateError::NoNode);
        };
        let validity = x509.validity();
        Ok(NodeCertificate {
            cluster: cluster.parse().map_err(|_| CertificateError::NoNode)?,
            node: node.to_owned(),
            key: KeyDigest(*blake3::hash(x509.public_key().raw).as_bytes()),
            begins: validity.not_before.to_datetime(),
            expires: validity.not_after.to_datetime(),
        })
    }

    /// Reads the first certificate of a PEM file.
    ///
    /// # Errors
    /// When it is not one of a node.
    pub fn read_pem(pem: &str) -> Result<NodeCertificate, CertificateError> {
        NodeCertificate::read(&parse(pem)?)
    }

    /// Whether it is time for the next one.
    pub fn due(&self, now: OffsetDateTime) -> bool {
        now - self.begins >= (self.expires - self.begins) * 2 / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    #[test]
    fn a_node_certificate_says_who_it_is_and_is_due_after_two_thirds() {
        let cluster = ClusterId::random();
        let authority = Authority::create(cluster, now()).unwrap();
        let key = NodeKey::create().unwrap();
        let pem = authority.sign(cluster, "n1", &key, now()).unwrap();
        let read = NodeCertificate::read_pem(&pem).unwrap();
        assert_eq!((read.cluster, read.node.as_str(), read.key), (cluster, "n1", key.digest()));
        assert!(!read.due(now() + Duration::days(19)));
        assert!(read.due(now() + Duration::days(21)));
        assert_eq!(read.expires - now(), Duration::days(30));
    }

    #[test]
    fn an_authority_and_a_key_are_the_same_when_they_are_read_again() {
        let cluster = ClusterId::random();
        let authority = Authority::create(cluster, now()).unwrap();
        let again = Authority::load(authority.pem(), &authority.key_pem()).unwrap();
        assert_eq!(again.fingerprint(), authority.fingerprint());
        let key = NodeKey::create().unwrap();
        assert_eq!(NodeKey::load(&key.pem()).unwrap().digest(), key.digest());
    }

    #[test]
    fn a_request_gives_its_own_key_and_the_name_that_the_authority_chose() {
        let cluster = ClusterId::random();
        let authority = Authority::create(cluster, now()).unwrap();
        let key = NodeKey::create().unwrap();
        let request = key.request().unwrap();
        assert_eq!(request_key(&request).unwrap(), key.digest());
        let pem = authority.sign_request(cluster, "n2", &request, now()).unwrap();
        let read = NodeCertificate::read_pem(&pem).unwrap();
        assert_eq!((read.node.as_str(), read.key), ("n2", key.digest()));
        let mut forged = request;
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(authority.sign_request(cluster, "n2", &forged, now()).is_err());
    }
}
