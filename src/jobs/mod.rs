//! Query statistics of each client: counts, slowest responses, failures and their causes.
//!
//! ```text
//! batch ──► stats buffer ── every 100 ms ──► handoff ──► merge ──► attribution ──► account of the client
//!           by address,                      swap        control    clients         counts, slowest, failures
//!           no lookup                                    thread
//! ```
//!
//! A worker only records and hands over, and never waits for a lock. The control thread merges the handed-over buffers
//! into the accounts.
//!
//! - [`stats_buffer`]: recording, the part on the hot path;
//! - [`buffer`]: the tables that a stats buffer consists of;
//! - `handoff`: the transfer to the control thread;
//! - `accounts`: all accounts, and the merging of buffers into them;
//! - [`account`]: the statistics of one client;
//! - [`prefix`]: the prefixes of a name, by hash;
//! - [`sentence`]: a failure as a sentence;
//! - [`search_list`]: detection of names that a search list produced;
//! - [`existing_names`]: names that exist, suggested to clients that asked for similar ones;
//! - [`query_history`]: the questions that the jobs of a project ask;
//! - [`truncated`]: truncated responses, until the client asks again over TCP;
//! - [`projects`]: the projects with metric series of their own, [`metric_key`]: the labels of these series.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::clients::{Client, Clients, StaticClients, Tables};
use crate::clock::Millis;
use crate::snapshot::Snapshot;

pub(crate) mod account;
mod accounts;
pub(crate) mod buffer;
pub(crate) mod existing_names;
mod handoff;
pub(crate) mod metric_key;
pub(crate) mod prefix;
pub mod projects;
pub(crate) mod query_history;
pub(crate) mod search_list;
pub(crate) mod sentence;
pub mod stats_buffer;
pub(crate) mod truncated;

pub use account::{ClientStats, Excerpt, Pick};
pub use accounts::{KEPT_FOR, MOST_ACCOUNTS, MOST_BYTES};
pub use stats_buffer::StatsBuffer;

use accounts::Accounts;
use handoff::Handoff;
use projects::Projects;
use query_history::QueryHistory;
use truncated::Truncated;

/// All accounts. Workers hand over their records, one thread merges them, other threads read.
#[derive(Debug)]
pub struct Jobs {
    /// Truncated responses whose clients have not asked again over TCP.
    pub truncated: Truncated,
    handoff: Handoff,
    /// Workers lock this only in [`Self::try_look`], which does not wait.
    accounts: Mutex<Accounts>,
}

impl Jobs {
    /// Creates an instance without accounts.
    pub fn new(projects: Projects) -> Self {
        let accounts = Mutex::new(Accounts::new(projects));
        Self { truncated: Truncated::default(), handoff: Handoff::new(), accounts }
    }

    /// Sets the maximum number of projects with metric series of their own.
    pub fn set_max_projects(&self, most: usize) {
        self.lock().projects.set_most(most);
    }

    /// Hands over the records of a worker. Never waits: records that cannot be handed over now stay in the buffer.
    /// Returns whether all records were handed over.
    pub fn flush(&self, stats_buffer: &mut StatsBuffer, now: Millis) -> bool {
        self.handoff.flush(stats_buffer, now)
    }

    /// Merges one handed-over buffer into the accounts. Returns whether there was one. Called by the control thread.
    ///
    /// Addresses are attributed to the pods, and to the clients of the configuration under which the buffer was filled.
    pub fn merge_next(&self, clients: &Clients) -> bool {
        let Some(buffer) = self.handoff.take() else { return false };
        self.lock().merge_counts(&buffer, &clients.tables(buffer.clients()));
        self.handoff.put_back(buffer);
        true
    }

    /// Merges all handed-over buffers and does the maintenance that is due. `fixed` are the clients of the
    /// configuration in force. Called by the control thread.
    pub fn merge_counts(&self, clients: &Clients, fixed: &StaticClients, now: Millis) {
        while self.merge_next(clients) {}
        self.run_maintenance(&clients.tables(fixed), now);
    }

    /// Does the maintenance that is due at `now`: updates the metrics, records truncated responses whose clients did
    /// not come back, removes old accounts.
    ///
    /// `tables` are those of the configuration in force, also for responses that were truncated under an earlier one.
    /// Only their attribution depends on the tables, no view and no denial.
    pub fn run_maintenance(&self, tables: &Tables<'_>, now: Millis) {
        let overdue = self.truncated.overdue(now);
        self.lock().run_maintenance(overdue, tables, now);
    }

    /// Applies the configuration in force if it has changed. Called by the control thread.
    pub fn follow(&self, snapshot: &Snapshot) {
        if self.lock().existing.is_of(snapshot) {
            return;
        }
        // The tables are built before the lock is taken.
        let zones = existing_names::KnownZones::of(snapshot);
        self.lock().existing.follow(zones);
    }

    /// Returns the numbers of buffers handed over and merged since the start.
    pub fn progress(&self) -> (u64, u64) {
        let settled = self.handoff.settled();
        (self.handoff.handed_over(), settled)
    }

    /// Returns the number of list items visited while buffers were merged since the start: the cost of merging.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Calls `look` with the query history of the projects, under the lock; `look` must be quick.
    pub fn query_history<R>(&self, look: impl FnOnce(&mut QueryHistory) -> R) -> R {
        look(&mut self.lock().query_history)
    }

    /// Calls `show` for each account, most recently active first; `show` must be quick.
    pub fn each<R>(&self, show: impl FnMut(&ClientStats) -> R) -> Vec<R> {
        self.lock().each().map(show).collect()
    }

    /// Returns the number of records dropped for lack of room since the start.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped + self.truncated.dropped()
    }

    /// Returns an excerpt of the client's account, if there is one.
    pub fn look(&self, client: &Client, pick: Pick<'_>) -> Option<Excerpt> {
        self.lock().look(client, pick)
    }

    /// Does the same as `look` without waiting, for workers. The outer `None` means that the accounts are locked.
    pub fn try_look(&self, client: &Client, pick: Pick<'_>) -> Option<Option<Excerpt>> {
        match self.accounts.try_lock() {
            Ok(accounts) => Some(accounts.look(client, pick)),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner().look(client, pick)),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Finds an account by UID, job ID or name; of several, the most recently active one. "unknown" is the account of
    /// all unknown clients.
    pub fn find(&self, id: &str) -> Option<Excerpt> {
        self.lock().find(id)
    }

    /// Ignores poisoning. Accounts are consistent enough between any two statements: a panic elsewhere loses a count at
    /// most.
    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
