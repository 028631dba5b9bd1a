//! Real stub resolvers and odd servers: glibc (getent) and musl, in a namespace where nodens is their only server.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::space::{inside, put_in_place};
use crate::support::{Dir, Nodens, eventually, musl, upstream};
use nodens::lab::fault::Behaviour;
use nodens::lab::upstream::LabUpstream;
use nodens::lab::zone::LabZone;
use nodens::wire::compose::Composer;
use nodens::wire::response::{ResponseMessage, Section};
use nodens::wire::rtype;

/// Function that resolves a name: one line for each result.
type LookUp = Box<dyn Fn(&str) -> Vec<String> + Send + Sync>;

/// A server, nodens in front of it on port 53, and a stub resolver that asks nodens.
struct Stage {
    upstream: LabUpstream,
    _nodens: Nodens,
    look_up: LookUp,
}

fn stage(records: &str, route: &str, look_up: impl FnOnce(&Dir) -> LookUp) -> Stage {
    let dir = Dir::new();
    put_in_place(&dir.write("resolv.conf", "nameserver 127.0.0.1\n"), "/etc/resolv.conf");
    put_in_place(&dir.write("nsswitch.conf", "hosts: files dns\n"), "/etc/nsswitch.conf");
    let upstream = upstream(LabZone::new(".").records(records));
    let look_up = look_up(&dir);
    let nodens = Nodens::spawn(
        crate::support::serve().arg("--config").arg(dir.write(
            "nodens.toml",
            &format!(
                "[server]\nlisten = [\"127.0.0.1:53\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstreams.up]\nservers = [\"{}\"]\n\
                 [[route]]\nzones = [\".\"]\nto = \"up\"\n{route}\n",
                upstream.address()
            ),
        )),
        dir,
    );
    Stage { upstream, _nodens: nodens, look_up }
}

fn glibc(_: &Dir) -> LookUp {
    Box::new(|name| lines(Command::new("getent").args(["ahosts", name])))
}

fn musl(dir: &Dir) -> LookUp {
    let program = musl::look_up(dir);
    Box::new(move |name| lines(Command::new(&program).arg(name)))
}

/// Returns the output of a program as lines; none if it fails.
fn lines(command: &mut Command) -> Vec<String> {
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { text.lines().map(str::to_owned).collect() } else { Vec::new() }
}

const RECORDS: &str = "quiet.some-long-name.example. 60 A 192.0.2.1\nslow.some-long-name.example. 60 A 192.0.2.2\n\
                       alias.some-long-name.example. 60 CNAME target.some-long-name.example.\n\
                       target.some-long-name.example. 60 A 192.0.2.3\n\
                       www.some-long-name.example. 60 A 192.0.2.4\nwww.some-long-name.example. 60 AAAA 2001:db8::4";

fn play(stage: &Stage) {
    let Stage { upstream, look_up, .. } = stage;
    let finds = |name: &str, address: &str| {
        let found = look_up(&format!("{name}.some-long-name.example"));
        assert!(found.iter().any(|line| line.starts_with(address)), "{name}: {found:?}");
        found
    };
    // The only server is silent when the name is asked for, and responds again before the stub resolver gives up.
    upstream.set(Behaviour::silent());
    thread::scope(|scope| {
        let asked = scope.spawn(|| look_up("quiet.some-long-name.example"));
        eventually("a query", || upstream.seen().iter().any(|seen| seen.qtype == rtype::A).then_some(()));
        upstream.set(Behaviour::normal());
        let found = asked.join().expect("it ends");
        assert!(found.iter().any(|line| line.starts_with("192.0.2.1")), "{found:?}");
    });
    // The answer takes longer than most resolvers wait, and less than a stub resolver does.
    upstream.set(Behaviour::normal().latency(Duration::from_millis(2_500)));
    finds("slow", "192.0.2.2");
    // The addresses come before their CNAME.
    upstream.set(Behaviour::edited(|_, wire| reverse_answers(wire)));
    let found = finds("alias", "192.0.2.3");
    // The canonical name that glibc reports has no random letter case from nodens.
    let mut names = found.iter().flat_map(|line| line.split_whitespace()).filter(|word| word.contains('.'));
    assert!(names.all(|name| name == name.to_ascii_lowercase()), "{found:?}");
    upstream.set(Behaviour::normal());
}

/// Reverses the order of the answers.
fn reverse_answers(wire: &mut Vec<u8>) {
    let Ok(response) = ResponseMessage::read(wire) else { return };
    let mut composer = Composer::new(response.flags, &wire[12..response.question_end]);
    let mut answers: Vec<_> = response.section(Section::Answer).collect();
    answers.reverse();
    answers.into_iter().for_each(|record| composer.copy(response.message, record, Section::Answer));
    let made = composer.finish().expect("it fits");
    // All except the id.
    wire.truncate(2);
    wire.extend_from_slice(&made[2..]);
}

/// Tests a server that drops AAAA queries, behind a route that filters them.
fn play_without_ipv6(stage: &Stage) {
    stage.upstream.set(Behaviour::edited(|seen, wire| {
        if seen.qtype == rtype::AAAA {
            wire.clear();
        }
    }));
    let found = (stage.look_up)("www.some-long-name.example");
    assert!(!found.is_empty() && found.iter().all(|line| line.starts_with("192.0.2.4")), "{found:?}");
    assert!(stage.upstream.seen().iter().all(|seen| seen.qtype != rtype::AAAA), "it is not asked for AAAA");
}

#[test]
fn glibc_gets_answers_of_odd_servers() {
    inside("stubs::glibc_gets_answers_of_odd_servers", &["getent"], || play(&stage(RECORDS, "", glibc)));
}

#[test]
fn musl_gets_answers_of_odd_servers() {
    inside("stubs::musl_gets_answers_of_odd_servers", &["musl-gcc"], || play(&stage(RECORDS, "", musl)));
}

/// Configuration for servers that drop AAAA queries.
const FILTER: &str = "filter_types = [\"AAAA\"]";

#[test]
fn glibc_finds_names_whose_servers_drop_aaaa_queries() {
    inside("stubs::glibc_finds_names_whose_servers_drop_aaaa_queries", &["getent"], || {
        play_without_ipv6(&stage(RECORDS, FILTER, glibc));
    });
}

#[test]
fn musl_finds_names_whose_servers_drop_aaaa_queries() {
    inside("stubs::musl_finds_names_whose_servers_drop_aaaa_queries", &["musl-gcc"], || {
        play_without_ipv6(&stage(RECORDS, FILTER, musl));
    });
}
