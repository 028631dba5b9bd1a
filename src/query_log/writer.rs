//! The thread that writes the log, and what it writes to.
//!
//! A file is opened anew when its path leads elsewhere, or nowhere: whoever moves it away, as logrotate does, need not
//! say so.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::line::{self, Clock};
use super::record::Batch;
use crate::clients::Clients;
use crate::config::LogTarget;
use crate::epoch::Epoch;
use crate::log::write_whole;
use crate::metrics::QueryLogMetrics;
use crate::upstream::server_status::wall_clock;

/// The rights of a new file: it tells what was asked, and by whom.
const MODE: u32 = 0o640;

/// What a writer needs beside the queries. It holds nothing that knows the way to it, which would keep it from its end.
pub(super) struct Writer {
    /// Who asked.
    pub(super) clients: Arc<Clients>,
    /// Since when times are counted.
    pub(super) epoch: Epoch,
    /// What became of the lines.
    pub(super) metrics: QueryLogMetrics,
}

/// Writes what comes until nobody is left to send any; then drops `ending`.
///
/// # Errors
/// The system gives no thread.
pub(super) fn start(to: LogTarget, batches: Receiver<Batch>, writer: Writer, ending: SyncSender<()>) -> io::Result<()> {
    let write = move || {
        write_all(&mut Output::new(to), &batches, &writer);
        drop(ending);
    };
    std::thread::Builder::new().name("nodens-log".into()).spawn(write).map(drop)
}

fn write_all(output: &mut Output, batches: &Receiver<Batch>, writer: &Writer) {
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
        // A line for each change, not for each batch.
        match (&written, std::mem::replace(&mut fails, written.is_err())) {
            (Err(error), false) => tracing::error!(%error, to = %output.shown(), "cannot write the query log"),
            (Ok(()), true) => tracing::info!(to = %output.shown(), "query log writable again"),
            (Ok(()), false) | (Err(_), true) => {}
        }
    }
}

/// What is written to.
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

    /// Writes whole lines.
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

/// Whether the file is the one that the path leads to.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(file), Ok(path)) if place(&file) == place(&path))
}
