//! Storage of the projects' query history in a file, which survives the process.
//!
//! The file is replaced as a whole: a reader finds the old or the new one. An unreadable file is logged and left alone
//! until there is something to write; nodens then starts with an empty history.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::answer::Resolver;
use crate::jobs::query_history::LoadError;

/// Interval between writes of a changed history.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// Largest file that is read: far larger than any that is written.
const LONGEST: u64 = 16 << 20;
/// Number of changes that no history reaches: a write is due.
const NEVER: u64 = u64::MAX;

/// Reads and writes the file.
pub(crate) struct HistoryFile {
    resolver: Arc<Resolver>,
    file: PathBuf,
    /// True if the file was read since the warm-up was enabled.
    read: bool,
    /// Number of changes at the last write.
    written: u64,
    complained: bool,
}

/// Error from reading the file.
#[derive(Debug, thiserror::Error)]
enum LoadFailure {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Form(#[from] LoadError),
    #[error("it is longer than {LONGEST} bytes")]
    Long,
}

impl HistoryFile {
    /// Opens and reads the file that the configuration names, if it names one.
    pub(crate) fn open(resolver: &Arc<Resolver>) -> Option<Self> {
        let file = resolver.snapshot.load().config.warm_up.file.clone()?;
        let mut keeper = Self { resolver: Arc::clone(resolver), file, read: false, written: 0, complained: false };
        keeper.read();
        Some(keeper)
    }

    /// Writes the history periodically if it has changed. Never returns.
    pub(crate) async fn keep(&mut self) {
        loop {
            tokio::time::sleep(WRITE_EVERY).await;
            // The warm-up may have been enabled meanwhile.
            self.read();
            if let Some(text) = self.changed() {
                let file = self.file.clone();
                let written = tokio::task::spawn_blocking(move || write(&file, "new", &text)).await;
                self.log_result(written.unwrap_or_else(|error| Err(io::Error::other(error))));
            }
        }
    }

    /// Writes the history if it has changed since the last write.
    pub(crate) fn close(mut self) {
        if let Some(text) = self.changed() {
            // The blocking task of `keep` may still be writing, so this uses another temporary file.
            let written = write(&self.file, "last", &text);
            self.log_result(written);
        }
    }

    fn is_on(&self) -> bool {
        self.resolver.snapshot.load().config.warm_up.enabled
    }

    /// Reads the file, unless it was read since the warm-up was enabled.
    fn read(&mut self) {
        if self.read == self.is_on() {
            return;
        }
        self.read = !self.read;
        if !self.read {
            return;
        }
        let file = self.file.display();
        let text = match text(&self.file) {
            Ok(text) => text,
            Err(LoadFailure::Io(error)) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                return tracing::warn!(%file, %error, "cannot read the query history of projects; starting with an empty one");
            }
        };
        match self
            .resolver
            .accounts
            .jobs
            .query_history(|query_history| query_history.read(&text))
            .map_err(LoadFailure::from)
        {
            Ok(projects) => tracing::info!(%file, projects, "query history of projects loaded"),
            Err(error) => {
                tracing::warn!(%file, %error, "cannot read the query history of projects; starting with an empty one")
            }
        }
    }

    /// Returns the text to write, if the history has changed.
    fn changed(&mut self) -> Option<String> {
        let before = self.written;
        let changed = self.resolver.accounts.jobs.query_history(|query_history| {
            let changes = query_history.changes();
            (changes != before).then(|| (changes, query_history.write()))
        });
        let (changes, text) = changed.filter(|_| self.is_on())?;
        self.written = changes;
        Some(text)
    }

    /// Logs a write error, once for consecutive errors.
    fn log_result(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => self.complained = false,
            Err(error) => {
                // The next interval tries again, with or without another change.
                self.written = NEVER;
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(file = %self.file.display(), %error, "cannot write the query history of projects");
                }
            }
        }
    }
}

fn text(file: &Path) -> Result<Vec<u8>, LoadFailure> {
    let mut text = Vec::new();
    File::open(file)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST { Err(LoadFailure::Long) } else { Ok(text) }
}

/// Replaces the file by way of a temporary file with this extension. Only the owner may read it: projects may be
/// private.
fn write(file: &Path, extension: &str, text: &str) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(extension);
    let new = file.with_file_name(name);
    let mut writer = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writer.write_all(text.as_bytes())?;
    writer.sync_all()?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::clients::Client;
    use crate::clients::client::{ClientKind, Field, Job, Trust};
    use crate::config::parse::parse;
    use crate::metrics::Metrics;
    use crate::snapshot::Snapshot;
    use crate::wire::rtype;

    fn job(uid: &str) -> Client {
        let mut job = Job::default();
        job.note(Field::ProjectId, "7", Trust::Label);
        Client {
            kind: ClientKind::GitlabJob,
            name: uid.into(),
            namespace: None,
            uid: Some(uid.into()),
            labels: Box::default(),
            more_labels: false,
            job: Some(job),
            memo: Default::default(),
            search: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_is_written_while_it_is_switched_on() {
        let dir = std::env::temp_dir().join(format!("nodens-history-{}", std::process::id()));
        let file = dir.join("deep/query-history.json");
        let minimal = include_str!("../../config/minimal.toml");
        let config = |on| parse(&format!("[warm_up]\nenabled = {on}\nfile = {file:?}\n{minimal}"), &[]).expect("good");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let resolver = Arc::new(Resolver::new(Snapshot::new(config(true), &metrics, None), Arc::clone(&metrics)));
        let switch = |on| {
            let snapshot = Snapshot::new(config(on), &metrics, Some(&resolver.snapshot.load()));
            resolver.snapshot.store(Arc::new(snapshot));
            resolver.accounts.jobs.query_history(|query_history| query_history.learn(on));
        };
        let note = |uid: &str| {
            resolver.accounts.jobs.query_history(|query_history| query_history.note(&job(uid), b"\x01a\x00", rtype::A))
        };
        let mut keeper = HistoryFile::open(&resolver).expect("a file is named");
        for (uid, written) in [(None, false), (Some("1"), true), (None, false), (Some("2"), true)] {
            uid.into_iter().for_each(note);
            let _ = timeout(WRITE_EVERY + WRITE_EVERY / 2, keeper.keep()).await;
            assert_eq!(file.exists(), written, "{uid:?}");
            let _ = fs::remove_file(&file);
        }
        // What could not be written is written later, without another change.
        note("3");
        fs::create_dir(&file).expect("creates");
        let _ = timeout(WRITE_EVERY + WRITE_EVERY / 2, keeper.keep()).await;
        fs::remove_dir(&file).expect("it is still a directory");
        let _ = timeout(WRITE_EVERY + WRITE_EVERY / 2, keeper.keep()).await;
        assert!(file.is_file(), "it is tried again");
        fs::remove_file(&file).expect("removes");
        note("4");
        switch(false);
        let _ = timeout(2 * WRITE_EVERY, keeper.keep()).await;
        assert!(!file.exists(), "it is switched off");
        let text = r#"{"version":1,"projects":[{"project":"gitlab-job 7  ","questions":[["kept.",1,1]]}]}"#;
        fs::write(&file, text).expect("writes");
        switch(true);
        let _ = timeout(2 * WRITE_EVERY, keeper.keep()).await;
        let known = resolver.accounts.jobs.query_history(|query_history| query_history.of(&job("5")));
        assert_eq!(known, [(Box::from(&b"\x04kept\x00"[..]), rtype::A)], "what was kept before comes back");
        fs::remove_dir_all(&dir).expect("removes");
    }
}
