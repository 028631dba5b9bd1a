//! The addresses of a node over several processes: on which link they are, and what happens to those that are no longer configured.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use crate::handover::foreign_predecessor;
use crate::node::{ADDRESSES, NOWHERE, Site, TOOLS, addresses, has_address, nodens, run, said, tables};
use crate::support::space::{inside, ip};
use crate::support::{Dir, Nodens, eventually, send_signal};
use nodens::handover::PROTOCOL;
use nodens::handover::channel::{Channel, HandoverMessage};
use socket2::{Domain, SockAddr, Socket, Type};

/// Returns whether a link has an address.
fn is_on(address: &str, link: &str) -> bool {
    addresses().iter().any(|line| line.starts_with(&format!("{link} {address}/")))
}

fn make_link(name: &str) {
    ip(&format!("link add {name} type bridge"));
    ip(&format!("link set {name} up"));
}

/// Returns the site's configuration without its second address.
fn without_ipv6(config: &str) -> String {
    config.replace(", \"[fd00:53::a]\"", "").replace(", \"fd00:53::a\"", "")
}

/// Program that reports each address that is added or deleted.
struct Monitor {
    dir: Dir,
    program: Child,
    marks: Cell<u8>,
}

impl Monitor {
    fn start() -> Self {
        let dir = Dir::new();
        let file = std::fs::File::create(dir.file("changes")).expect("a file");
        let program = Command::new("ip").args(["-o", "monitor", "address"]).stdout(file).stdin(Stdio::null()).spawn();
        let monitor = Self { dir, program: program.expect("ip runs"), marks: Cell::new(0) };
        monitor.catch_up();
        monitor
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.dir.file("changes")).expect("reads")
    }

    /// Adds and deletes an address until that is reported: everything before it has been reported too.
    fn catch_up(&self) {
        self.marks.set(self.marks.get() + 1);
        let address = format!("192.0.2.{}/32", self.marks.get());
        eventually("a reported address", || {
            ip(&format!("address add {address} dev lo"));
            ip(&format!("address del {address} dev lo"));
            self.text().contains(&address).then_some(())
        });
    }

    /// Returns the deletions of the addresses of nodens so far.
    fn deletions(&self) -> Vec<String> {
        self.catch_up();
        let is_deletion =
            |line: &&str| line.starts_with("Deleted") && ADDRESSES.iter().any(|address| line.contains(address));
        self.text().lines().filter(is_deletion).map(str::to_owned).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn own_addresses_elsewhere_are_accepted_or_moved() {
    inside("node_addresses::own_addresses_elsewhere_are_accepted_or_moved", &TOOLS, || {
        let site = Site::new();
        ["one0", "two0"].iter().for_each(|link| make_link(link));
        let before = (addresses(), tables());
        let config = |node: &str| site.config(node, NOWHERE);
        let all_on = |link| ADDRESSES.iter().all(|address| is_on(address, link));
        let end = |mut nodens: Nodens| nodens.stop();
        // As after a start without dummy links, on a kernel that has them by now.
        let mut killed = site.nodens(&config("interface = \"one0\""));
        killed.kill();
        let monitor = Monitor::start();
        let mut old = site.nodens(&config("interface = \"auto\""));
        assert!(all_on("one0") && !all_on("lo"), "{:?}", addresses());
        let file = site.dir.write("nodens.toml", &config(""));
        let (good, status) = said(&nodens(&["node", "status", "--config", file.to_str().expect("UTF-8")]));
        assert!(good && status.contains("169.254.20.10  on one0"), "{status}");
        assert_eq!(monitor.deletions(), [""; 0]);

        // Another link in the configuration: the addresses move, and the node has them all the time.
        let new = site.nodens(&config("interface = \"two0\""));
        assert!(all_on("two0"));
        old.logged("handed over");
        eventually("the move", || (!all_on("one0")).then_some(()));
        assert!(all_on("two0"));
        end(old);
        assert!(all_on("two0"));
        assert!(!new.log().iter().any(|line| line.contains("node repair failed")), "{:?}", new.log());
        end(new);
        assert_eq!((addresses(), tables()), before);

        // A start that fails takes back only what it has added.
        let mut killed = site.nodens(&without_ipv6(&config("interface = \"one0\"")));
        killed.kill();
        ip("address add fd00:53::a/128 dev pods nodad");
        let file = site.dir.write("nodens.toml", &config("interface = \"two0\""));
        let (good, text) = said(&nodens(&["serve", "--config", file.to_str().expect("UTF-8")]));
        assert!(!good && text.contains("fd00:53::a is on the link pods already"), "{text}");
        assert!(is_on(ADDRESSES[0], "one0") && !is_on(ADDRESSES[0], "two0"), "{:?}", addresses());
    });
}

#[test]
fn addresses_of_an_earlier_configuration_are_removed() {
    inside("node_addresses::addresses_of_an_earlier_configuration_are_removed", &TOOLS, || {
        let site = Site::new();
        // This address does not belong to nodens.
        ip("address add 169.254.20.12/32 dev lo");
        let both = site.config("", NOWHERE);
        let one = without_ipv6(&both);
        let gone = || eventually("an address to be removed", || (!has_address(ADDRESSES[1])).then_some(()));
        // After a kill.
        let mut killed = site.nodens(&both);
        killed.kill();
        assert!(has_address(ADDRESSES[1]));
        let mut next = site.nodens(&one);
        gone();
        assert!(next.logged("address of an earlier configuration removed").contains(ADDRESSES[1]));
        assert!(has_address(ADDRESSES[0]) && has_address("169.254.20.11") && has_address("169.254.20.12"));

        // After a handover: not before the predecessor is gone, because it may have to serve again.
        let mut old = site.nodens(&both);
        next.logged("handed over");
        next.stop();
        let mut new = site.nodens(&one);
        old.logged("handed over");
        new.logged("a process listens on an address of an earlier configuration");
        assert!(has_address(ADDRESSES[1]));
        new.kill();
        old.logged("handover reverted");
        run("dig", &format!("@{} +short +tries=1 +timeout=30 localhost", ADDRESSES[1]));
        let new = site.nodens(&one);
        old.stop();
        gone();
        assert!(has_address(ADDRESSES[0]));

        // A successor that is gone leaves an address that only it had.
        let mut old = new;
        let mut more = site.nodens(&both);
        old.logged("handed over");
        more.kill();
        old.logged("handover reverted");
        gone();
        assert!(has_address(ADDRESSES[0]));
    });
}

#[test]
fn a_table_of_an_earlier_configuration_is_removed() {
    inside("node_addresses::a_table_of_an_earlier_configuration_is_removed", &TOOLS, || {
        let site = Site::new();
        let mut killed = site.nodens(&site.config(FALLBACK, NOWHERE));
        killed.kill();
        assert!(tables().contains("table inet nodens"));
        // Its fallback would get all queries of the next one, which renews nothing.
        let _next = site.nodens(&site.config("firewall = \"none\"", NOWHERE));
        eventually("the table to be removed", || (!tables().contains("table inet nodens")).then_some(()));
    });
}

/// Fallback for both addresses.
const FALLBACK: &str = "fallback = [\"10.96.0.10\", \"fd00:10:96::a\"]";

#[test]
fn a_successor_without_a_table_removes_it() {
    inside("node_addresses::a_successor_without_a_table_removes_it", &TOOLS, || {
        let site = Site::new();
        let config = site.config(FALLBACK, NOWHERE);
        let (before_node, _) = config.split_once("[node]").expect("a section");
        // The first has no [node], but the same addresses.
        for next in [format!("{before_node}{NOWHERE}"), site.config("firewall = \"none\"", NOWHERE)] {
            let mut old = site.nodens(&config);
            let mut new = site.nodens(&next);
            // The fallback would get all queries as soon as the old one renews nothing.
            new.logged("nftables table of the predecessor removed");
            old.logged("handed over");
            assert!(!tables().contains("table inet nodens"));
            old.stop();
            new.stop();
            said(&nodens(&["node", "cleanup"]));
            site.is_as_before();
        }
    });
}

#[test]
fn a_worker_replaced_in_standby_leaves_the_node() {
    inside("node_addresses::a_worker_replaced_in_standby_leaves_the_node", &TOOLS, || {
        let site = Site::new();
        let mut old = site.nodens(&site.config(FALLBACK, NOWHERE));
        let mut new = site.nodens(&site.config("firewall = \"none\"", NOWHERE));
        old.logged("handed over");
        send_signal(old.worker().expect("a worker"), "KILL");
        old.logged("nodens on standby: another instance serves");
        assert!(!tables().contains("table inet nodens"));
        new.stop();
        old.logged("handover reverted");
        eventually("its table", || tables().contains("table inet nodens").then_some(()));
        old.stop();
        site.is_as_before();
    });
}

#[test]
fn the_node_is_left_to_another_process_that_listens() {
    inside("node_addresses::the_node_is_left_to_another_process_that_listens", &TOOLS, || {
        let site = Site::new();
        let config = site.config("", NOWHERE);
        let mut old = site.nodens(&config);
        // As if they spoke different protocols.
        let answer = HandoverMessage::Hello { protocol: 999, version: "9.9.9".to_owned() };
        let predecessor = foreign_predecessor(&site.dir.file("run/handover.sock"), answer);
        let mut new = site.nodens(&without_ipv6(&config));
        predecessor.join().expect("it was asked");
        new.logged("sharing the ports");
        let monitor = Monitor::start();
        old.stop();
        // Only the old one had the other address.
        assert!(monitor.deletions().iter().all(|line| !line.contains(ADDRESSES[0])), "{:?}", monitor.deletions());
        assert!(has_address(ADDRESSES[0]) && !has_address(ADDRESSES[1]), "{:?}", addresses());
        assert!(tables().contains("table inet nodens"));
        run("dig", &format!("@{} +short +tries=1 +timeout=30 localhost", ADDRESSES[0]));

        // One that cannot listen takes nothing away either.
        let alone: String =
            config.lines().filter(|line| !line.contains("handover")).map(|line| format!("{line}\n")).collect();
        let file = site.dir.write("nodens.toml", &alone);
        let (good, text) = said(&nodens(&["serve", "--config", file.to_str().expect("UTF-8")]));
        assert!(!good && text.contains("the port is in use"), "{text}");
        assert!(monitor.deletions().iter().all(|line| !line.contains(ADDRESSES[0])), "{:?}", monitor.deletions());
        new.stop();
        site.is_as_before();
    });
}

/// Connects as a successor that has everything and is not ready yet; returns its sockets too.
fn starting_successor(site: &Site) -> (Channel, Vec<OwnedFd>) {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    socket.connect(&SockAddr::unix(site.dir.file("run/handover.sock")).expect("a path")).expect("nodens listens");
    let successor = Channel::of(socket.into());
    let hello = HandoverMessage::Hello { protocol: PROTOCOL, version: "9.9.9".to_owned() };
    successor.send(&hello).expect("sends");
    let mut sockets = Vec::new();
    loop {
        let got = successor.receive().expect("a message").expect("more");
        sockets.extend(got.socket);
        if got.message == HandoverMessage::Complete {
            return (successor, sockets);
        }
    }
}

#[test]
fn a_successor_may_change_the_node() {
    inside("node_addresses::a_successor_may_change_the_node", &TOOLS, || {
        let site = Site::new();
        let mut nodens = site.nodens(&site.config("", NOWHERE));
        let (successor, _sockets) = starting_successor(&site);
        ip(&format!("address del {}/32 dev lo", ADDRESSES[0]));
        // Without a successor it is restored before the second look.
        for _ in 0..50 {
            assert!(!has_address(ADDRESSES[0]));
        }
        // The successor has failed.
        drop(successor);
        nodens.logged("node repaired");
        assert!(has_address(ADDRESSES[0]));
    });
}

#[test]
fn a_stop_while_handing_over_leaves_the_node() {
    inside("node_addresses::a_stop_while_handing_over_leaves_the_node", &TOOLS, || {
        let site = Site::new();
        let mut old = site.nodens(&site.config("", NOWHERE));
        let (_successor, sockets) = starting_successor(&site);
        old.stop();
        assert!(sockets.len() >= 4 && ADDRESSES.iter().all(|address| has_address(address)), "{:?}", addresses());
        assert!(tables().contains("table inet nodens"));
    });
}

#[test]
fn a_table_for_another_program_has_no_fallback() {
    inside("node_addresses::a_table_for_another_program_has_no_fallback", &TOOLS, || {
        let site = Site::new();
        let config = site.config(FALLBACK, NOWHERE);
        let start = || {
            let answer = HandoverMessage::Hello { protocol: 999, version: "9.9.9".to_owned() };
            let predecessor = foreign_predecessor(&site.dir.file("run/handover.sock"), answer);
            let nodens = site.nodens(&config);
            predecessor.join().expect("it was asked");
            nodens
        };
        let end = |mut nodens: Nodens| nodens.stop();
        // Another nodens renews its addresses.
        let [old, new] = [start(), start()];
        end(old);
        assert!(ADDRESSES.iter().all(|address| has_address(address)));
        eventually("the table", || tables().contains("table inet nodens").then_some(()));
        // Another program does not: the fallback would get its queries.
        let other = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        other.set_reuse_port(true).expect("an option");
        let address: SocketAddr = format!("{}:53", ADDRESSES[0]).parse().expect("an address");
        other.bind(&address.into()).expect("a port that is shared");
        end(new);
        assert!(!tables().contains("table inet nodens"));
        assert!(has_address(ADDRESSES[0]) && !has_address(ADDRESSES[1]));
    });
}
