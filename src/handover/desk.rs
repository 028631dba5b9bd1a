//! The side of the one that serves: gives its place to whoever asks for it, rests as long as that one lives, and speaks with
//! the one whose place it took itself.
//!
//! All of it is one thread that waits for: a new one that knocks, a word of the elder (who rests for this one), a word of the
//! heir (for whom this one rests), and commands of its own process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::channel::{Channel, LONGEST_BODY, Message};
use super::sockets::{Label, Sockets};
use super::take::{MOST_ENTRIES, hello, send_sockets};
use super::{PROTOCOL, START, STEP};
use crate::app::Host;
use crate::metrics::events::Kind;
use crate::server::{GRACE, Moved, Mover, Phase};
use crate::upstream::standing::wall_clock;

/// How long giving away the cache may take; the rest of it stays behind.
const PACKING: Duration = Duration::from_secs(2);
/// New ones that knock while one is being served.
const BACKLOG: i32 = 4;
/// How often connections that are still to move are looked at.
const MOVES_CHECK: Duration = Duration::from_millis(5);

/// What the process says to its desk.
enum Command {
    Moved(Moved),
    Leave(SyncSender<()>),
}

/// The way to a desk, before there is one and after.
pub struct Door {
    commands: Sender<Command>,
    heard: Receiver<Command>,
    bell: Arc<UnixStream>,
    rung: UnixStream,
}

/// Told with each change: what a supervisor must hold from now on, so that it outlives this process.
pub type Holder = Arc<dyn Fn(&Sockets) + Send + Sync>;

/// What a desk begins with.
pub struct Begin {
    /// The server.
    pub host: Host,
    /// Where new ones knock.
    pub listener: Option<OwnedFd>,
    /// The one that rests for this one.
    pub elder: Option<Channel>,
    /// The one for which this one rests.
    pub heir: Option<Channel>,
    /// Who must know of changes.
    pub holder: Holder,
}

/// The desk's thread.
pub struct Desk {
    commands: Sender<Command>,
    bell: Arc<UnixStream>,
    thread: JoinHandle<()>,
}

impl Door {
    /// A door that leads nowhere yet.
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

    /// Takes connections to the desk.
    pub fn mover(&self) -> Mover {
        let (commands, bell) = (self.commands.clone(), Arc::clone(&self.bell));
        Arc::new(move |moved| {
            // Without a desk any more, the connection is closed.
            let _ = commands.send(Command::Moved(moved));
            ring(&bell);
        })
    }

    /// Opens the desk behind it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn open(self, begin: Begin) -> io::Result<Desk> {
        let Self { commands, heard, bell, rung } = self;
        let Begin { host, listener, elder, heir, holder } = begin;
        let state = State { host, listener: listener.map(Arc::new), elder, heir, leaving: false, holder, heard, rung };
        state.hold();
        let thread = thread::Builder::new().name("nodens-handover".into()).spawn(move || state.run())?;
        Ok(Desk { commands, bell, thread })
    }
}

impl Desk {
    /// The process is about to stop: gives the place back to the elder, or lets connections go to the heir. Returns once that
    /// is done, or cannot be.
    pub fn leave(self) {
        let (done, wait) = sync_channel(1);
        if self.commands.send(Command::Leave(done)).is_ok() {
            ring(&self.bell);
            if wait.recv_timeout(STEP + 2 * GRACE).is_ok() {
                let _ = self.thread.join();
            }
        }
    }
}

fn ring(bell: &UnixStream) {
    // If it is full, it rings already.
    let _ = io::Write::write(&mut &*bell, &[0]);
}

/// Listens for new ones at `path`, in a directory that only this user may enter.
///
/// # Errors
/// The directory cannot be made, or there is something else of that name.
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

struct State {
    host: Host,
    listener: Option<Arc<OwnedFd>>,
    elder: Option<Channel>,
    heir: Option<Channel>,
    /// Whether the heir has said that it leaves.
    leaving: bool,
    holder: Holder,
    heard: Receiver<Command>,
    rung: UnixStream,
}

impl State {
    fn run(mut self) {
        loop {
            let [knocks, elder, heir] = self.wait();
            let _ = io::Read::read(&mut self.rung, &mut [0; 64]);
            while let Ok(command) = self.heard.try_recv() {
                match command {
                    Command::Moved(moved) => self.send_on(moved),
                    Command::Leave(done) => {
                        self.leave();
                        let _ = done.send(());
                        return;
                    }
                }
            }
            if heir {
                self.hear_heir();
            }
            if elder {
                self.hear_elder();
            }
            if knocks {
                self.admit();
            }
        }
    }

    /// Waits for something to do: who has said something.
    fn wait(&self) -> [bool; 3] {
        // One that rests has nothing to give away.
        let serves = self.host.phase() == Phase::Serving;
        let others = [
            self.listener.as_deref().filter(|_| serves).map(AsFd::as_fd),
            self.elder.as_ref().map(AsFd::as_fd),
            self.heir.as_ref().map(AsFd::as_fd),
        ];
        let mut all = vec![PollFd::new(self.rung.as_fd(), PollFlags::POLLIN)];
        all.extend(others.iter().flatten().map(|other| PollFd::new(*other, PollFlags::POLLIN)));
        if poll(&mut all, PollTimeout::NONE).is_err() {
            // A signal, most likely.
            return [false; 3];
        }
        let mut said = all.iter().skip(1).map(|one| one.any().unwrap_or(false));
        others.map(|other| other.is_some() && said.next().unwrap_or(false))
    }

    /// Somebody knocks: gives away the place, if all goes well.
    fn admit(&mut self) {
        let Some(listener) = &self.listener else { return };
        let accepted = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC);
        let Ok(new) = accepted.map(Channel::of) else { return };
        match self.give(&new) {
            Ok(true) => {
                self.tell(Kind::HandedOver, "");
                self.host.turn_to(Phase::Resting);
                let _ = new.set_patience(STEP);
                self.heir = Some(new);
                self.hold();
            }
            Ok(false) => {}
            Err(error) => self.tell(Kind::HandoverFailed, &format!("the new one gave up: {error}")),
        }
    }

    /// Gives everything to a new one; whether it has said that it is ready.
    fn give(&self, new: &Channel) -> io::Result<bool> {
        new.set_patience(STEP)?;
        let refuse = |why: String| {
            self.tell(Kind::HandoverFailed, &why);
            // It may be gone already.
            let _ = new.send(&Message::Refused { why });
            Ok(false)
        };
        let uid = new.peer_uid()?;
        if !is_trusted(uid) {
            return refuse(format!("user {uid} may not ask"));
        }
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        match new.receive()?.ok_or_else(gone)?.message {
            Message::Hello { protocol: PROTOCOL, .. } => {}
            Message::Hello { protocol, version } => {
                return refuse(format!("version {version} speaks protocol {protocol}, not {PROTOCOL}"));
            }
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
        new.send(&hello())?;
        send_sockets(new, &self.host.sockets)?;
        if let Some(listener) = &self.listener {
            new.send_with(&Message::Socket(Label::Handover), &[], Some(listener.as_fd()))?;
        }
        let (deadline, mut bytes, mut failed) = (Instant::now() + PACKING, 0, None);
        self.host.resolver.cache.pack(self.host.resolver.now(), LONGEST_BODY, |part| {
            bytes += part.len();
            failed = new.send_with(&Message::Entries, part, None).err();
            failed.is_none() && bytes < MOST_ENTRIES && Instant::now() < deadline
        });
        failed.map_or(Ok(()), Err)?;
        new.send(&Message::Complete)?;
        new.set_patience(START)?;
        Ok(new.receive()?.ok_or_else(gone)?.message == Message::Ready)
    }

    /// A connection has nothing in flight any more: it goes to the one that serves.
    fn send_on(&mut self, moved: Moved) {
        if self.host.phase() == Phase::Serving {
            return self.host.adopt(moved);
        }
        // In a leaving process the elder serves again.
        let other = if self.leaving { &self.elder } else { &self.heir };
        if let Some(other) = other {
            let message = Message::Connection { client: moved.client };
            // If the other one is gone, so is the connection: the client makes a new one.
            let _ = other.send_with(&message, &moved.rest, Some(moved.stream.as_fd()));
        }
    }

    fn hear_elder(&mut self) {
        if self.elder.as_ref().is_some_and(|elder| hear(elder, &self.host).is_none_or(|heard| heard.is_err())) {
            self.elder = None;
            self.hold();
        }
    }

    fn hear_heir(&mut self) {
        let Some(heir) = &self.heir else { return };
        match hear(heir, &self.host) {
            Some(Ok(Message::Back)) => {
                self.host.turn_to(Phase::Serving);
                let _ = heir.send(&Message::Resumed);
                self.tell(Kind::TookBack, "the other one is about to stop");
                self.hold();
            }
            Some(Ok(Message::Released)) => {
                self.heir = None;
                self.hold();
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                self.heir = None;
                if self.host.phase() == Phase::Resting {
                    self.host.turn_to(Phase::Serving);
                    self.tell(Kind::TookBack, "the other one is gone");
                }
                self.hold();
            }
        }
    }

    /// The process is about to stop.
    fn leave(&mut self) {
        match self.host.phase() {
            Phase::Serving => {
                if self.gives_back() {
                    self.leaving = true;
                    self.host.turn_to(Phase::Resting);
                    self.let_connections_go();
                }
            }
            Phase::Resting => {
                if let Some(elder) = &self.elder {
                    let _ = elder.send(&Message::Released);
                }
                self.let_connections_go();
            }
            Phase::Stopping => {}
        }
    }

    /// Asks the elder, if there is one, to take queries again; whether it does.
    fn gives_back(&mut self) -> bool {
        let Some(elder) = &self.elder else { return false };
        if elder.set_patience(STEP).is_err() || elder.send(&Message::Back).is_err() {
            return false;
        }
        loop {
            match hear(elder, &self.host) {
                Some(Ok(Message::Resumed)) => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    }

    /// Waits until no client's connection is left, as long as queries in flight may take.
    fn let_connections_go(&mut self) {
        let deadline = Instant::now() + GRACE;
        loop {
            match self.heard.recv_timeout(MOVES_CHECK) {
                Ok(Command::Moved(moved)) => self.send_on(moved),
                Ok(Command::Leave(_)) => {}
                Err(_) if self.host.resolver.metrics.tcp_connections.get() <= 0 || Instant::now() > deadline => return,
                Err(_) => {}
            }
        }
    }

    /// Tells the supervisor what to hold.
    fn hold(&self) {
        let mut sockets = self.host.sockets.clone();
        if let Some(Ok(listener)) = self.listener.as_deref().map(OwnedFd::try_clone) {
            sockets.put(Label::Handover, listener);
        }
        for (label, other) in [(Label::Elder, &self.elder), (Label::Heir, &self.heir)] {
            if let Some(Ok(other)) = other.as_ref().map(Channel::try_clone) {
                sockets.put(label, other.into_descriptor());
            }
        }
        (self.holder)(&sockets);
    }

    fn tell(&self, kind: Kind, reason: &str) {
        self.host.resolver.metrics.events.tell(wall_clock(), kind, (None, None), reason);
    }
}

/// Takes one message; connections find their way by themselves. None: the other side is gone.
fn hear(other: &Channel, host: &Host) -> Option<io::Result<Message>> {
    let got = match other.receive() {
        Ok(got) => got?,
        Err(error) => return Some(Err(error)),
    };
    if let (Message::Connection { client }, Some(socket)) = (&got.message, got.socket) {
        host.adopt(Moved { stream: socket.into(), client: *client, rest: got.body });
    }
    Some(Ok(got.message))
}

/// Whether a process of this user may have the sockets: root's, or one of the same user.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_same_user_are_trusted() {
        let own = geteuid().as_raw();
        assert!(is_trusted(0) && is_trusted(own) && !is_trusted(own + 1_000));
    }

    #[test]
    fn the_socket_is_for_this_user_alone_and_replaces_only_a_socket() {
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
