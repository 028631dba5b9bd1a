//! All attacks in turn on one process of nodens, again and again, while the honest client sends queries at a higher rate. It
//! measures what remains of the attacks afterwards.

use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::attack::{Attack, Target};
use crate::honest::{self, HonestStats, Outcomes};
use crate::processes::{RESIDENT, memory, stats};
use crate::session::say;
use crate::watch::watch;

/// Queries a second of the honest client.
const RATE: u32 = 500;
/// Duration of one attack.
const TURN: Duration = Duration::from_secs(20);
/// Time with queries of the honest client only, before and after all attacks.
const REST: Duration = Duration::from_secs(20);

/// Soak run of one server.
pub struct Soak<'a> {
    /// Returns the target of one attack.
    pub target: &'a dyn Fn() -> Target,
    /// Total duration of the attacks.
    pub time: Duration,
    /// Set when the user ends the run.
    pub stop: &'a AtomicBool,
}

/// Resources that the process holds.
struct Held {
    mib: f64,
    /// Number of open files, over all its processes.
    descriptors: usize,
}

impl Soak<'_> {
    /// Runs the attacks and writes a line for each, and the totals.
    ///
    /// # Errors
    /// Returns an error if an answer was wrong or lost, the system refuses a socket or thread, or the user ended the run.
    pub fn run(&self) -> io::Result<()> {
        let mut all = self.rest()?;
        let before = self.held();
        self.line("at rest, before", &all, &before);
        let start = Instant::now();
        for attack in Attack::value_variants()
            .iter()
            .filter(|attack| attack.can_run())
            .cycle()
            .take_while(|_| start.elapsed() < self.time)
        {
            let stats = self.attack(*attack)?;
            self.line(&attack.name(), &stats, &self.held());
            all.add(&stats);
        }
        let stats = self.rest()?;
        let after = self.held();
        self.line("at rest, after", &stats, &after);
        all.add(&stats);
        let sum = |of: fn(&Outcomes) -> u64| of(&all.hits) + of(&all.fresh);
        let (asked, lost, failed, wrong) =
            (sum(|all| all.asked), sum(|all| all.lost), sum(|all| all.failed), sum(|all| all.wrong));
        writeln!(
            io::stdout(),
            "asked {asked}, wrong {wrong}, lost {lost}, failed {failed}; resident memory {:.1} -> {:.1} MiB, \
             descriptors {} -> {}",
            before.mib,
            after.mib,
            before.descriptors,
            after.descriptors
        )?;
        match wrong + lost {
            0 => Ok(()),
            _ => Err(io::Error::other("the honest client got wrong answers or none")),
        }
    }

    fn rest(&self) -> io::Result<HonestStats> {
        honest::ask((self.target)().address, RATE, REST, self.stop)
    }

    fn attack(&self, attack: Attack) -> io::Result<HonestStats> {
        let target = (self.target)();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(target.address.port(), target.process, &target.over));
            let attacker = scope.spawn(|| attack.run(&target));
            let stats = honest::ask(target.address, RATE, TURN, self.stop);
            target.over.store(true, Ordering::Relaxed);
            let failed = |_| io::Error::other("a thread panicked");
            attacker.join().map_err(failed)??;
            watcher.join().map_err(failed)??;
            stats
        })
    }

    fn held(&self) -> Held {
        let group = (self.target)().process;
        let open = |(pid, _)| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Held { mib: memory(group, RESIDENT) as f64 / 1_024.0, descriptors: stats(group).map(open).sum() }
    }

    fn line(&self, what: &str, stats: &HonestStats, held: &Held) {
        let p99 = stats.milliseconds(0.99).map_or("-".to_owned(), |p99| format!("{p99:.2}"));
        let (hits, fresh) = (&stats.hits, &stats.fresh);
        say(&format!(
            "{what}: {:.1} MiB, {} descriptors; others' p99 {p99} ms, wrong {} + {}, lost {} + {}, failed {} + {}",
            held.mib, held.descriptors, hits.wrong, fresh.wrong, hits.lost, fresh.lost, hits.failed, fresh.failed
        ));
    }
}
