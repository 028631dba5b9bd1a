//! DNS over TLS to upstreams: the built binary in front of a TLS server that the test scripts query by query.

mod server;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use self::server::{Ca, Server};

/// Limit for every wait, far above any expected duration.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two queries while a server is down.
const RETRY: Duration = Duration::from_millis(20);
const HOST: &str = "dns.test";

#[tokio::test]
async fn answered_over_tls_with_padding_and_the_name_sent() {
    for version in [&TLS12, &TLS13] {
        let ca = Ca::new();
        let mut server = Server::start(&ca.config(HOST, 4_000, version)).await;
        let nodens = Nodens::start(&ca.file, &[&server]);
        let client = nodens.ask("www.some.net.").await;
        let asked = server.query_for("www.some.net.").await;
        assert_eq!(asked.wire.len() % 128, 0, "padded (RFC 8467)");
        let options = asked.message().edns.expect("EDNS");
        assert!(options.option(EdnsCode::Padding).is_some());
        assert!(options.option(EdnsCode::from(11)).is_some(), "keepalive (RFC 7828)");
        assert_eq!(asked.connection.sni.as_deref(), Some(HOST));
        assert_eq!(asked.connection.alpn.as_deref(), Some(&b"dot"[..]));
        asked.answer();
        assert_eq!(client.response().await.answers.len(), 1);
        server.saw_no_clear_text();
    }
}

#[tokio::test]
async fn queries_share_a_connection_in_any_order() {
    let ca = Ca::new();
    let mut server = Server::start(&ca.config(HOST, 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file, &[&server]);
    let first = nodens.ask("first.some.net.").await;
    let asked_first = server.query_for("first.some.net.").await;
    let second = nodens.ask("second.some.net.").await;
    let asked_second = server.query_for("second.some.net.").await;
    assert_eq!(asked_first.connection.number, asked_second.connection.number);
    asked_second.answer();
    assert_eq!(second.response().await.answers.len(), 1);
    asked_first.answer();
    assert_eq!(first.response().await.answers.len(), 1);
}

#[tokio::test]
async fn a_wrong_certificate_sends_no_query() {
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
    // The server accepts and closes: a client that falls back to clear text would do so now.
    let ca = Ca::new();
    let server = Server::silent().await;
    let nodens = Nodens::start(&ca.file, &[&server]);
    refused(&nodens, &server, "TLS handshake failed").await;
}

#[tokio::test]
async fn a_wrong_certificate_fails_over() {
    let ca = Ca::new();
    let bad = Server::start(&ca.config("other.test", 4_000, &TLS13)).await;
    let mut good = Server::start(&ca.config(HOST, 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file, &[&bad, &good]);
    let client = nodens.ask("www.some.net.").await;
    good.query_for("www.some.net.").await.answer();
    assert_eq!(client.response().await.answers.len(), 1);
    bad.saw_no_clear_text();
}

#[tokio::test]
async fn a_closed_connection_is_resumed() {
    let ca = Ca::new();
    let mut server = Server::start(&ca.config(HOST, 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file, &[&server]);
    // On a busy machine a query that is sent again may have opened another connection before the first session existed.
    let mut closed = Vec::new();
    for number in 0.. {
        let name = format!("{number}.some.net.");
        let client = nodens.ask(&name).await;
        let asked = server.query_for(&name).await;
        assert!(!closed.contains(&asked.connection.number));
        asked.answer();
        assert_eq!(client.response().await.answers.len(), 1);
        if number > 0 && asked.connection.kind == Some(HandshakeKind::Resumed) {
            break;
        }
        assert!(number < 20, "no session is resumed");
        asked.close();
        closed.push(asked.connection.number);
    }
}

#[tokio::test]
async fn a_silent_connection_is_replaced() {
    let ca = Ca::new();
    let mut server = Server::start(&ca.config(HOST, 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file, &[&server]);
    let client = nodens.ask("first.some.net.").await;
    let before = server.query_for("first.some.net.").await;
    before.answer();
    client.response().await;
    let client = nodens.ask("second.some.net.").await;
    let mut asked = server.query_for("second.some.net.").await;
    while asked.connection.number == before.connection.number {
        asked = server.query_for("second.some.net.").await;
    }
    asked.answer();
    assert_eq!(client.response().await.answers.len(), 1);
}

#[tokio::test]
async fn a_dead_server_is_probed_over_tls() {
    let ca = Ca::new();
    let mut server = Server::start(&ca.config("other.test", 4_000, &TLS13)).await;
    let nodens = Nodens::start(&ca.file, &[&server]);
    refused(&nodens, &server, "TLS certificate for another name").await;
    server.become_another(&ca.config(HOST, 4_000, &TLS13));
    // A probe brings the server back, or a late query of the loop check.
    let answered = async {
        for number in 0.. {
            let response = nodens.ask(&format!("{number}.some.net.")).await.response().await;
            if response.metadata.response_code == ResponseCode::NoError {
                return response;
            }
            tokio::time::sleep(RETRY).await;
        }
        unreachable!("numbers do not end")
    };
    tokio::select! {
        response = timeout(PATIENCE, answered) => assert_eq!(response.expect("in time").answers.len(), 1),
        () = server.answer_all() => {}
    }
    server.saw_no_clear_text();
}

/// Checks that the client gets SERVFAIL with an extended error that contains `words`, and the server gets no query.
async fn refused(nodens: &Nodens, server: &Server, words: &str) {
    let response = nodens.ask("www.some.net.").await.response().await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    let told = response.edns.as_ref().and_then(|edns| edns.option(EdnsCode::from(15)).cloned());
    let Some(EdnsOption::Unknown(_, told)) = told else { panic!("no extended error: {response:?}") };
    let told = String::from_utf8_lossy(&told[2..]);
    assert!(told.contains(words), "{told}");
    server.saw_no_clear_text();
    assert!(server.queries.is_empty());
}

/// A nodens process.
struct Nodens {
    process: Child,
    address: SocketAddr,
}

/// A client that waits for its response.
struct Client(UdpSocket);

impl Nodens {
    /// Starts a nodens that trusts the authority in `ca` and sends all queries to these servers.
    fn start(ca: &Path, servers: &[&Server]) -> Self {
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
        // The log must be read to the end, otherwise nodens would block.
        std::thread::spawn(move || log.for_each(|line| println!("{}", line.unwrap_or_default())));
        Self { process, address }
    }

    async fn ask(&self, name: &str) -> Client {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii(name).expect("a name");
        message.add_query(Query::query(name, RecordType::A));
        message.set_edns(Edns::new());
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.connect(self.address).await.expect("a way there");
        socket.send(&message.to_vec().expect("a query")).await.expect("sends");
        Client(socket)
    }
}

impl Client {
    async fn response(&self) -> Message {
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
