//! Thread that writes the log, and its output.
//!
//! A file is reopened when its path leads to another file, or to none: log rotation needs no signal.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::line::{self, Clock};
use super::record::QueryBatch;
use crate::clients::Clients;
use crate::config::LogTarget;
use crate::epoch::Epoch;
use crate::log::write_whole;
use crate::metrics::QueryLogMetrics;
use crate::upstream::server_status::wall_clock;

/// Mode of a new file: the log contains the names and the clients of queries.
const MODE: u32 = 0o640;

/// State of a writer. It must not hold a sender of the channel, which would keep the writer from ending.
pub(super) struct LogWriter {
    pub(super) clients: Arc<Clients>,
    /// Origin of the times.
    pub(super) epoch: Epoch,
    /// Counters of written and lost lines.
    pub(super) metrics: QueryLogMetrics,
}

/// Starts a thread that writes all batches until the last sender is dropped, and then drops `ending`.
///
/// # Errors
/// The thread cannot be created.
pub(super) fn start(
    to: LogTarget,
    batches: Receiver<QueryBatch>,
    writer: LogWriter,
    ending: SyncSender<()>,
) -> io::Result<()> {
    let write = move || {
        write_all(&mut Output::new(to), &batches, &writer);
        drop(ending);
    };
    std::thread::Builder::new().name("nodens-log".into()).spawn(write).map(drop)
}

fn write_all(output: &mut Output, batches: &Receiver<QueryBatch>, writer: &LogWriter) {
    let (mut lines, mut fails) = (Vec::new(), false);
    while let Ok(batch) = batches.recv() {
        lines.clear();
        let clock = Clock { now: writer.epoch.now(), wall: wall_clock() };
        line::write(&batch, &writer.clients.tables(&batch.snapshot.clients), clock, &mut lines);
        let (metrics, count) = (&writer.metrics, batch.records.len() as u64);
        let written = output.write(&lines);
        match &written {
            Ok(()) => metrics.lines.inc_by(count),
            Err(_) => metrics.failed.inc_by(count),
        }
        // Logs changes of the state, not each batch.
        match (&written, std::mem::replace(&mut fails, written.is_err())) {
            (Err(error), false) => tracing::error!(%error, to = %output.shown(), "cannot write the query log"),
            (Ok(()), true) => tracing::info!(to = %output.shown(), "query log writable again"),
            (Ok(()), false) | (Err(_), true) => {}
        }
    }
}

/// Target of the log.
enum Output {
    Stdout { torn: bool },
    File { path: PathBuf, open: Option<File>, torn: bool },
}

impl Output {
    fn new(to: LogTarget) -> Self {
        match to {
            LogTarget::Stdout => Self::Stdout { torn: false },
            LogTarget::File(path) => Self::File { path, open: None, torn: false },
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout { torn } => write_whole(&mut io::stdout().lock(), lines, torn),
            Self::File { path, open, torn } => {
                if !open.as_ref().is_some_and(|file| is_at(file, path)) {
                    *open = None;
                    *torn = false;
                }
                let file = match open {
                    Some(file) => file,
                    None => open.insert(OpenOptions::new().append(true).create(true).mode(MODE).open(path)?),
                };
                write_whole(file, lines, torn)
            }
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Stdout { .. } => "stdout".to_string(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }
}

/// Returns whether the file is the one that the path leads to.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(file), Ok(path)) if place(&file) == place(&path))
}
