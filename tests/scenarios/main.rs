//! One scenario file per protocol rule, played on a paused clock: no sleeps, and no time of day.
//!
//! Each file below this directory is a test of its own. [`script`] describes the format of a file, [`expect`] the checks of a
//! response, [`upstreams`] the behaviour of upstreams and the queries that they see.
//!
//! `SCENARIO_PEER=unbound cargo test --test scenarios short_silence` plays scenarios on another server ([`subject`]), in real
//! time. If a scenario fails there too, check the expectation.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

mod burst;
mod client;
mod clock;
mod expect;
mod script;
mod stage;
mod subject;
mod upstreams;

/// Real time after which a scenario counts as stuck.
const WATCHDOG: Duration = Duration::from_secs(600);

macro_rules! scenarios {
    ($($group:ident { $($name:ident)* })*) => {
        const LISTED: &[&str] = &[$($(concat!(stringify!($group), "/", stringify!($name))),*),*];

        $(mod $group {
            $(#[test]
            fn $name() {
                super::play(concat!(stringify!($group), "/", stringify!($name)));
            })*
        })*
    };
}

include!("list.rs");

#[test]
fn every_file_is_listed() {
    let listed: BTreeSet<String> = LISTED.iter().map(|name| (*name).to_owned()).collect();
    let mut found = BTreeSet::new();
    for group in std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        for file in std::fs::read_dir(&group).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.strip_prefix(directory()).unwrap().with_extension("");
            assert_eq!(file.extension().and_then(|ext| ext.to_str()), Some("scenario"), "{}", file.display());
            found.insert(name.to_str().unwrap().to_owned());
        }
    }
    assert_eq!(listed, found);
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// Plays a scenario in a thread of its own, which allows the caller to detect a stuck scenario.
fn play(name: &'static str) {
    let (done, over) = mpsc::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let steps = script::read(&directory().join(name).with_extension("scenario"));
        let peer = subject::peer();
        if let Some(why) = peer.and_then(|_| subject::unfit(&steps)) {
            println!("skipped: {why}");
            let _ = done.send(());
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut stage = stage::Stage::new(peer);
            for step in &steps {
                stage::located(name, step.line, stage.play(step)).await;
            }
        });
        let _ = done.send(());
    });
    let thread = thread.unwrap();
    let stuck = over.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!stuck, "{name}: stuck for {WATCHDOG:?}");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
