//! What the jobs of each project ask, kept in a file beyond the end of the process.
//!
//! The file is replaced as a whole, so that whoever reads it finds the old one or the new one. One that cannot be read is
//! told of and left alone until there is something to write: nodens then begins anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::answer::Resolver;
use crate::jobs::habits::Unreadable;

/// How often what has changed is written.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// The longest file that is read: far more than is ever written.
const LONGEST: u64 = 16 << 20;

/// Keeps the file.
pub struct Keeper {
    resolver: Arc<Resolver>,
    file: PathBuf,
    /// Whether it is read already.
    read: bool,
    /// The count of changes at which it was last written.
    written: u64,
    complained: bool,
}

/// Why a file gives nothing.
#[derive(Debug, thiserror::Error)]
enum Useless {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Form(#[from] Unreadable),
    #[error("it is longer than {LONGEST} bytes")]
    Long,
}

impl Keeper {
    /// Keeps the file that the configuration names, if it names one, and reads it.
    pub fn open(resolver: &Arc<Resolver>) -> Option<Self> {
        let file = resolver.snapshot.load().config.warm_up.file.clone()?;
        let mut keeper = Self { resolver: Arc::clone(resolver), file, read: false, written: 0, complained: false };
        keeper.read();
        Some(keeper)
    }

    /// Writes what has changed, again and again. Never ends by itself.
    pub async fn keep(&mut self) {
        loop {
            tokio::time::sleep(WRITE_EVERY).await;
            // It may have been switched on by now.
            self.read();
            if let Some(text) = self.changed() {
                let file = self.file.clone();
                let written = tokio::task::spawn_blocking(move || write(&file, "new", &text)).await;
                self.tell(written.unwrap_or_else(|error| Err(io::Error::other(error))));
            }
        }
    }

    /// Writes what has changed since it last did.
    pub fn close(mut self) {
        if let Some(text) = self.changed() {
            // The task that writes may not have ended yet.
            let written = write(&self.file, "last", &text);
            self.tell(written);
        }
    }

    fn is_on(&self) -> bool {
        self.resolver.snapshot.load().config.warm_up.enabled
    }

    /// Reads the file, unless that was done since it was switched on.
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
            Err(Useless::Io(error)) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return tracing::warn!(%file, %error, "what jobs ask could not be read; beginning anew"),
        };
        match self.resolver.jobs.habits(|habits| habits.read(&text)).map_err(Useless::from) {
            Ok(projects) => tracing::info!(%file, projects, "what the jobs of each project ask is read"),
            Err(error) => tracing::warn!(%file, %error, "what jobs ask could not be read; beginning anew"),
        }
    }

    /// What is to be written, if anything has changed.
    fn changed(&mut self) -> Option<String> {
        let before = self.written;
        let changed = self.resolver.jobs.habits(|habits| {
            let changes = habits.changes();
            (changes != before).then(|| (changes, habits.write()))
        });
        let (changes, text) = changed.filter(|_| self.is_on())?;
        self.written = changes;
        Some(text)
    }

    /// One line, however often it fails.
    fn tell(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => self.complained = false,
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(file = %self.file.display(), %error, "what jobs ask cannot be written");
                }
            }
        }
    }
}

fn text(file: &Path) -> Result<Vec<u8>, Useless> {
    let mut text = Vec::new();
    File::open(file)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST { Err(Useless::Long) } else { Ok(text) }
}

/// Puts a new file, which is called so for a moment, in the place of the old one. Nobody else may read it: projects may be private.
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
