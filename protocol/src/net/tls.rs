//! TLS between our processes and towards clients, with certificates of the cluster's own CA.
//!
//! A node's certificate names its hosts and, as further DNS names under a domain that nobody can register, its roles. Whoever
//! listens shows a certificate; whoever connects as a namenode or datanode, too. A client shows none and proves itself otherwise.
//! The handshake needs randomness and a date of its own: the simulator has no TLS.

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Stream, TcpStream};
use crate::{ErrorCode, Failure};

/// The first byte of every TLS connection; none of our frames and no HTTP request starts with it.
const HANDSHAKE_RECORD: u8 = 0x16;

/// What a certificate entitles its owner to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Keeps metadata and instructs datanodes.
    Namenode,
    /// Keeps replicas.
    Datanode,
    /// A person or tool that acts as the superuser, and in anybody's name.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 3] = [Role::Namenode, Role::Datanode, Role::Operator];

    /// As hellos and people say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namenode => "namenode",
            Self::Datanode => "datanode",
            Self::Operator => "operator",
        }
    }

    /// The role with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The DNS name by which a certificate states the role.
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::Namenode => "namenode.role.cairn.internal",
            Self::Datanode => "datanode.role.cairn.internal",
            Self::Operator => "operator.role.cairn.internal",
        }
    }
}

/// The roles that a certificate states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// True if `role` is among them.
    pub fn contains(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(parsed) = ParsedCertificate::try_from(certificate) else {
            return Self::default();
        };
        let stated = |role: &Role| {
            ServerName::try_from(role.dns_name())
                .is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
        };
        let bits = Role::ALL.into_iter().filter(stated);
        Self(bits.fold(0, |all, role| all | 1 << role as u8))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<T: IntoIterator<Item = Role>>(roles: T) -> Self {
        Self(roles.into_iter().fold(0, |all, role| all | 1 << role as u8))
    }
}

/// What is known of the other end of a connection besides its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the connection is in the clear, and its words are believed.
    Clear,
    /// Nothing: the connection is under TLS without a certificate of the other end. Its words are not believed.
    Anonymous,
    /// The roles in its certificate.
    Certified(Roles),
}

impl Proof {
    /// True if the other end may act in `role`.
    pub fn allows(self, role: Role) -> bool {
        match self {
            Self::Clear => true,
            Self::Anonymous => false,
            Self::Certified(roles) => roles.contains(role),
        }
    }
}

/// Why TLS could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// No certificate in the text, or one that cannot be read.
    #[error("not a certificate in PEM form: {0}")]
    Certificate(String),
    /// No private key in the text, or one that cannot be read.
    #[error("not a private key in PEM form: {0}")]
    Key(String),
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("certificate and key: {0}")]
    Identity(String),
    /// The CA's certificate is not one that can be trusted.
    #[error("certificate of the CA: {0}")]
    Authority(String),
}

/// Whom a process trusts, and what it shows. Cheap to clone; clones share what [`Tls::renew`] changes.
#[derive(Clone)]
pub struct Tls {
    /// Held for a look.
    current: Arc<RwLock<Configs>>,
}

#[derive(Clone)]
struct Configs {
    dial: Arc<ClientConfig>,
    /// Asks for certificates; absent in a process that has none of its own and cannot listen.
    rpc: Option<Arc<ServerConfig>>,
    /// Asks for none.
    http: Option<Arc<ServerConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Trusts certificates of `ca`, shows none. All texts are PEM.
    pub fn client(ca: &[u8]) -> Result<Self, TlsError> {
        Self::new(ca, None)
    }

    /// Trusts certificates of `ca`, and shows its own.
    pub fn node(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Self::new(ca, Some((certificate, key)))
    }

    /// Trusts certificates of `ca`, and shows its own, with the key that goes with it, if there is one.
    pub fn new(ca: &[u8], own: Option<(&[u8], &[u8])>) -> Result<Self, TlsError> {
        let configs = Configs::new(ca, own)?;
        Ok(Self {
            current: Arc::new(RwLock::new(configs)),
        })
    }

    /// Connections from now on use what `newer` has.
    pub fn renew(&self, newer: &Tls) {
        let configs = newer.configs();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = configs;
    }

    fn configs(&self) -> Configs {
        // It is replaced as a whole, so a poisoned lock is as good as any.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// The caller's side of the handshake with the process at `address`, whose certificate must name that host.
    pub async fn connect(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> Result<(Stream, Proof), Failure> {
        let host = host_of(address);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            let message = format!("{address}: `{host}` is no host name");
            Failure::new(ErrorCode::InvalidArgument, message)
        })?;
        let connector = TlsConnector::from(self.configs().dial);
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| explain(address, &error))?;
        let proof = proof(stream.get_ref().1.peer_certificates());
        Ok((Stream::Tls(Box::new(TlsStream::Client(stream))), proof))
    }

    /// The listener's side of the handshake for our own protocol. Whoever has no certificate is [`Proof::Anonymous`].
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(Stream, Proof)> {
        accept(self.configs().rpc, stream).await
    }

    /// The listener's side of the handshake for HTTP.
    pub async fn accept_http(&self, stream: TcpStream) -> io::Result<Stream> {
        Ok(accept(self.configs().http, stream).await?.0)
    }

    /// False if the connection starts with something else than TLS. Waits for its first byte and leaves it in the socket.
    pub async fn is_spoken(stream: &mut TcpStream) -> io::Result<bool> {
        let mut first = [0];
        Ok(stream.peek(&mut first).await? == 1 && first[0] == HANDSHAKE_RECORD)
    }
}

async fn accept(
    config: Option<Arc<ServerConfig>>,
    stream: TcpStream,
) -> io::Result<(Stream, Proof)> {
    let config = config.ok_or_else(|| io::Error::other("there is no certificate to show"))?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let proof = proof(stream.get_ref().1.peer_certificates());
    Ok((Stream::Tls(Box::new(TlsStream::Server(stream))), proof))
}

fn proof(certificates: Option<&[CertificateDer<'_>]>) -> Proof {
    match certificates.and_then(<[_]>::first) {
        Some(certificate) => Proof::Certified(Roles::of(certificate)),
        None => Proof::Anonymous,
    }
}

impl Configs {
    fn new(ca: &[u8], own: Option<(&[u8], &[u8])>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots(ca)?);
        let authority = |error: &dyn fmt::Display| TlsError::Authority(error.to_string());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| authority(&error))?;
        let dial = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| authority(&error))?
            .with_webpki_verifier(verifier);
        let Some((certificate, key)) = own else {
            return Ok(Self {
                dial: Arc::new(dial.with_no_client_auth()),
                rpc: None,
                http: None,
            });
        };
        let chain = certificates(certificate)?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Key(error.to_string()))?;
        let identity = |error: rustls::Error| TlsError::Identity(error.to_string());
        let callers = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| authority(&error))?;
        let listen = || {
            ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|error| authority(&error))
        };
        Ok(Self {
            rpc: Some(Arc::new(
                listen()?
                    .with_client_cert_verifier(callers)
                    .with_single_cert(chain.clone(), key.clone_key())
                    .map_err(identity)?,
            )),
            http: Some(Arc::new(
                listen()?
                    .with_no_client_auth()
                    .with_single_cert(chain.clone(), key.clone_key())
                    .map_err(identity)?,
            )),
            dial: Arc::new(dial.with_client_auth_cert(chain, key).map_err(identity)?),
        })
    }
}

fn roots(ca: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Authority(error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| TlsError::Certificate(error.to_string()))?;
    if all.is_empty() {
        return Err(TlsError::Certificate("there is none in it".to_owned()));
    }
    Ok(all)
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// What the other end says of the certificate that we have shown. It says so after our side of the handshake is through, instead of an
/// answer. `None` if that is not what went wrong.
pub(crate) fn refused_certificate(error: &io::Error) -> Option<String> {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::AlertReceived(alert)) = tls else {
        return None;
    };
    let why = match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it is not of this cluster's CA"
        }
        AlertDescription::CertificateExpired => "it has expired, or is not valid yet",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown => "it is not good for this",
        _ => return None,
    };
    Some(format!("the certificate that we show is refused: {why}"))
}

/// What a failed handshake means to people. What a retry can mend is `Unavailable`.
fn explain(address: &str, error: &io::Error) -> Failure {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => Failure::new(
            ErrorCode::Unauthenticated,
            format!("{address} does not speak TLS: it runs with auth = \"simple\""),
        ),
        Some(rustls::Error::InvalidCertificate(why)) => Failure::new(
            ErrorCode::Unauthenticated,
            format!("the certificate of {address} is not accepted: {why}; see `ca` in [security]"),
        ),
        Some(other) => Failure::new(
            ErrorCode::Unauthenticated,
            format!("TLS with {address}: {other}"),
        ),
        None => Failure::new(
            ErrorCode::Unavailable,
            format!("TLS with {address}: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{Proof, Role, Roles, Tls, TlsError, host_of};

    #[test]
    fn a_host_is_what_stands_before_the_port() {
        assert_eq!(host_of("nn1.example:9000"), "nn1.example");
        assert_eq!(host_of("[::1]:9000"), "::1");
        assert_eq!(host_of("127.0.0.1:1"), "127.0.0.1");
    }

    #[test]
    fn only_a_certificate_proves_a_role() {
        let roles: Roles = [Role::Datanode].into_iter().collect();
        assert!(Proof::Certified(roles).allows(Role::Datanode));
        assert!(!Proof::Certified(roles).allows(Role::Namenode));
        assert!(!Proof::Anonymous.allows(Role::Datanode));
        assert!(Proof::Clear.allows(Role::Namenode));
        for role in Role::ALL {
            assert_eq!(Role::from_name(role.name()), Some(role));
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_and_named() {
        let error = Tls::client(b"nothing").unwrap_err();
        assert!(matches!(error, TlsError::Certificate(_)), "{error}");
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            Tls::client(broken).unwrap_err(),
            TlsError::Authority(_)
        ));
    }
}
