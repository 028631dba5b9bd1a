//! Upstreams given by name, with hickory's server, an independent implementation, as the bootstrap server and as an
//! upstream.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::addresses::own_address;
use crate::support::client::{code, data, lookup};
use crate::support::{Nodens, eventually, upstream, zone};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::serialize::txt::Parser;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Runtime;

/// A hickory server that serves zones on a port of 127.0.0.1 until drop.
struct Hickory {
    address: SocketAddr,
    /// Runtime of the server's tasks.
    _runtime: Runtime,
    _server: Server<Catalog>,
}

impl Hickory {
    fn start(origin: &str, records: &str) -> Self {
        let origin: Name = origin.parse().unwrap();
        let text = format!("@ 60 IN SOA ns hostmaster 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 127.0.0.1\n{records}\n");
        let (_, records) = Parser::new(text, None, Some(origin.clone())).parse().unwrap();
        let zone: InMemoryZoneHandler<TokioRuntimeProvider> =
            InMemoryZoneHandler::new(origin.clone(), records, ZoneType::Primary, AxfrPolicy::Deny).unwrap();
        let mut catalog = Catalog::new();
        catalog.upsert(origin.into(), vec![Arc::new(zone)]);

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut server = Server::new(catalog);
        let address = runtime.block_on(async {
            let udp = UdpSocket::bind(own_address()).await.unwrap();
            let address = udp.local_addr().unwrap();
            server.register_socket(udp);
            server.register_listener(TcpListener::bind(address).await.unwrap(), Duration::from_secs(10), 32);
            address
        });
        Self { address, _runtime: runtime, _server: server }
    }
}

fn config(server: &str, bootstrap: SocketAddr) -> String {
    format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[bootstrap]\nservers = [\"{bootstrap}\"]\n\
         [upstreams.up]\nservers = [\"{server}\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n"
    )
}

#[test]
fn a_named_upstream_is_resolved_by_bootstrap() {
    let up = upstream(zone());
    let bootstrap = Hickory::start("infra.example.", "resolver 60 IN A 127.0.0.1");
    let server = format!("resolver.infra.example:{}", up.address().port());
    let mut nodens = Nodens::start(&config(&server, bootstrap.address));
    nodens.logged("upstream server address added");
    let (upstreams, events) = (nodens.get("/api/v1/upstreams").body, nodens.get("/api/v1/events").body);
    assert!(upstreams.contains(&format!("\"resolver.infra.example:{}\"", up.address().port())), "{upstreams}");
    assert!(upstreams.contains(&format!("\"address\": \"{}\"", up.address())), "{upstreams}");
    assert!(events.contains("\"kind\": \"address_added\""), "{events}");
    assert!(events.contains("\"reason\": \"resolver.infra.example.\""), "{events}");
    assert_eq!(data(&lookup(nodens.address(), "a.lab.example.")), ["192.0.2.1"]);
    // The server of the upstream gets the client's query.
    assert!(up.seen().iter().any(|seen| seen.is_named("a.lab.example.")));
}

#[test]
fn an_unresolved_name_is_reported_and_retried() {
    let bootstrap = Hickory::start("infra.example.", "");
    let mut nodens = Nodens::start(&config("missing.infra.example:53", bootstrap.address));
    let line = nodens.logged("cannot resolve the name of an upstream server");
    assert!(line.contains("missing.infra.example"), "{line}");
    assert_eq!(code(&lookup(nodens.address(), "a.lab.example.")), ResponseCode::ServFail);
    eventually("a second try", || {
        let tries = nodens.log().iter().filter(|line| line.contains("cannot resolve the name")).count();
        (tries >= 2).then_some(())
    });
    // One event for one change, however often it is tried.
    assert_eq!(nodens.get("/api/v1/events").body.matches("\"kind\": \"name_unresolved\"").count(), 1);
}

#[test]
fn another_implementation_is_a_good_upstream() {
    let up = Hickory::start("lab.example.", "www 300 IN A 192.0.2.80\nalias 300 IN CNAME www");
    let nodens = Nodens::start(&format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[upstreams.up]\nservers = [\"{}\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n",
        up.address
    ));
    assert_eq!(data(&lookup(nodens.address(), "www.lab.example.")), ["192.0.2.80"]);
    assert_eq!(data(&lookup(nodens.address(), "alias.lab.example.")), ["www.lab.example.", "192.0.2.80"]);
    assert_eq!(code(&lookup(nodens.address(), "none.lab.example.")), ResponseCode::NXDomain);
}
