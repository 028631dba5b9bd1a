//! TLS on a connection to an upstream: DNS over TLS (RFC 7858), strict profile (RFC 8310 section 5).
//!
//! No query is sent unless the certificate is valid for the configured name; there is no fallback to clear text. TLS 1.2
//! and 1.3, the name sent (SNI), ALPN "dot" offered, sessions resumed across workers, no early data.
//!
//! The trusted roots are read once, when the first TLS server is queried; a change needs a restart:
//!
//! 1. `SSL_CERT_FILE` or `SSL_CERT_DIR`, if set: only these, for installations that trust a private CA alone.
//! 2. Otherwise the system's store.
//! 3. Otherwise, as in an image without a store, the built-in roots of Mozilla.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_native_certs::{CertificateResult, Error, ErrorKind};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::{FailureKind, TlsFault};
use super::local_fault::LocalFault;

/// Protocol name of DNS over TLS in ALPN (registered with RFC 7858).
const ALPN: &[u8] = b"dot";
/// Environment variables that replace the system's store.
const ROOT_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// State shared by all connections: the roots, and the sessions that can be resumed.
static CONNECTOR: OnceCell<Result<TlsConnector, TlsFault>> = OnceCell::const_new();

/// Opens a connection to `address` and sets up TLS with `host`. The caller bounds the time.
///
/// # Errors
/// As for TCP; and [`FailureKind::Tls`] if the certificate is not valid for `host`, or the peer does not speak TLS
/// correctly. That lasts until the server or the roots change.
pub(crate) async fn connect(address: SocketAddr, host: &str) -> Result<TlsStream<TcpStream>, FailureKind> {
    let load = || async { spawn_blocking(load).await.unwrap_or(Ok(Err(TlsFault::Handshake))) };
    let connector = CONNECTOR.get_or_try_init(load).await.map_err(FailureKind::Local)?;
    let connector = connector.as_ref().map_err(|fault| FailureKind::Tls(*fault))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| FailureKind::Tls(TlsFault::WrongName))?;
    let stream = TcpStream::connect(address).await.map_err(|error| FailureKind::of_error(&error))?;
    stream.set_nodelay(true).map_err(|error| FailureKind::of_error(&error))?;
    connector.connect(name, stream).await.map_err(|error| {
        tracing::debug!(server = %address, host, %error, "TLS setup failed");
        FailureKind::Tls(fault(&error))
    })
}

/// Loads the connector, or the lasting reason why there is none. A fault of this machine is the outer error, which is not
/// kept: the next call reads the roots again.
fn load() -> Result<Result<TlsConnector, TlsFault>, LocalFault> {
    let found = rustls_native_certs::load_native_certs();
    let fault = |error: &Error| match &error.kind {
        ErrorKind::Io { inner, .. } => LocalFault::of(inner).filter(|fault| *fault == LocalFault::Descriptors),
        _ => None,
    };
    match found.errors.iter().find_map(fault) {
        Some(fault) => Err(fault),
        None => Ok(connector(found)),
    }
}

fn connector(found: CertificateResult) -> Result<TlsConnector, TlsFault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| {
        tracing::error!(%error, "TLS unavailable: tls:// servers cannot be queried");
        TlsFault::Handshake
    })?;
    let mut config = builder.with_root_certificates(roots(found)?).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(found: CertificateResult) -> Result<RootCertStore, TlsFault> {
    let chosen = ROOT_VARIABLES.into_iter().find(|variable| env::var_os(variable).is_some());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match chosen {
        Some(variable) => {
            for error in found.errors {
                tracing::warn!(%error, variable, "cannot load TLS root certificates");
            }
            if roots.is_empty() {
                tracing::error!(variable, "no TLS root certificates: tls:// servers cannot be queried");
                return Err(TlsFault::NoRoots);
            }
        }
        None if roots.is_empty() => {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            tracing::info!(roots = roots.len(), "no TLS root certificates on this system; using the built-in ones");
        }
        None => {}
    }
    Ok(roots)
}

/// Returns the fault that an error of the handshake reports.
fn fault(error: &io::Error) -> TlsFault {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(error)) = error else { return TlsFault::Handshake };
    match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFault::WrongName,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFault::Expired,
        CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
        _ => TlsFault::BadCertificate,
    }
}
