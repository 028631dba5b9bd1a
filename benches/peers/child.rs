//! Child processes: pinned to a CPU, in a process group of their own, and ended with this program.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Hidden argument that makes this program start another. It is followed by the parent's process ID, a CPU, the soft limit
/// of open files, the program and its arguments.
pub const START: &str = "start";

/// Time between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(2);

/// Running program. It ends when this is dropped, with all its children.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts a program in `dir`, on `cpu` and with the soft limit `open_files` if they are given. Its output goes to `log`.
    ///
    /// # Errors
    /// Returns an error if the system cannot start the program, or the log cannot be written.
    pub fn start(
        program: &Path,
        args: &[String],
        env: &[(&str, &str)],
        cpu: Option<usize>,
        open_files: Option<u64>,
        dir: &Path,
        log: &Path,
    ) -> io::Result<Self> {
        let log = File::create(log)?;
        let cpu = cpu.map_or("any".to_owned(), |cpu| cpu.to_string());
        let open_files = open_files.map_or("same".to_owned(), |limit| limit.to_string());
        let child = Command::new(std::env::current_exe()?)
            .args([START, &std::process::id().to_string(), &cpu, &open_files])
            .arg(program)
            .args(args)
            .envs(env.iter().copied())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        Ok(Self { child })
    }

    /// Returns the process group of the program and its children.
    pub fn group(&self) -> u32 {
        self.child.id()
    }

    /// Returns true if the program has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id() as i32);
        let _ = killpg(group, Signal::SIGTERM); // it may have ended by itself, here and below
        let since = Instant::now();
        while !self.has_ended() && since.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10));
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Becomes the program that the arguments name. The program gets SIGTERM when its parent ends, for whatever reason.
///
/// # Errors
/// Returns an error if the program cannot be pinned or started.
pub fn become_program(args: &[String]) -> io::Result<()> {
    let [parent, cpu, open_files, program, args @ ..] = args else { return Err(io::ErrorKind::InvalidInput.into()) };
    set_pdeathsig(Signal::SIGTERM)?;
    if parent.parse() != Ok(parent_id()) {
        return Ok(()); // the parent has ended already
    }
    if let Ok(cpu) = cpu.parse() {
        pin(cpu)?;
    }
    if let Ok(soft) = open_files.parse() {
        setrlimit(Resource::RLIMIT_NOFILE, soft, getrlimit(Resource::RLIMIT_NOFILE)?.1)?;
    }
    let error = Command::new(program).args(args).exec();
    Err(io::Error::new(error.kind(), format!("{program}: {error}")))
}

/// Pins this thread, and those that it starts, to one CPU.
///
/// # Errors
/// Returns an error if there is no such CPU, or this process may not use it.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
