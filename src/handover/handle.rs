//! Access to the handover server: the socket to which successors connect, and the handles for this process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;
use std::{fs, thread};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::STEP;
use super::channel::Channel;
pub use super::handover_server::FdStore;
use super::handover_server::{HandoverCommand, HandoverState};
use crate::app::ServerHandle;
use crate::server::{ConnectionSink, GRACE};

/// Most successors that wait to be accepted.
const BACKLOG: i32 = 16;

/// Handle for a handover server that is not running yet.
pub struct HandoverHandle {
    commands: Sender<HandoverCommand>,
    heard: Receiver<HandoverCommand>,
    bell: Arc<UnixStream>,
    rung: UnixStream,
}

/// Parameters of a handover server.
pub struct Params {
    pub(crate) host: ServerHandle,
    /// The socket to which successors connect.
    pub listener: Option<OwnedFd>,
    /// Channel to the predecessor, which is in standby.
    pub predecessor: Option<Channel>,
    /// True if the predecessor may still read queries or have connections to transfer.
    pub has_just_taken_over: bool,
    /// Channel to the successor for which this process is in standby.
    pub successor: Option<Channel>,
    /// Callback for changes of the sockets that must outlive this process.
    pub holder: FdStore,
}

/// The thread of the handover server.
pub struct HandoverServer {
    commands: Sender<HandoverCommand>,
    bell: Arc<UnixStream>,
    thread: JoinHandle<()>,
}

impl HandoverHandle {
    /// Creates a handle without a server.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let (bell, rung) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        let (commands, heard) = channel();
        Ok(Self { commands, heard, bell: Arc::new(bell), rung })
    }

    /// Returns a function that sends connections to the handover server.
    pub fn connection_sink(&self) -> ConnectionSink {
        let (commands, bell) = (self.commands.clone(), Arc::clone(&self.bell));
        Arc::new(move |moved| {
            // After the server has ended, the connection is closed.
            let _ = commands.send(HandoverCommand::Moved(moved));
            ring(&bell);
        })
    }

    /// Starts the handover server.
    ///
    /// # Errors
    /// The system provides no thread.
    pub fn open(self, begin: Params) -> io::Result<HandoverServer> {
        let Self { commands, heard, bell, rung } = self;
        let Params { host, listener, predecessor, has_just_taken_over, successor, holder } = begin;
        let awaits_predecessor = (has_just_taken_over && predecessor.is_some()).then(|| Instant::now() + 2 * GRACE);
        let settling = successor.is_some().then(|| Instant::now() + GRACE);
        let state = HandoverState {
            host,
            listener: listener.map(Arc::new),
            predecessor,
            successor,
            awaits_predecessor,
            // A worker that died may have left connections to transfer.
            settling,
            announce: None,
            leaving: false,
            holder,
            heard,
            rung,
        };
        state.hold();
        let thread = thread::Builder::new().name("nodens-handover".into()).spawn(move || state.run())?;
        Ok(HandoverServer { commands, bell, thread })
    }
}

impl HandoverServer {
    /// Prepares the end of the process: has the predecessor serve again, or transfers connections to the successor. Returns true
    /// when that is done or has failed, and false if a successor that is still starting has kept it from being done in time.
    pub fn leave(self) -> bool {
        let (done, wait) = sync_channel(1);
        if self.commands.send(HandoverCommand::Leave(done)).is_err() {
            return true;
        }
        ring(&self.bell);
        let in_time = wait.recv_timeout(STEP + 2 * GRACE) != Err(RecvTimeoutError::Timeout);
        if in_time {
            let _ = self.thread.join();
        }
        in_time
    }
}

fn ring(bell: &UnixStream) {
    // A full socket already wakes the thread.
    let _ = io::Write::write(&mut &*bell, &[0]);
}

/// Returns whether this socket listens at `path`.
pub fn listens_at(listener: &OwnedFd, path: &Path) -> bool {
    SockRef::from(listener).local_addr().is_ok_and(|address| address.as_pathname() == Some(path))
}

/// Listens for successors at `path`, in a directory that only this user may enter.
///
/// # Errors
/// The directory cannot be created, or `path` exists and is no socket.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there, and no socket")),
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_private_and_replaces_only_sockets() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("nodens-desk-{}", std::process::id()));
        let path = dir.join("run/handover.sock");
        for _ in 0..2 {
            drop(listen(&path).expect("listens"));
        }
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir.join("run"))), (0o600, 0o700));
        fs::remove_file(&path).expect("removes");
        fs::write(&path, "mine").expect("writes");
        assert!(listen(&path).is_err());
        assert_eq!(fs::read(&path).expect("reads"), b"mine");
        fs::remove_dir_all(&dir).expect("removes");
    }
}
