//! Independent software on both sides of nodens: nsd as an upstream; dig, kdig, glibc and musl as clients.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::addresses::own_address;
use crate::support::client::{A, query, udp};
use crate::support::musl;
use crate::support::space::{can_run, inside, put_in_place};
use crate::support::{Dir, Nodens, eventually, upstream_on, zone};

/// Name with a record of every type except those in `OTHERS`.
const NAME: &str = "All.Lab.Example";
const ZONE: &str = r#"
$ORIGIN lab.example.
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A 192.0.2.53
all A 192.0.2.1
all A 192.0.2.2
all AAAA 2001:db8::1
all MX 10 mail
all TXT "one two" "three" "\255\000\"quoted\""
all SRV 1 2 443 www
all NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.com!" .
all CAA 0 issue "ca.example.net"
all TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
all SSHFP 1 1 0123456789abcdef0123456789abcdef01234567
all LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
all URI 10 1 "https://www.example.com/"
all HINFO "cpu" "os"
all RP mailbox text
all AFSDB 1 host
all DNAME elsewhere.example.
all CERT 1 2 3 AQID
all SVCB 1 svc alpn=h2 port=8443
all HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1
all TYPE65280 \# 5 0102030405
alias CNAME all
big TXT "BIG"
*.wild A 192.0.2.9
sub NS ns.sub
sub DS 12345 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
1.2.0.192 PTR all
"#;
const TYPES: [&str; 20] = [
    "A",
    "AAAA",
    "MX",
    "TXT",
    "SRV",
    "NAPTR",
    "CAA",
    "TLSA",
    "SSHFP",
    "LOC",
    "URI",
    "HINFO",
    "RP",
    "AFSDB",
    "DNAME",
    "CERT",
    "SVCB",
    "HTTPS",
    "TYPE65280",
    "NS",
];
/// Further names and types, with answers of other kinds or denials.
const OTHERS: [(&str, &str); 11] = [
    ("lab.example", "SOA"),
    ("lab.example", "NS"),
    ("alias.lab.example", "A"),
    ("alias.lab.example", "CNAME"),
    ("alias.lab.example", "TYPE65280"),
    ("any.wild.lab.example", "A"),
    ("any.wild.lab.example", "AAAA"),
    ("1.2.0.192.lab.example", "PTR"),
    ("no.lab.example", "A"),
    ("big.lab.example", "TXT"),
    ("sub.lab.example", "DS"),
];

/// A running nsd that serves the zone, stopped on drop.
struct Nsd {
    child: Child,
    address: SocketAddr,
    _dir: Dir,
}

impl Nsd {
    fn start() -> Self {
        let dir = Dir::new();
        let process = std::process::id().to_be_bytes();
        // Each process has its own addresses here, so no other process holds the port.
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let last = COUNT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 128 | process[2], process[3], last], 5_353));
        let big: String = (0..80).map(|n| format!("big TXT \"{n} {}\"\n", "x".repeat(100))).collect();
        let zone = dir.write("lab.example.zone", &format!("{ZONE}{big}"));
        let config = format!(
            "server:\n ip-address: {}@{}\n server-count: 1\n username: \"\"\n chroot: \"\"\n database: \"\"\n hide-version: yes\n \
             pidfile: \"{pid}\"\n zonelistfile: \"{list}\"\n xfrdfile: \"{xfrd}\"\n xfrdir: \"{dir}\"\n cookie-secret-file: \"\"\n\
             remote-control:\n control-enable: no\n\
             zone:\n name: lab.example\n zonefile: \"{zone}\"\n",
            address.ip(),
            address.port(),
            pid = dir.file("pid").display(),
            list = dir.file("list").display(),
            xfrd = dir.file("xfrd").display(),
            dir = dir.file("").display(),
            zone = zone.display(),
        );
        let config = dir.write("nsd.conf", &config);
        let program = if PathBuf::from("/usr/sbin/nsd").exists() { "/usr/sbin/nsd" } else { "nsd" };
        let mut nsd = Command::new(program);
        let log = fs::File::create(dir.file("log")).expect("a file");
        let mut child =
            nsd.arg("-d").arg("-c").arg(config).stdin(Stdio::null()).stderr(log).spawn().expect("nsd starts");
        let socket = udp(address);
        eventually("nsd", || {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(dir.file("log")).unwrap_or_default();
                panic!("nsd ended with {status}: {log}");
            }
            let _ = socket.send(&query(1, "all.lab.example", A)); // refused until nsd listens
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            socket.recv(&mut [0; 512]).ok()
        });
        Self { child, address, _dir: dir }
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        // nsd ends its children on SIGTERM, but not on SIGKILL.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn in_front_of(server: SocketAddr, listen: &str) -> Nodens {
    Nodens::start(&format!(
        "[server]\nlisten = [\"{listen}\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstreams.up]\nservers = [\"{server}\"]\n\
         deadline = \"10s\"\n[[route]]\nzones = [\".\"]\nto = \"up\"\n"
    ))
}

#[test]
fn dig_gets_from_nodens_what_nsd_has() {
    if can_run(false, &["nsd", "dig"]) {
        compare(
            "dig",
            &["+tries=1", "+timeout=30", "+noall", "+answer", "+comments", "+nottlid"],
            "+nocookie",
            "+bufsize=512",
        );
    }
}

#[test]
fn kdig_gets_from_nodens_what_nsd_has() {
    if can_run(false, &["nsd", "kdig"]) {
        compare(
            "kdig",
            &["+retry=0", "+timeout=30", "+noall", "+answer", "+header", "+nottl"],
            "+nocookie",
            "+bufsize=512",
        );
    }
}

/// Asks nsd, and nodens in several ways, for every name and type of the zone; compares response codes and answers.
fn compare(client: &str, options: &[&str], no_cookie: &str, small: &str) {
    let nsd = Nsd::start();
    // dig shares ports with others: at a port that the kernel also assigns to clients it may receive its own queries.
    let nodens = in_front_of(nsd.address, &own_address().to_string());
    let ask = |server: SocketAddr, words: &[&str]| {
        let mut command = Command::new(client);
        command.arg(format!("@{}", server.ip())).args(["-p", &server.port().to_string()]).args(options).args(words);
        told(command.output().expect(client), words)
    };
    let all = TYPES.iter().map(|qtype| (NAME, *qtype)).chain(OTHERS);
    for (name, qtype) in all {
        // nsd is asked over TCP; nodens in four ways, of which the first is the client's default.
        let right = ask(nsd.address, &[name, qtype, "+tcp"]);
        for how in [&[][..], &["+tcp"], &["+noedns"], &[small]] {
            let words = [&[name, qtype, no_cookie], how].concat();
            assert_eq!(ask(nodens.address(), &words), right, "{words:?}");
        }
        let words = [name, qtype, "+dnssec"];
        assert_eq!(ask(nodens.address(), &words), ask(nsd.address, &[name, qtype, "+dnssec", "+tcp"]), "{words:?}");
    }
}

/// Returns the response code and the sorted answers of a client's output, in lower case.
fn told(output: Output, words: &[&str]) -> (String, Vec<String>) {
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
    assert!(output.status.success(), "{words:?}: {text}");
    // Not complaints: nsd does not recurse, and the client repeats a truncated query over TCP.
    let fine = ["noerror", "warning: recursion requested but not available", "warning: truncated reply"];
    let rest = fine.iter().fold(text.clone(), |text, words| text.replace(words, ""));
    for complaint in ["warning", "malformed", "bad packet", "error", "mismatch", "extra bytes"] {
        assert!(!rest.contains(complaint), "{words:?}: {text}");
    }
    let status = text.split_once("status: ").unwrap_or_else(|| panic!("{words:?}: {text}")).1;
    let status = status.split([',', ';', '\n']).next().unwrap_or_default().to_owned();
    let mut answers: Vec<_> =
        text.lines().filter(|line| !line.starts_with(';') && !line.is_empty()).map(one_blank).collect();
    answers.sort();
    (status, answers)
}

fn one_blank(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_programs_own_resolver_goes_through_nodens() {
    inside("peers::a_programs_own_resolver_goes_through_nodens", &["getent"], || {
        let (_dir, _nodens, upstream) = as_the_system_resolver();
        for name in ["www.lab.example", "www"] {
            let addresses = run(Command::new("getent").args(["ahosts", name]));
            assert!(addresses.contains("192.0.2.1 ") && addresses.contains("2001:db8::1 "), "{addresses}");
        }
        let unknown = Command::new("getent").args(["ahosts", "no.such.test."]).output().expect("getent runs");
        assert_eq!(unknown.status.code(), Some(2));
        assert!(upstream.seen().iter().any(|seen| seen.is_named("www.lab.example.")));
    });
}

#[test]
fn so_does_musls() {
    inside("peers::so_does_musls", &["musl-gcc"], || {
        let (dir, _nodens, upstream) = as_the_system_resolver();
        let program = musl::look_up(&dir);
        for name in ["www.lab.example", "www", "big.lab.example"] {
            let addresses = run(Command::new(&program).arg(name));
            assert!(addresses.contains("192.0.2.1\n") && addresses.contains("2001:db8::1\n"), "{name}: {addresses}");
        }
        let unknown = Command::new(&program).arg("no.such.test.").output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&unknown.stdout), "Name does not resolve\n");
        assert!(upstream.seen().iter().any(|seen| seen.is_named("www.lab.example.")));
    });
}

/// Starts nodens on port 53, points resolv.conf to it, and starts an upstream behind it.
fn as_the_system_resolver() -> (Dir, Nodens, nodens::lab::upstream::LabUpstream) {
    let dir = Dir::new();
    let resolv = dir.write("resolv.conf", "nameserver 127.0.0.1\nsearch corp.example lab.example\noptions ndots:5\n");
    put_in_place(&resolv, "/etc/resolv.conf");
    put_in_place(&dir.write("nsswitch.conf", "hosts: files dns\n"), "/etc/nsswitch.conf");
    // More addresses than fit in a response of 512 bytes.
    let many: String = (1..=50).map(|n| format!("big.lab.example. 300 A 192.0.2.{n}\n")).collect();
    let zone =
        zone().records(&many).record("big.lab.example. 300 AAAA 2001:db8::1").origin("corp.example.").origin("test.");
    let upstream = upstream_on(([127, 0, 0, 2], 53).into(), zone);
    let nodens = in_front_of(upstream.address(), "127.0.0.1:53");
    (dir, nodens, upstream)
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    stdout.into_owned()
}
