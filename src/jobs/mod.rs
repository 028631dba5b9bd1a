//! Which job asked what, and why it failed.
//!
//! ```text
//! a worker's turn ──► ledger ── at most every 100 ms ──► handoff ──► settle ──► who was that? ──► account of the pod
//!                     by address, no look-up             a swap      control    clients           counts, slowest, failures
//! ```
//!
//! No worker does anything else than note and hand over, and none ever waits for a lock: the control thread settles.
//!
//! - [`stats_buffer`] what a worker notes: the part on the hot path;
//! - [`buffer`] the tables that it is noted in;
//! - `handoff` how that gets to the control thread;
//! - `accounts` all accounts, and what settling does to them;
//! - [`account`] what is known of one client's queries;
//! - [`prefix`] the prefixes of a name, by hash;
//! - [`sentence`] a failure as a sentence;
//! - [`search_list`] which names are tries of a search list;
//! - [`existing`] which names exist, for hints to those who asked for others;
//! - [`query_history`] what the jobs of a project ask for;
//! - [`truncated`] what was cut off over UDP, until its client comes back over TCP;
//! - [`projects`] which of them are counted by name in the metrics, [`whose`] what they are called there.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::clients::{Client, Clients, StaticClients, Tables};
use crate::clock::Millis;
use crate::snapshot::Snapshot;

pub mod account;
mod accounts;
pub mod buffer;
pub mod existing;
mod handoff;
pub mod prefix;
pub mod projects;
pub mod query_history;
pub mod search_list;
pub mod sentence;
pub mod stats_buffer;
pub mod truncated;
pub mod whose;

pub use account::{ClientStats, Excerpt, Pick};
pub use accounts::{KEPT_FOR, MOST_ACCOUNTS, MOST_BYTES};
pub use stats_buffer::StatsBuffer;

use accounts::Accounts;
use handoff::Handoff;
use projects::Projects;
use query_history::QueryHistory;
use truncated::Truncated;

/// All accounts: workers hand over what they noted, one thread settles it, others read.
#[derive(Debug)]
pub struct Jobs {
    /// Answers that were cut off, until their clients come back over TCP.
    pub truncated: Truncated,
    handoff: Handoff,
    /// Of no concern to workers but in [`Self::try_look`], which does not wait.
    accounts: Mutex<Accounts>,
}

impl Jobs {
    /// No accounts yet.
    pub fn new(projects: Projects) -> Self {
        let accounts = Mutex::new(Accounts::new(projects));
        Self { truncated: Truncated::default(), handoff: Handoff::new(), accounts }
    }

    /// From now on at most so many projects have series in the metrics.
    pub fn set_max_projects(&self, most: usize) {
        self.lock().projects.set_most(most);
    }

    /// Hands over what a worker noted. Never waits: what finds no room now stays in the ledger. Returns whether all of it
    /// is on its way.
    pub fn flush(&self, stats_buffer: &mut StatsBuffer, now: Millis) -> bool {
        self.handoff.flush(stats_buffer, now)
    }

    /// Settles the notes that one worker handed over, if there are any; whether there were. For the control thread.
    ///
    /// Who asked is looked up among the clients of the configuration that the notes were taken under, beside the pods.
    pub fn settle_next(&self, clients: &Clients) -> bool {
        let Some(buffer) = self.handoff.take() else { return false };
        self.lock().settle(&buffer, &clients.tables(buffer.clients()));
        self.handoff.put_back(buffer);
        true
    }

    /// Settles all that was handed over, and whatever else is due; `fixed` are the clients of the configuration in force.
    /// For the control thread.
    pub fn settle(&self, clients: &Clients, fixed: &StaticClients, now: Millis) {
        while self.settle_next(clients) {}
        self.tend(&clients.tables(fixed), now);
    }

    /// Does what is due at `now`: counts in the metrics, answers that were cut off, accounts that are too old.
    ///
    /// `tables` are those of the configuration in force, also for answers that were cut off under the one before: no view
    /// and no denial depends on it, only whose account they go to.
    pub fn tend(&self, tables: &Tables<'_>, now: Millis) {
        let overdue = self.truncated.overdue(now);
        self.lock().tend(overdue, tables, now);
    }

    /// Follows the configuration in force, if that is another one now. For the control thread.
    pub fn follow(&self, snapshot: &Snapshot) {
        if self.lock().existing.is_of(snapshot) {
            return;
        }
        // The tables are made without the lock.
        let zones = existing::Zones::of(snapshot);
        self.lock().existing.follow(zones);
    }

    /// Number of hand-overs until now, and how many of these are settled.
    pub fn progress(&self) -> (u64, u64) {
        let settled = self.handoff.settled();
        (self.handoff.handed_over(), settled)
    }

    /// Looks at items of lists while notes were settled: what that has cost since the start.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Looks at what the jobs of each project ask for, or changes it; `look` must be quick.
    pub fn query_history<R>(&self, look: impl FnOnce(&mut QueryHistory) -> R) -> R {
        look(&mut self.lock().query_history)
    }

    /// Shows each account, those that asked last first, to `show`, which must be quick.
    pub fn each<R>(&self, show: impl FnMut(&ClientStats) -> R) -> Vec<R> {
        self.lock().each().map(show).collect()
    }

    /// Notes that found no room since the start.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped + self.truncated.dropped()
    }

    /// An excerpt of the account of this client, if there is one.
    pub fn look(&self, client: &Client, pick: Pick<'_>) -> Option<Excerpt> {
        self.lock().look(client, pick)
    }

    /// The same without waiting, for workers: the outer none says that the accounts are in use at this moment.
    pub fn try_look(&self, client: &Client, pick: Pick<'_>) -> Option<Option<Excerpt>> {
        match self.accounts.try_lock() {
            Ok(accounts) => Some(accounts.look(client, pick)),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner().look(client, pick)),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The account that a person means: by UID, job id, or name; of several the one that asked last. "unknown" is that of
    /// all that are not known.
    pub fn find(&self, id: &str) -> Option<Excerpt> {
        self.lock().find(id)
    }

    /// Accounts are consistent enough between any two statements: a panic elsewhere loses a count at most.
    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
