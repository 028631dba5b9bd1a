//! NodeLocal DNSCache on the node: nodens beside it, in its place, and on what it leaves behind.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::A as Address;
use hickory_proto::rr::{RData, Record};
use socket2::{Domain, Socket, Type};

use crate::node::{NOWHERE, Site, TOOLS, addresses, has_address, nodens, run, said, tables};
use crate::support::client::{A, Tcp, ask_udp, data, framed, parse, query};
use crate::support::pod::Pod;
use crate::support::space::{inside, ip};
use crate::support::{DEADLINE, eventually};

/// Link and addresses of NodeLocal DNSCache: its own, and the ClusterIP of kube-dns.
const LINK: &str = "nodelocaldns";
const SHARED: [&str; 2] = ["169.254.20.10", "10.96.0.10"];
/// Address at which nodens starts beside it.
const SECOND: &str = "169.254.20.12";
/// Name that both know, with different addresses.
const NAME: &str = "www.example.com";
const BY_NODE_CACHE: &str = "192.0.2.1";
const BY_NODENS: &str = "192.0.2.2";
/// Pause of the stand-in between looks at whether it is to stop.
const PAUSE: Duration = Duration::from_millis(5);

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), 53)
}

fn put_on_link(addresses: &[&str]) {
    ip(&format!("link add {LINK} type bridge"));
    addresses.iter().for_each(|address| ip(&format!("address add {address}/32 dev {LINK}")));
    ip(&format!("link set {LINK} up"));
}

/// Stand-in for NodeLocal DNSCache: shares its ports, and does not answer what is in its sockets when it stops.
struct NodeCache {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NodeCache {
    fn start(shares: bool) -> Self {
        put_on_link(&SHARED);
        Self::serve(shares)
    }

    /// Starts on the link that is there.
    fn serve(shares: bool) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let socket = |address: &str, kind: Type| {
            let socket = Socket::new(Domain::IPV4, kind, None).expect("a socket");
            socket.set_reuse_port(shares).expect("an option");
            socket.bind(&at(address).into()).expect("its address");
            socket
        };
        let mut threads = Vec::new();
        for address in SHARED {
            let (udp, tcp) = (socket(address, Type::DGRAM), socket(address, Type::STREAM));
            udp.set_read_timeout(Some(PAUSE)).expect("a timeout");
            tcp.listen(128).expect("listens");
            tcp.set_read_timeout(Some(PAUSE)).expect("a timeout");
            let (stop_udp, stop_tcp) = (Arc::clone(&stop), Arc::clone(&stop));
            threads.push(thread::spawn(move || serve_udp(&udp.into(), &stop_udp)));
            threads.push(thread::spawn(move || serve_tcp(&tcp.into(), &stop_tcp)));
        }
        Self { stop, threads }
    }

    /// Removes the link, and then stops to serve.
    fn stop(self) {
        ip(&format!("link del {LINK}"));
        self.die();
    }

    fn die(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("it has served"));
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&answer(&buffer[..length]), client);
        }
    }
}

fn serve_tcp(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
                let mut client = Tcp(stream);
                while let Some(query) = client.next() {
                    client.write(&framed(&answer(&query)));
                }
            }
            Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted), "{error}"),
        }
    }
}

fn answer(query: &[u8]) -> Vec<u8> {
    let mut message: Message = parse(query);
    message.metadata.message_type = MessageType::Response;
    let name = message.queries.first().expect("a question").name().clone();
    let address = Address(BY_NODE_CACHE.parse().expect("an address"));
    message.add_answer(Record::from_rdata(name, 30, RData::A(address)));
    message.to_vec().expect("a message")
}

/// Queries from a pod, one after the other, to the addresses of NodeLocal DNSCache over UDP and TCP. Each needs a response.
struct Load {
    stop: Arc<AtomicBool>,
    /// Responses of NodeLocal DNSCache, and of nodens.
    answered: Arc<[AtomicUsize; 2]>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(pod: &Pod) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<[AtomicUsize; 2]>::default());
        let (stopped, counts, enter) = (Arc::clone(&stop), Arc::clone(&answered), pod.network());
        let thread = thread::spawn(move || {
            enter();
            let query = query(7, NAME, A);
            for number in (0..).take_while(|_| !stopped.load(Ordering::Relaxed)) {
                let server = at(SHARED[number % 2]);
                let is_udp = number / 2 % 2 == 0;
                let response = if is_udp { ask_udp(server, &query) } else { Tcp::connect(server).ask(&query) };
                let by = match &*data(&response).concat() {
                    BY_NODE_CACHE => 0,
                    BY_NODENS => 1,
                    other => panic!("{other:?} {:?}", parse(&response)),
                };
                counts[by].fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, answered, thread }
    }

    fn answered(&self) -> [usize; 2] {
        [0, 1].map(|by| self.answered[by].load(Ordering::Relaxed))
    }

    /// Waits for this number of further responses, and returns how many were those of NodeLocal DNSCache, and of nodens.
    fn more(&self, count: usize) -> [usize; 2] {
        let before = self.answered();
        eventually("more responses", || {
            assert!(!self.thread.is_finished(), "a query is lost");
            let now = self.answered();
            let more = [now[0] - before[0], now[1] - before[1]];
            (more[0] + more[1] >= count).then_some(more)
        })
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("each query has a response");
    }
}

/// Returns a configuration with these addresses; `node` is a part of its `[node]`.
fn config(site: &Site, addresses: &[&str], node: &str) -> String {
    let listen = addresses.iter().map(|address| format!("{address:?}")).collect::<Vec<_>>().join(", ");
    let socket = site.dir.file("run/handover.sock");
    format!(
        "[server]\nlisten = [{listen}]\nworkers = 2\nallow = [\"10.244.1.0/24\", \"169.254.20.10\"]\n[admin]\nlisten = \"127.0.0.1:9053\"\n\
         [handover]\nsocket = {socket:?}\n[node]\naddresses = [{listen}]\n{node}\n{NOWHERE}\
         [[record]]\nname = \"{NAME}\"\ntype = \"A\"\nvalue = \"{BY_NODENS}\"\n"
    )
}

/// Returns the error of a start that fails.
fn refused(site: &Site, config: &str) -> String {
    let file = site.dir.write("refused.toml", config);
    let (good, text) = said(&nodens(&["serve", "--config", file.to_str().expect("UTF-8")]));
    assert!(!good, "{text}");
    text
}

/// Waits until nodens has removed its copies of the shared addresses.
fn own_copies_are_gone() {
    eventually("the leftovers to be gone", || {
        let own = |line: &String| line.starts_with("lo ") && SHARED.iter().any(|address| line.contains(address));
        (!addresses().iter().any(own)).then_some(())
    });
}

/// Each step of docs/guides/from-nodelocal-dnscache.md.
#[test]
fn no_query_is_lost_from_node_cache_to_nodens() {
    inside("node_cache::no_query_is_lost_from_node_cache_to_nodens", &TOOLS, || {
        let site = Site::new();
        let pod = Pod::start(11, &site.dir, "");
        let node_cache = NodeCache::start(true);
        let load = Load::start(&pod);
        let answer =
            |address: &str| pod.must("dig", &[&format!("@{address}"), "+short", "+tries=1", "+timeout=30", NAME]);

        // Side by side.
        let mut serving = site.nodens(&config(&site, &[SECOND], ""));
        assert_eq!(answer(SECOND).trim(), BY_NODENS);
        assert!(load.more(20)[1] == 0);

        // Not without being told to.
        let all = [SECOND, SHARED[0], SHARED[1]];
        let text = refused(&site, &config(&site, &all, ""));
        assert!(
            text.contains(&format!("169.254.20.10 is on the link {LINK} already")) && text.contains("take_over"),
            "{text}"
        );
        assert_eq!(answer(SECOND).trim(), BY_NODENS, "the predecessor goes on");

        // In its place: it gets no new queries.
        let mut next = site.nodens(&config(&site, &all, "take_over = true\nfallback = \"10.244.1.1\""));
        serving.logged("handed over");
        next.logged("new queries are for nodens");
        serving.stop();
        load.more(4);
        let more = load.more(200);
        assert_eq!(more[0], 0, "{more:?}");
        // Its own address has the fallback. The others have the other program.
        let table = || run("nft", "list table inet nodens");
        assert!(table().contains("fallback of 169.254.20.12:53") && !table().contains("fallback of 169.254.20.10:53"));
        let file = site.dir.write("taking.toml", &config(&site, &all, "take_over = true\nfallback = \"10.244.1.1\""));
        let status = || said(&nodens(&["node", "status", "--config", file.to_str().expect("UTF-8")]));
        let own =
            "address   169.254.20.12  on lo\naddress   169.254.20.10  on lo; another program has it on nodelocaldns";
        assert!(status().0 && status().1.contains(own), "{:?}", status());
        serving = next;

        // It is removed, with its link.
        node_cache.stop();
        assert!(SHARED.iter().all(|address| has_address(address)));
        assert!(status().0 && !status().1.contains("another program has it"), "{:?}", status());
        load.more(50);

        // The fallback, with the last step.
        let mut next = site.nodens(&config(&site, &all, "fallback = \"10.244.1.1\""));
        serving.logged("handed over");
        serving.stop();
        load.more(50);
        load.end();
        assert!(table().contains("fallback of 169.254.20.10:53"));
        next.stop();
        site.is_as_before();
    });
}

#[test]
fn node_cache_goes_on_without_nodens() {
    inside("node_cache::node_cache_goes_on_without_nodens", &TOOLS, || {
        let site = Site::new();
        let pod = Pod::start(11, &site.dir, "");
        let node_cache = NodeCache::start(true);
        let before = (addresses(), tables());
        let taking = config(&site, &SHARED, "take_over = true\nfallback = \"10.244.1.1\"");
        let load = Load::start(&pod);
        let mut nodens = site.nodens(&taking);
        load.more(4);
        assert_eq!(load.more(50)[0], 0);
        // A clean stop.
        nodens.stop();
        load.more(4);
        assert_eq!(load.more(50)[1], 0);
        load.end();
        assert_eq!((addresses(), tables()), before);
        // Back to a configuration without these addresses, by a handover.
        let mut nodens = site.nodens(&taking);
        let load = Load::start(&pod);
        // The other program is restarted, so its sockets come last now. It gets a part of the queries.
        node_cache.die();
        let node_cache = NodeCache::serve(true);
        load.more(50);
        let mut back = site.nodens(&config(&site, &[SECOND], "fallback = \"none\""));
        back.logged("another program gets new queries to this address again");
        nodens.logged("handed over");
        load.more(4);
        assert_eq!(load.more(50)[1], 0);
        nodens.stop();
        load.more(50);
        load.end();
        own_copies_are_gone();
        back.stop();
        assert_eq!((addresses(), tables()), before);
        // Killed: no fallback takes the queries.
        let mut nodens = site.nodens(&taking);
        nodens.kill();
        let load = Load::start(&pod);
        assert_eq!(load.more(50)[1], 0);
        load.end();
        // A configuration without these addresses removes what was left, although node-cache listens there.
        let mut nodens = site.nodens(&config(&site, &[SECOND], "fallback = \"none\""));
        own_copies_are_gone();
        nodens.signal("TERM");
        nodens.exit();
        assert_eq!((addresses(), tables()), before);
        node_cache.die();
    });
}

#[test]
fn a_program_that_does_not_share_its_port_is_named() {
    inside("node_cache::a_program_that_does_not_share_its_port_is_named", &TOOLS, || {
        let site = Site::new();
        let node_cache = NodeCache::start(false);
        let before = (addresses(), tables());
        let text = refused(&site, &config(&site, &SHARED, &format!("take_over = true\ninterface = {LINK:?}")));
        assert!(text.contains("nodelocaldns belongs to the program from which nodens takes over"), "{text}");
        let text = refused(&site, &config(&site, &SHARED, "take_over = true"));
        assert!(text.contains("cannot listen on 169.254.20.10:53 (UDP and TCP, shared by SO_REUSEPORT)"), "{text}");
        assert_eq!((addresses(), tables()), before);
        node_cache.die();
    });
}

#[test]
fn the_link_of_a_killed_node_cache_is_no_obstacle() {
    inside("node_cache::the_link_of_a_killed_node_cache_is_no_obstacle", &TOOLS, || {
        let site = Site::new();
        put_on_link(&SHARED[..1]);
        let pod = Pod::start(11, &site.dir, "");
        let before = (addresses(), tables());
        let mut nodens = site.nodens(&config(&site, &SHARED[..1], "fallback = \"none\""));
        let answer = || pod.must("dig", &["@169.254.20.10", "+short", "+tries=1", "+timeout=30", NAME]);
        assert_eq!(answer().trim(), BY_NODENS);
        ip(&format!("link del {LINK}"));
        assert_eq!(answer().trim(), BY_NODENS);
        put_on_link(&SHARED[..1]);
        nodens.stop();
        assert_eq!((addresses(), tables()), before);
    });
}

#[test]
fn without_a_handover_the_ports_are_shared_as_well() {
    inside("node_cache::without_a_handover_the_ports_are_shared_as_well", &TOOLS, || {
        let site = Site::new();
        let node_cache = NodeCache::start(true);
        let taking = config(&site, &SHARED, "take_over = true");
        let mut old = site.nodens(&taking);
        std::fs::remove_file(site.dir.file("run/handover.sock")).expect("it is there");
        let mut new = site.nodens(&taking);
        new.logged("offers no handover; sharing the ports");
        old.stop();
        let answer = run("dig", &format!("@169.254.20.10 +short +tries=1 +timeout=30 {NAME}"));
        assert!([BY_NODENS, BY_NODE_CACHE].contains(&answer.trim()), "{answer}");
        new.stop();
        node_cache.die();
    });
}
