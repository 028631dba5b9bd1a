//! Reads the hosts files that a configuration names, and detects changes in them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::hosts::HostsPath;

/// Limit on the files that are read.
const MOST_FILES: usize = 256;
/// Limit on the bytes that are read from all files; the rest is ignored.
const MOST_BYTES: u64 = 16 << 20;

/// Path of a file, and its size, inode and change time (seconds, nanoseconds) if it exists.
pub(super) type FileStamp = (PathBuf, Option<[i64; 4]>);

/// Returns the paths and texts of the files, in the order of the configuration; the files of one directory are sorted by
/// name. Files that cannot be read are logged and left out.
pub(super) fn read(paths: &[HostsPath]) -> Vec<(String, String)> {
    let mut left = MOST_BYTES;
    let mut files = Vec::new();
    for path in found(paths) {
        match read_file(&path, left) {
            Ok(text) => {
                left = left.saturating_sub(text.len() as u64);
                files.push((path.display().to_string(), text));
            }
            Err(error) => tracing::warn!("cannot read the hosts file {}: {error}", path.display()),
        }
    }
    files
}

/// Returns a stamp for each file. Stamps differ if a file was changed, added or removed in between.
pub(super) fn stamps(paths: &[HostsPath]) -> Vec<FileStamp> {
    let stamp = |path: PathBuf| {
        let metadata = fs::metadata(&path).ok();
        let of = |file: fs::Metadata| [file.len() as i64, file.ino() as i64, file.ctime(), file.ctime_nsec()];
        (path, metadata.map(of))
    };
    found(paths).into_iter().map(stamp).collect()
}

fn found(paths: &[HostsPath]) -> Vec<PathBuf> {
    let each = |path: &HostsPath| match path.single() {
        Some(file) => vec![file],
        None => in_directory(path),
    };
    paths.iter().flat_map(each).take(MOST_FILES).collect()
}

fn in_directory(path: &HostsPath) -> Vec<PathBuf> {
    let entries = fs::read_dir(&path.directory).into_iter().flatten().flatten();
    let fits = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| path.fits(name));
    let mut files: Vec<_> = entries.filter(|entry| fits(&entry.file_name())).map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn read_file(path: &Path, most: u64) -> std::io::Result<String> {
    // Opening a named pipe blocks until it has a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    // Comments may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
