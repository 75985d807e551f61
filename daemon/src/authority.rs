//! The cluster's own certificate authority: makes its key, issues certificates with it, and reads what certificates say.
//!
//! Texts are PEM; where they are kept is the caller's affair. Keys are ECDSA on P-256, which everything speaks.

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use crate::Clock;

/// A certificate is good from a little before it is made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Why no certificate was made or understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthorityError(String);

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

/// A certificate and the key that goes with it.
#[derive(Clone)]
pub struct Issued {
    /// For everybody.
    pub certificate: String,
    /// For its owner alone.
    pub key: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issued")
    }
}

/// An authority that can issue.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// A new one: its certificate and key.
    pub fn create(name: &str, good_for: Duration, clock: &Clock) -> Result<Issued, AuthorityError> {
        let mut params = params(name, good_for, clock)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        Ok(Issued {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The one that [`Authority::create`] made.
    pub fn load(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key)?;
        Ok(Self { issuer })
    }

    /// A certificate for `name` that is good for these DNS names and addresses, to listen and to connect with.
    pub fn issue(
        &self,
        name: &str,
        alternatives: Vec<String>,
        good_for: Duration,
        clock: &Clock,
    ) -> Result<Issued, AuthorityError> {
        let mut params = params(name, good_for, clock)?;
        params.subject_alt_names = CertificateParams::new(alternatives)?.subject_alt_names;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        Ok(Issued {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn params(
    name: &str,
    good_for: Duration,
    clock: &Clock,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::from_unix_timestamp_nanos(i128::from(clock.now_ns()))
        .map_err(|error| AuthorityError(format!("the date of this machine: {error}")))?;
    params.not_before = now - BACKDATED;
    params.not_after = now + good_for;
    Ok(params)
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Whom it is about.
    pub subject: String,
    /// Who says so.
    pub issuer: String,
    /// DNS names and addresses, in its order.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub good_from_secs: i64,
    /// Seconds since 1970.
    pub good_until_secs: i64,
    /// True for an authority's.
    pub is_authority: bool,
}

/// Reads the first certificate in a PEM text.
pub fn describe(pem: &[u8]) -> Result<Description, AuthorityError> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem)
        .map_err(|error| AuthorityError(format!("not a certificate in PEM form: {error}")))?;
    let certificate = block
        .parse_x509()
        .map_err(|error| AuthorityError(format!("not a certificate: {error}")))?;
    let alternatives = certificate
        .subject_alternative_name()
        .map_err(|error| AuthorityError(format!("names in the certificate: {error}")))?;
    let names = alternatives.map_or_else(Vec::new, |extension| {
        let names = extension.value.general_names.iter();
        names.filter_map(name_text).collect()
    });
    Ok(Description {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        names,
        good_from_secs: certificate.validity().not_before.timestamp(),
        good_until_secs: certificate.validity().not_after.timestamp(),
        is_authority: certificate.is_ca(),
    })
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Authority, describe};
    use crate::Clock;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn what_is_issued_says_what_was_asked_for() {
        let clock = Clock::system();
        let root = Authority::create("Cairn CA x", 3650 * DAY, &clock).unwrap();
        let authority = Authority::load(&root.certificate, &root.key).unwrap();
        let names = ["nn1.example", "10.0.0.1", "::1"]
            .map(str::to_owned)
            .to_vec();
        let issued = authority
            .issue("nn1", names.clone(), 90 * DAY, &clock)
            .unwrap();
        let said = describe(issued.certificate.as_bytes()).unwrap();
        assert_eq!(said.names, names);
        assert_eq!(
            (said.subject.as_str(), said.issuer.as_str()),
            ("CN=nn1", "CN=Cairn CA x")
        );
        assert!(!said.is_authority);
        let now = i64::try_from(clock.now_ns() / 1_000_000_000).unwrap();
        assert!(said.good_from_secs < now);
        assert!((said.good_until_secs - now - 90 * 86_400).abs() < 60);
        assert!(describe(root.certificate.as_bytes()).unwrap().is_authority);
        assert!(!format!("{issued:?}").contains("PRIVATE"));
    }

    #[test]
    fn another_authoritys_key_is_noticed_as_no_key() {
        let root = Authority::create("x", DAY, &Clock::system()).unwrap();
        assert!(Authority::load(&root.certificate, "nothing").is_err());
        assert!(Authority::load("nothing", &root.key).is_err());
        assert!(describe(b"nothing").is_err());
    }
}
