//! DNS over TLS to upstreams: the built binary in front of a TLS server that the test scripts query by query.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "dns.test";

#[tokio::test]
async fn answered_over_tls_with_padding_and_the_name_sent() {
    for version in [&TLS12, &TLS13] {
        let ca = Ca::new();
        let mut server = Server::start(&ca.config(HOST, 4_000, version)).await;
        let nodens = Nodens::start(&ca.file, &[&server]);
        let client = nodens.ask("www.some.net.").await;
        let asked = server.query().await;
        assert_eq!(asked.wire.len() % 128, 0, "padded (RFC 8467)");
        let options = asked.message().edns.expect("EDNS");
        assert!(options.option(EdnsCode::Padding).is_some());
        assert!(options.option(EdnsCode::from(11)).is_some(), "keepalive (RFC 7828)");
        assert_eq!(asked.connection.sni.as_deref(), Some(HOST));
        assert_eq!(asked.connection.alpn.as_deref(), Some(&b"dot"[..]));
        asked.answer();
        assert_eq!(client.reply().await.answers.len(), 1);
        server.saw_no_clear_text();
    }
}

#[tokio::test]
async fn queries_share_a_connection_and_replies_come_in_any_order() {
    let ca = Ca::new();
    let mut server = Server::start(&ca.config(HOST, 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file, &[&server]);
    let first = nodens.ask("first.some.net.").await;
    let asked_first = server.query_for("first.some.net.").await;
    let second = nodens.ask("second.some.net.").await;
    let asked_second = server.query_for("second.some.net.").await;
    assert_eq!(asked_first.connection.number, asked_second.connection.number);
    asked_second.answer();
    assert_eq!(second.reply().await.answers.len(), 1);
    asked_first.answer();
    assert_eq!(first.reply().await.answers.len(), 1);
}

#[tokio::test]
async fn a_wrong_certificate_is_servfail_and_nothing_is_asked() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    for (config, words) in [
        (ca.config("other.test", 4_000, &TLS13), "TLS certificate for another name"),
        (ca.config("other.test", 4_000, &TLS12), "TLS certificate for another name"),
        (ca.config(HOST, 2_020, &TLS13), "TLS certificate expired"),
        (stranger.config(HOST, 4_000, &TLS13), "TLS certificate of an unknown issuer"),
    ] {
        let server = Server::start(&config).await;
        let nodens = Nodens::start(&ca.file, &[&server]);
        refused(&nodens, &server, words).await;
        assert!(server.connections.load(Ordering::SeqCst) > 0);
    }
}

#[tokio::test]
async fn without_the_configured_roots_nobody_is_trusted() {
    let ca = Ca::new();
    let server = Server::start(&ca.config(HOST, 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file.with_extension("missing"), &[&server]);
    refused(&nodens, &server, "no TLS root certificates").await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_in_clear_text_is_not_asked() {
    // It accepts and closes: whoever falls back to clear text would do so now.
    let ca = Ca::new();
    let server = Server::silent().await;
    let nodens = Nodens::start(&ca.file, &[&server]);
    refused(&nodens, &server, "TLS handshake failed").await;
}

#[tokio::test]
async fn the_next_server_answers_for_one_with_a_wrong_certificate() {
    let ca = Ca::new();
    let bad = Server::start(&ca.config("other.test", 4_000, &TLS13)).await;
    let mut good = Server::start(&ca.config(HOST, 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file, &[&bad, &good]);
    let client = nodens.ask("www.some.net.").await;
    good.query().await.answer();
    assert_eq!(client.reply().await.answers.len(), 1);
    bad.saw_no_clear_text();
}

#[tokio::test]
async fn a_closed_connection_is_opened_again_and_its_session_resumed() {
    let ca = Ca::new();
    let mut server = Server::start(&ca.config(HOST, 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file, &[&server]);
    let client = nodens.ask("first.some.net.").await;
    let before = server.query_for("first.some.net.").await;
    before.answer();
    client.reply().await;
    before.close();
    let client = nodens.ask("second.some.net.").await;
    let after = server.query_for("second.some.net.").await;
    assert_ne!(before.connection.number, after.connection.number);
    assert_eq!(after.connection.kind, Some(HandshakeKind::Resumed));
    after.answer();
    assert_eq!(client.reply().await.answers.len(), 1);
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_given_up_for_a_new_one() {
    let ca = Ca::new();
    let mut server = Server::start(&ca.config(HOST, 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file, &[&server]);
    let client = nodens.ask("first.some.net.").await;
    let before = server.query_for("first.some.net.").await;
    before.answer();
    client.reply().await;
    let client = nodens.ask("second.some.net.").await;
    let mut asked = server.query_for("second.some.net.").await;
    while asked.connection.number == before.connection.number {
        asked = server.query_for("second.some.net.").await;
    }
    asked.answer();
    assert_eq!(client.reply().await.answers.len(), 1);
}

/// The client gets SERVFAIL with an extended error that has these words, and the server sees no query.
async fn refused(nodens: &Nodens, server: &Server, words: &str) {
    let reply = nodens.ask("www.some.net.").await.reply().await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let told = reply.edns.as_ref().and_then(|edns| edns.option(EdnsCode::from(15)).cloned());
    let Some(EdnsOption::Unknown(_, told)) = told else { panic!("no extended error: {reply:?}") };
    let told = String::from_utf8_lossy(&told[2..]);
    assert!(told.contains(words), "{told}");
    server.saw_no_clear_text();
    assert!(server.queries.is_empty());
}

/// A certificate authority, its certificate in a file.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Ca {
    fn new() -> Self {
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

    /// A server with a certificate for `host` that is good until the end of `year`.
    fn config(&self, host: &str, year: i32, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
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

/// A scripted server on one port, which also counts what comes there in clear text.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    clear: Arc<AtomicUsize>,
    queries: mpsc::UnboundedReceiver<Asked>,
}

/// What the server learned of a connection.
#[derive(Clone, Debug)]
struct Connection {
    number: usize,
    sni: Option<String>,
    alpn: Option<Vec<u8>>,
    kind: Option<HandshakeKind>,
}

/// A query, to be answered when the test likes.
struct Asked {
    wire: Vec<u8>,
    connection: Connection,
    out: mpsc::UnboundedSender<Option<Vec<u8>>>,
}

impl Server {
    async fn start(config: &Arc<ServerConfig>) -> Self {
        Self::with(Some(TlsAcceptor::from(Arc::clone(config)))).await
    }

    /// One that reads, and then closes.
    async fn silent() -> Self {
        Self::with(None).await
    }

    async fn with(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
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
        let (count, counter) = (Arc::clone(&connections), Arc::clone(&clear));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, acceptor.clone(), number, sender.clone(), Arc::clone(&counter)));
            }
        });
        Self { address, connections, clear, queries }
    }

    /// The next query.
    async fn query(&mut self) -> Asked {
        timeout(PATIENCE, self.queries.recv()).await.expect("in time").expect("a query")
    }

    /// The next query for that name: one that took long may have been sent again.
    async fn query_for(&mut self, name: &str) -> Asked {
        loop {
            let asked = self.query().await;
            if asked.message().queries[0].name().to_ascii() == name {
                return asked;
            }
        }
    }

    fn saw_no_clear_text(&self) {
        assert_eq!(self.clear.load(Ordering::SeqCst), 0);
    }
}

/// Serves a connection: each query goes to the test, but for those of nodens's loop check.
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
    let (out, mut replies) = mpsc::unbounded_channel::<Option<Vec<u8>>>();
    tokio::spawn(async move {
        while let Some(Some(reply)) = replies.recv().await {
            let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
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
    fn message(&self) -> Message {
        Message::from_vec(&self.wire).expect("a query")
    }

    /// Answers with an address.
    fn answer(&self) {
        let mut message = self.message();
        let name = message.queries[0].name().clone();
        message.metadata.message_type = MessageType::Response;
        message.edns = None;
        message.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
        let _ = self.out.send(Some(message.to_vec().expect("a reply")));
    }

    /// Closes the connection that it came over.
    fn close(&self) {
        let _ = self.out.send(None);
    }
}

/// A nodens process.
struct Nodens {
    process: Child,
    address: SocketAddr,
}

/// A client that waits for its reply.
struct Client(UdpSocket);

impl Nodens {
    /// One that trusts the authority in `ca` and asks these servers for everything.
    fn start(ca: &PathBuf, servers: &[&Server]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let servers: Vec<_> = servers.iter().map(|server| format!("\"tls://{}#{HOST}\"", server.address)).collect();
        let config = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[upstreams.up]\nservers = [{}]\ndeadline = \"10s\"\n\
             [[route]]\nzones = [\".\"]\nto = \"up\"\n",
            servers.join(", ")
        );
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dot-{}-{number}.toml", std::process::id()));
        std::fs::write(&file, config).expect("writes");
        let mut process = Command::new(env!("CARGO_BIN_EXE_nodens"))
            .args(["serve", "--log", "json", "--config"])
            .arg(file)
            .env("SSL_CERT_FILE", ca)
            .env_remove("SSL_CERT_DIR")
            .env_remove("NODENS_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut log = BufReader::new(process.stderr.take().expect("a log")).lines();
        let address = log
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, rest) = line.split_once("\"address\":\"")?;
                rest.split('"').next()?.parse().ok()
            })
            .expect("an address");
        // The log is read on, or nodens would stand still.
        std::thread::spawn(move || log.for_each(|line| println!("{}", line.unwrap_or_default())));
        Self { process, address }
    }

    async fn ask(&self, name: &str) -> Client {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii(name).expect("a name");
        message.add_query(hickory_proto::op::Query::query(name, RecordType::A));
        message.set_edns(hickory_proto::op::Edns::new());
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.connect(self.address).await.expect("a way there");
        socket.send(&message.to_vec().expect("a query")).await.expect("sends");
        Client(socket)
    }
}

impl Client {
    async fn reply(&self) -> Message {
        let mut buffer = [0; 4_096];
        let length = timeout(PATIENCE, self.0.recv(&mut buffer)).await.expect("in time").expect("a reply");
        Message::from_vec(&buffer[..length]).expect("a reply")
    }
}

impl Drop for Nodens {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
