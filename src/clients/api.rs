//! Access to the Kubernetes API over HTTP/1.1: GET, PATCH, a bearer token, JSON, lines of JSON.
//!
//! A Kubernetes client library would add every resource type, a YAML parser and JSONPath for these few requests: a third of the
//! build.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use form_urlencoded::Serializer;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::rt::{Read, Write};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio_rustls::TlsConnector;

use super::manifest::ApiStatus;
use crate::config::{ApiServer, Kubernetes};
use crate::task::boxed;

/// Directory of the service account's token and CA certificate in each pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Most bytes of a response, and of one watch event. An etcd object has at most 1.5 MiB; a page has 500 pods.
const LARGEST: usize = 64 << 20;
/// Largest error response whose message is shown, in bytes.
const LARGEST_STATUS: usize = 16 << 10;

/// Failure of an API request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No API server in the configuration or the environment.
    #[error("no API server: set `api_server` under [kubernetes]; outside a pod KUBERNETES_SERVICE_HOST is not set")]
    NoServer,
    /// An unusable file with the token or a certificate.
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: String },
    /// A failure to connect, or of the TLS handshake.
    #[error("cannot connect to {server}: {error}")]
    Connect {
        server: String,
        /// The error of the operating system or of TLS.
        error: io::Error,
    },
    /// A failure of HTTP.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("no response in time")]
    Late(#[from] Elapsed),
    /// A response of more than 64 MiB.
    #[error("a response of more than {} MiB", LARGEST >> 20)]
    TooLarge,
    /// A response that is not the expected JSON.
    #[error("unreadable response: {0}")]
    Json(#[from] serde_json::Error),
    /// A refusal by the API server.
    #[error("{0}")]
    Refused(ApiStatus),
}

/// An API server and the credentials for it.
pub(crate) struct Api {
    server: ApiServer,
    tls: Option<TlsConnector>,
    token_file: Option<PathBuf>,
}

impl Api {
    /// Returns the API server of the configuration, else the one of the cluster in which this process runs as a pod.
    /// `variable` reads the environment.
    ///
    /// # Errors
    /// There is neither, or the CA certificates cannot be read. A later attempt succeeds once the files exist.
    pub(crate) fn new(settings: &Kubernetes, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ApiError> {
        let account = Path::new(SERVICE_ACCOUNT);
        let (server, ca_file, token_file) = match &settings.api_server {
            Some(server) => (server.clone(), settings.ca_file.clone(), settings.token_file.clone()),
            None => {
                let host = variable("KUBERNETES_SERVICE_HOST").ok_or(ApiError::NoServer)?;
                let port = variable("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok()).unwrap_or(443);
                let server = ApiServer { tls: true, host, port, path: String::new() };
                let of_account =
                    |file: &Option<PathBuf>, name| Some(file.clone().unwrap_or_else(|| account.join(name)));
                (server, of_account(&settings.ca_file, "ca.crt"), of_account(&settings.token_file, "token"))
            }
        };
        let tls = if server.tls { Some(connector(ca_file.as_deref())?) } else { None };
        Ok(Self { server, tls, token_file })
    }

    /// Opens a connection. Reads the token each time, since the kubelet replaces it before it expires.
    ///
    /// # Errors
    /// The token cannot be read, the server cannot be reached, or its certificate is not signed by the CA. There is no
    /// timeout: the caller sets one.
    pub(crate) async fn connect(&self) -> Result<ApiConnection, ApiError> {
        let authorization = self.token_file.as_deref().map(authorization).transpose()?;
        let ApiServer { host, port, .. } = &self.server;
        let failed = |error| ApiError::Connect { server: self.server.authority(), error };
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        match &self.tls {
            None => self.handshake(TokioIo::new(stream), authorization).await,
            Some(tls) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| failed(io::Error::other(error)))?;
                let stream = tls.connect(name, stream).await.map_err(failed)?;
                self.handshake(TokioIo::new(stream), authorization).await
            }
        }
    }

    async fn handshake<S>(&self, stream: S, authorization: Option<HeaderValue>) -> Result<ApiConnection, ApiError>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(stream).await?;
        let mut driver = JoinSet::new();
        // An error of the connection also fails the pending request, which reports it.
        driver.spawn(boxed(async move { drop(connection.await) }));
        let authority = HeaderValue::try_from(self.server.authority())
            .map_err(|error| ApiError::Connect { server: self.server.authority(), error: io::Error::other(error) })?;
        Ok(ApiConnection { sender, authority, authorization, path: self.server.path.clone(), _driver: driver })
    }
}

/// A connection to the API server for one request at a time, closed when dropped.
pub(crate) struct ApiConnection {
    sender: SendRequest<Full<Bytes>>,
    authority: HeaderValue,
    authorization: Option<HeaderValue>,
    path: String,
    _driver: JoinSet<()>,
}

impl ApiConnection {
    /// Requests an object.
    ///
    /// # Errors
    /// The server refuses, the connection breaks, or the response is too large or not a `T`.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str, query: &[(&str, &str)]) -> Result<T, ApiError> {
        let response = self.request(path, query, None).await?;
        Ok(serde_json::from_slice(&whole(response.into_body(), LARGEST).await?)?)
    }

    /// Changes an object by a JSON Patch (RFC 6902).
    ///
    /// # Errors
    /// The server refuses, also if a test of the patch fails (422), or the connection breaks.
    pub(crate) async fn patch(&mut self, path: &str, patch: &impl Serialize) -> Result<(), ApiError> {
        let patch = serde_json::to_vec(patch)?;
        let response = self.request(path, &[], Some(patch.into())).await?;
        whole(response.into_body(), LARGEST).await.map(drop)
    }

    /// Requests a stream of events, one per line.
    ///
    /// # Errors
    /// The server refuses, or the connection breaks.
    pub(crate) async fn watch(mut self, path: &str, query: &[(&str, &str)]) -> Result<WatchStream, ApiError> {
        let response = self.request(path, query, None).await?;
        Ok(WatchStream { body: response.into_body(), buffer: Vec::new(), searched: 0, _connection: self })
    }

    /// Sends a GET request, or a PATCH request with `patch`.
    async fn request(
        &mut self,
        path: &str,
        query: &[(&str, &str)],
        patch: Option<Bytes>,
    ) -> Result<Response<Incoming>, ApiError> {
        let query = Serializer::new(String::new()).extend_pairs(query).finish();
        let mut request = Request::default();
        if let Some(patch) = patch {
            *request.method_mut() = Method::PATCH;
            *request.body_mut() = Full::new(patch);
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json-patch+json"));
        }
        *request.uri_mut() = format!("{}{path}?{query}", self.path).parse().map_err(|error| {
            let message = format!("{path} is no path: {error}");
            ApiError::Refused(ApiStatus { code: 0, message })
        })?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("nodens/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let text = whole(response.into_body(), LARGEST_STATUS).await.unwrap_or_default();
        let message = match serde_json::from_slice::<ApiStatus>(&text) {
            Ok(status) => status.message,
            Err(_) => code.canonical_reason().unwrap_or_default().to_owned(),
        };
        Err(ApiError::Refused(ApiStatus { code: code.as_u16(), message }))
    }
}

/// Events of a watch.
pub(crate) struct WatchStream {
    body: Incoming,
    /// Received bytes of events that have not been returned.
    buffer: Vec<u8>,
    /// Length of the prefix of `buffer` that has no line end.
    searched: usize,
    _connection: ApiConnection,
}

impl WatchStream {
    /// Returns the next event; `None` once the server has closed the stream.
    ///
    /// # Errors
    /// The connection broke, or the event is too large or not a `T`.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().skip(self.searched).position(|byte| *byte == b'\n') {
                let end = self.searched + end;
                let event = serde_json::from_slice(self.buffer.get(..end).unwrap_or_default());
                self.buffer.drain(..=end);
                self.searched = 0;
                return Ok(Some(event?));
            }
            self.searched = self.buffer.len();
            if self.searched > LARGEST {
                return Err(ApiError::TooLarge);
            }
            match self.body.frame().await.transpose()? {
                None => return Ok(None),
                Some(frame) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
        }
    }
}

/// Reads a whole body of at most `limit` bytes.
async fn whole(body: Incoming, limit: usize) -> Result<Bytes, ApiError> {
    let collected =
        Limited::new(body, limit).collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => ApiError::Http(*error),
            Err(_) => ApiError::TooLarge,
        })?;
    Ok(collected.to_bytes())
}

/// Returns the `Authorization` header for the token in a file.
fn authorization(path: &Path) -> Result<HeaderValue, ApiError> {
    let failed = |error: String| ApiError::File { path: path.to_owned(), error };
    let token = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| failed("has characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns a TLS connector that trusts the certificates in `ca_file`, or those of the system without such a file.
fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, ApiError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        Some(path) => {
            let failed = |error: String| ApiError::File { path: path.to_owned(), error };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                roots.add(certificate).map_err(|error| failed(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(failed("has no certificate".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder
        .map_err(|error| ApiError::Connect { server: "TLS".to_owned(), error: io::Error::other(error) })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
