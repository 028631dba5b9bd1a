//! A TLS server that a test scripts query by query, and the authority that signs its certificate.

use crate::addresses::own_address;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::PATIENCE;

/// A certificate authority, with its certificate in a file.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
}

impl Ca {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ca-{}-{number}.pem", std::process::id()));
        std::fs::write(&file, certificate.pem()).expect("writes");
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Returns the configuration of a server whose certificate for `host` is valid until the end of `year`.
    pub(crate) fn config(
        &self,
        host: &str,
        year: i32,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        config.alpn_protocols = vec![b"dot".to_vec()];
        Arc::new(config)
    }
}

/// A scripted server on one port, which also counts clear text.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    clear: Arc<AtomicUsize>,
    acceptor: Arc<Mutex<Option<TlsAcceptor>>>,
    pub(crate) queries: mpsc::UnboundedReceiver<Asked>,
}

/// Properties of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) number: usize,
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) kind: Option<HandshakeKind>,
}

/// A query, which the test can answer at any time.
pub(crate) struct Asked {
    pub(crate) wire: Vec<u8>,
    pub(crate) connection: Connection,
    out: mpsc::UnboundedSender<Option<Vec<u8>>>,
}

impl Server {
    pub(crate) async fn start(config: &Arc<ServerConfig>) -> Self {
        Self::with(Some(TlsAcceptor::from(Arc::clone(config)))).await
    }

    /// Starts a server that closes each connection after its first byte.
    pub(crate) async fn silent() -> Self {
        Self::with(None).await
    }

    async fn with(acceptor: Option<TlsAcceptor>) -> Self {
        let acceptor = Arc::new(Mutex::new(acceptor));
        let listener = TcpListener::bind(own_address()).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let datagrams = UdpSocket::bind(address).await.expect("the same port");
        let (sender, queries) = mpsc::unbounded_channel();
        let (connections, clear) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counter = Arc::clone(&clear);
        tokio::spawn(async move {
            while datagrams.recv(&mut [0; 512]).await.is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (count, counter, current) = (Arc::clone(&connections), Arc::clone(&clear), Arc::clone(&acceptor));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let acceptor = current.lock().expect("a lock").clone();
                tokio::spawn(serve(stream, acceptor, number, sender.clone(), Arc::clone(&counter)));
            }
        });
        Self { address, connections, clear, acceptor, queries }
    }

    /// Changes the configuration for new connections.
    pub(crate) fn become_another(&self, config: &Arc<ServerConfig>) {
        *self.acceptor.lock().expect("a lock") = Some(TlsAcceptor::from(Arc::clone(config)));
    }

    /// Returns the next query.
    pub(crate) async fn query(&mut self) -> Asked {
        timeout(PATIENCE, self.queries.recv()).await.expect("in time").expect("a query")
    }

    /// Returns the next query for this name; skips others, as a query that takes long may be sent again.
    pub(crate) async fn query_for(&mut self, name: &str) -> Asked {
        let found = async {
            loop {
                let asked = self.query().await;
                if asked.message().queries[0].name().to_ascii() == name {
                    return asked;
                }
            }
        };
        timeout(PATIENCE, found).await.expect("in time")
    }

    /// Answers all queries.
    pub(crate) async fn answer_all(&mut self) {
        while let Some(asked) = self.queries.recv().await {
            asked.answer();
        }
    }

    pub(crate) fn saw_no_clear_text(&self) {
        assert_eq!(self.clear.load(Ordering::SeqCst), 0);
    }
}

/// Serves a connection: passes each query to the test, except those of the loop check.
async fn serve(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    number: usize,
    queries: mpsc::UnboundedSender<Asked>,
    clear: Arc<AtomicUsize>,
) {
    let mut first = [0];
    let bytes = stream.peek(&mut first).await.unwrap_or(0);
    // A TLS handshake record (RFC 8446 section 5.1).
    if bytes > 0 && first != [22] {
        clear.fetch_add(1, Ordering::SeqCst);
    }
    let Some(acceptor) = acceptor else { return };
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let tls = stream.get_ref().1;
    let connection = Connection {
        number,
        sni: tls.server_name().map(str::to_owned),
        alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
        kind: tls.handshake_kind(),
    };
    let (mut read, mut write) = tokio::io::split(stream);
    let (out, mut responses) = mpsc::unbounded_channel::<Option<Vec<u8>>>();
    tokio::spawn(async move {
        while let Some(Some(response)) = responses.recv().await {
            let framed = [&(response.len() as u16).to_be_bytes()[..], &response].concat();
            if write.write_all(&framed).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    });
    while let Ok(length) = read.read_u16().await {
        let mut wire = vec![0; length.into()];
        if read.read_exact(&mut wire).await.is_err() {
            return;
        }
        let asked = Asked { wire, connection: connection.clone(), out: out.clone() };
        if asked.message().queries[0].query_type() == RecordType::TXT {
            asked.answer();
        } else if queries.send(asked).is_err() {
            return;
        }
    }
}

impl Asked {
    pub(crate) fn message(&self) -> Message {
        Message::from_vec(&self.wire).expect("a query")
    }

    /// Answers with an address.
    pub(crate) fn answer(&self) {
        let mut message = self.message();
        let name = message.queries[0].name().clone();
        message.metadata.message_type = MessageType::Response;
        message.edns = None;
        message.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
        let _ = self.out.send(Some(message.to_vec().expect("a reply")));
    }

    /// Closes the connection of the query.
    pub(crate) fn close(&self) {
        let _ = self.out.send(None);
    }
}
