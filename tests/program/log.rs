//! A log that cannot be written, with the built binary: lines are lost and counted, nothing else is affected.

use std::fs::{self, File, OpenOptions};
use std::io::pipe;
use std::net::SocketAddr;
use std::process::Stdio;

use nodens::lab::upstream::LabUpstream;

use crate::addresses::own_address;
use crate::support::client::{A, code, data, lookup, query, receive, udp};
use crate::support::{Dir, Nodens, eventually, send_signal, serve, upstream, zone};
use hickory_proto::op::ResponseCode;

/// Failing queries, each logged at level debug: together more than an unread log can buffer.
const FAILING: usize = 1_600;
/// Queries in flight at once.
const BURST: usize = 50;

/// Nodens processes at the same addresses, one after the other, with the same kind of log.
struct Scene {
    upstream: LabUpstream,
    dir: Dir,
    listen: SocketAddr,
    admin: SocketAddr,
    /// Address without a server.
    dead: SocketAddr,
}

impl Scene {
    fn new() -> Self {
        let (listen, admin, dead) = (own_address(), own_address(), own_address());
        Self { upstream: upstream(zone()), dir: Dir::new(), listen, admin, dead }
    }

    fn config(&self) -> String {
        format!(
            "[server]\nlisten = [\"{}\"]\nworkers = 1\n[admin]\nlisten = \"{}\"\n[handover]\nsocket = {:?}\n\
             [upstreams.up]\nservers = [\"{}\"]\ndeadline = \"20s\"\n[upstreams.dead]\nservers = [\"{}\"]\ndeadline = \"100ms\"\n\
             [[route]]\nzones = [\".\"]\nto = \"up\"\n[[route]]\nzones = [\"dead.example\"]\nto = \"dead\"\n",
            self.listen,
            self.admin,
            self.dir.file("run/handover.sock"),
            self.upstream.address(),
            self.dead
        )
    }

    fn nodens(&self, stderr: Stdio) -> Nodens {
        let dir = Dir::new();
        let file = dir.write("nodens.toml", &self.config());
        let mut command = serve();
        command.arg("--config").arg(file).env("NODENS_LOG", "debug").stderr(stderr);
        Nodens::spawn_unheard(&mut command, dir, self.listen, self.admin)
    }

    fn answers(&self, name: &str) {
        assert_eq!(data(&lookup(self.listen, &format!("{name}.lab.example"))), ["192.0.2.1"]);
    }

    /// Tests start, reload, death of a worker, handover and SIGTERM, with a new log for each process.
    fn lives_on(&self, mut stderr: impl FnMut() -> Stdio, loses: Option<&str>) {
        let lost = |nodens: &Nodens| match loses {
            Some(reason) => {
                // If the log cannot be written, the lines of the start are lost; a full one needs more lines.
                if reason == "full" {
                    self.talks();
                }
                nodens.metric_becomes("nodens_log_lines_lost_total", &[("reason", reason)], |lines| lines > 0.0);
            }
            None => assert_eq!(nodens.metric("nodens_log_lines_lost_total", &[]), 0.0),
        };
        let mut first = self.nodens(stderr());
        self.answers("started");
        lost(&first);
        self.answers("lost");
        fs::write(first.config(), "no TOML").expect("writes");
        first.signal("HUP");
        first.metric_becomes("nodens_config_reloads_total", &[("result", "rejected")], |count| count >= 1.0);
        fs::write(first.config(), self.config()).expect("writes");
        first.signal("HUP");
        first.metric_becomes("nodens_config_reloads_total", &[("result", "applied")], |count| count >= 1.0);
        self.answers("reloaded");
        send_signal(first.worker().expect("a worker"), "KILL");
        first.metric_becomes("nodens_worker_restarts_total", &[], |count| count >= 1.0);
        self.answers("replaced");
        lost(&first);
        let mut second = self.nodens(stderr());
        // None of its workers has died.
        second.metric_becomes("nodens_worker_restarts_total", &[], |count| count == 0.0);
        first.stop();
        self.answers("handed-over");
        lost(&second);
        second.stop();
    }

    /// Sends failing queries, which nodens logs.
    fn talks(&self) {
        let socket = udp(self.listen);
        for burst in 0..FAILING / BURST {
            for n in 0..BURST {
                let name = format!("{n}.{burst}.dead.example");
                socket.send(&query(n as u16, &name, A)).expect("sends");
            }
            for _ in 0..BURST {
                assert_eq!(code(&receive(&socket)), ResponseCode::ServFail);
            }
        }
    }
}

#[test]
fn a_log_on_a_full_disk_costs_lines_alone() {
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("/dev/full").into();
    Scene::new().lives_on(full, Some("failed"));
}

#[test]
fn a_closed_log_costs_only_its_lines() {
    Scene::new().lives_on(|| pipe().expect("a pipe").1.into(), Some("failed"));
}

#[test]
fn a_log_whose_reader_stalls_costs_lines_alone() {
    let mut readers = Vec::new();
    let stalled = || {
        let (reader, writer) = pipe().expect("a pipe");
        readers.push(reader);
        writer.into()
    };
    Scene::new().lives_on(stalled, Some("full"));
}

#[test]
fn a_log_in_a_file_that_is_deleted_costs_nothing() {
    let scene = Scene::new();
    let deleted = || {
        let file = scene.dir.file("log");
        let open = File::create(&file).expect("a file");
        fs::remove_file(file).expect("deletes");
        open.into()
    };
    scene.lives_on(deleted, None);
}

#[test]
fn an_unread_mistake_still_sets_the_exit_code() {
    let (reader, writer) = pipe().expect("a pipe");
    let dir = Dir::new();
    // More mistakes than fit in the pipe.
    let diagnostics: String = (0..2_000).map(|n| format!("key_that_is_none_{n} = 1\n")).collect();
    let file = dir.write("nodens.toml", &format!("[server]\n{diagnostics}"));
    let mut child = serve().arg("--config").arg(file).stderr(writer).spawn().expect("nodens starts");
    let status = eventually("its end", || child.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(78));
    drop(reader);
}
