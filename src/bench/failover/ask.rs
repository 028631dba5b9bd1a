//! Clients: they send queries at a fixed rate or in sequence, while the upstreams change.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::fault::{UpstreamChange, UpstreamState};
use super::figures::Fate;
use super::names::{ClientResult, LAME, name};
use crate::lab::client::{LabQuery, ask};
use crate::lab::upstream::LabUpstream;
use crate::task::boxed;

/// Interval between the queries of a steady client.
pub(crate) const STEADY_PACE: Duration = Duration::from_millis(50);

/// Time after which a burst sends no further query: 500 names with a client timeout of 5 s each would take most of an
/// hour.
pub(crate) const BURST_LIMIT: Duration = Duration::from_secs(20);

/// Parameters of one cell's queries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskTask<'a> {
    /// The server under test.
    pub server: SocketAddr,
    pub upstreams: &'a [LabUpstream; 2],
    /// Changes of the upstreams' states.
    pub changes: &'a [UpstreamChange],
    /// Number of names to query.
    pub queries: u32,
    /// True for TCP, with a connection for each query.
    pub tcp: bool,
    /// Set when the user interrupts the run.
    pub stop: &'a AtomicBool,
}

/// Sends queries at a fixed interval, independent of earlier queries; a time counts from when its query was sent.
///
/// # Errors
/// The system's error if the state of an upstream cannot be changed.
pub(crate) async fn steady(task: AskTask<'_>) -> io::Result<Vec<Fate>> {
    let start = Instant::now();
    let mut under_way = JoinSet::new();
    for number in 0..task.queries {
        sleep_until(start + STEADY_PACE * number).await;
        if task.stop.load(Ordering::Relaxed) {
            break;
        }
        task.change(number).await?;
        let (server, question) = (task.server, task.question(number)?);
        under_way.spawn(boxed(async move { (number, fate(server, &name(number), &question).await) }));
    }
    let mut fates = under_way.join_all().await;
    fates.sort_by_key(|(number, _)| *number);
    Ok(fates.into_iter().map(|(_, fate)| fate).collect())
}

/// Sends the next query after the result of the previous one, for up to [`BURST_LIMIT`].
///
/// # Errors
/// As [`steady`].
pub(crate) async fn burst(task: AskTask<'_>) -> io::Result<Vec<Fate>> {
    let start = Instant::now();
    let mut fates = Vec::new();
    for number in 0..task.queries {
        if task.stop.load(Ordering::Relaxed) || start.elapsed() > BURST_LIMIT {
            break;
        }
        task.change(number).await?;
        fates.push(fate(task.server, &name(number), &task.question(number)?).await);
    }
    Ok(fates)
}

impl AskTask<'_> {
    /// Applies the changes that are due at query `number`.
    async fn change(&self, number: u32) -> io::Result<()> {
        for change in self.changes.iter().filter(|change| change.at == number) {
            put(self.upstreams, change).await?;
            if change.states.contains(&UpstreamState::Lame) {
                // Another client sends this query; its result is not counted.
                let (server, question) = (self.server, LabQuery::new(LAME, "A")?);
                tokio::spawn(boxed(async move { ask(server, &question).await }));
            }
        }
        Ok(())
    }

    fn question(&self, number: u32) -> io::Result<LabQuery> {
        let question = LabQuery::new(&name(number), "A")?;
        Ok(if self.tcp { question.over_tcp() } else { question })
    }
}

/// Sets both upstreams to the states of a change.
///
/// # Errors
/// As [`steady`].
pub(crate) async fn put(upstreams: &[LabUpstream; 2], change: &UpstreamChange) -> io::Result<()> {
    for (upstream, state) in upstreams.iter().zip(change.states) {
        state.apply(upstream).await?;
    }
    Ok(())
}

async fn fate(server: SocketAddr, name: &str, question: &LabQuery) -> Fate {
    let start = Instant::now();
    let response = ask(server, question).await;
    Fate { verdict: ClientResult::of(name, &response), took: start.elapsed() }
}
