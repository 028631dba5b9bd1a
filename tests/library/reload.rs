//! A reload is one swap: each response is made under one complete configuration, and no worker pays for its size.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nodens::answer::{LocalCounters, Response};
use nodens::app::{self, Running};
use nodens::config::Config;
use nodens::config::parse::parse;
use nodens::effective_view::EffectiveViewId;
use nodens::jobs::StatsBuffer;
use nodens::metrics::Metrics;
use nodens::snapshot::Snapshot;
use nodens::wire::name::Name;
use nodens::wire::{Rcode, rcode};

/// Timeout of a wait; far longer than any of these tests takes.
const DEADLINE: Duration = Duration::from_secs(40);
/// The client that may not see the zone.
const DENIED: [u8; 4] = [127, 0, 0, 7];
/// Reloads in the test of the single swap. With two swaps, a few dozen exposed a mix of both configurations.
const RELOADS: usize = 2_000;

const BASE: &str = "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[cache]\nmemory = \"1MiB\"\n\
                    [upstreams.up]\nservers = [\"192.0.2.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

fn config(more: &str) -> Config {
    parse(&format!("{BASE}{more}"), &[]).unwrap()
}

/// Returns a configuration in which the client's project and the view's selector have the name `project`.
fn denying(project: &str) -> Config {
    config(&format!(
        "[[record]]\nname = \"git.corp.example\"\ntype = \"A\"\nvalue = \"10.0.0.9\"\n\
         [[client]]\nsource = \"127.0.0.7/32\"\nname = \"machine\"\nproject = \"{project}\"\n\
         [[view]]\nname = \"outside\"\nprojects = [\"{project}\"]\ndeny = [\"corp.example\"]\n"
    ))
}

/// Returns the response code of an immediate response.
fn ask(running: &Running, name: &str, notes: &mut (LocalCounters, StatsBuffer)) -> Rcode {
    let resolver = running.resolver();
    let snapshot = resolver.snapshot.load();
    let mut context = resolver.context(&snapshot, tokio::time::Instant::now(), &mut notes.0, &mut notes.1);
    let mut packet = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    packet.extend_from_slice(name.parse::<Name>().unwrap().as_wire());
    packet.extend_from_slice(&[0, 1, 0, 1]);
    let mut out = [0; 512];
    let Response::Reply(_) = resolver.respond(&mut context, &packet, IpAddr::from(DENIED), false, &mut out) else {
        panic!("no answer at once");
    };
    Rcode::of_flags(out[3].into())
}

#[test]
fn a_client_and_its_view_are_renamed_at_once() {
    let running = app::start(denying("a")).unwrap();
    let (asks, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (answers, private) = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut notes = (LocalCounters::new(&running.resolver().metrics, &[".".into()]), StatsBuffer::new(["."]));
            let (mut answers, mut private) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                private += usize::from(ask(&running, "git.corp.example", &mut notes) != rcode::NXDOMAIN);
                answers += 1;
                asks.store(true, Ordering::Relaxed);
            }
            (answers, private)
        });
        while !asks.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        (0..RELOADS).for_each(|number| drop(running.reload(denying(if number % 2 == 0 { "b" } else { "a" }))));
        over.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    assert_eq!(private, 0, "of {answers} answers to one who may not have any");
}

#[test]
fn a_loaded_snapshot_keeps_its_clients() {
    let running = app::start(denying("a")).unwrap();
    let resolver = running.resolver();
    let before = resolver.snapshot.load_full();
    running.reload(config("[[client]]\nsource = \"127.0.0.7/32\"\nname = \"other\"\n"));
    let after = resolver.snapshot.load_full();
    for (snapshot, project, view) in [(&before, Some("a"), Some("outside")), (&after, None, None)] {
        let tables = resolver.tables(snapshot);
        let identity = tables.identify(DENIED.into(), 0);
        let nodens::clients::ClientIdentity::Known { client, .. } = identity else { panic!("{identity:?}") };
        let known = client.job.as_ref().and_then(|job| job.project(nodens::clients::client::Trust::Configuration));
        assert_eq!(known.as_deref(), project);
        assert_eq!(snapshot.view(&identity, DENIED.into()).map(|view| &*view.name), view);
    }
}

#[test]
fn reloads_at_one_time_follow_each_other() {
    let running = app::start(config("")).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| drop(running.reload(config("")))));
        }
    });
    assert_eq!(running.resolver().snapshot.load().generation, 200, "none has the number of another");
}

#[test]
fn views_share_what_they_inherit() {
    let records: String = (0..500)
        .map(|n| format!("[[record]]\nname = \"n{n}.example\"\ntype = \"A\"\nvalue = \"10.0.0.9\"\n"))
        .collect();
    let views: String = (0..32)
        .map(|n| format!("[[view]]\nname = \"v{n}\"\nnamespaces = [\"n{n}\"]\ndeny = [\"n{n}.example\"]\n"))
        .collect();
    let metrics = Metrics::new().unwrap();
    let snapshot = Snapshot::new(config(&format!("{records}{views}")), &metrics, None);
    assert_eq!(snapshot.effective_views().len(), 33);
    let wire = |n: usize| format!("n{n}.example").parse::<Name>().unwrap();
    for (number, id) in snapshot.effective_views().enumerate().skip(1) {
        let seen = snapshot.effective_view(id);
        assert!(seen.shares_with(snapshot.effective_view(EffectiveViewId::COMMON)), "{number}");
        let denied = number - 1;
        assert!(!seen.has_records(wire(denied).as_wire()) && seen.has_records(wire(denied + 1).as_wire()));
    }
    let next = Snapshot::new(config(&format!("{records}{views}")), &metrics, Some(&snapshot));
    assert!(Arc::ptr_eq(&snapshot.labels, &next.labels), "what workers count by need not begin anew");
}

#[test]
fn replaced_snapshots_are_freed_by_their_own_thread() {
    let running = app::start(config("")).unwrap();
    let held = running.resolver().snapshot.load_full();
    let freed = Arc::downgrade(&held);
    running.reload(config(""));
    // Two references remain, that of the thread that frees snapshots and `held`: no worker releases the last one.
    let until = Instant::now() + DEADLINE;
    while Arc::strong_count(&held) > 2 {
        assert!(Instant::now() < until, "workers and others let go of it");
        thread::yield_now();
    }
    assert_eq!(Arc::strong_count(&held), 2, "it is kept for as long as anybody holds it");
    drop(held);
    while freed.strong_count() > 0 {
        assert!(Instant::now() < until, "then it is freed");
        thread::yield_now();
    }
}
