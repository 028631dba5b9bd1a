//! `nodens status` and `nodens job`: fetch a page from the admin address of a running nodens and print it for people.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::config_file::load;
use super::outcome::CommandOutcome;
use crate::admin::text;

/// Admin address without a configuration.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9053);
/// Time limit for connecting, for each read and for each write.
const PATIENCE: Duration = Duration::from_secs(5);
/// Size limit of a response, in bytes.
const LONGEST: u64 = 64 << 20;

/// Show the state of a running nodens: each route with its servers, or the jobs that query it.
#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub(super) struct StatusArgs {
    /// Show how much each job asked
    #[arg(long)]
    jobs: bool,

    #[command(flatten)]
    whom: StatusTarget,

    /// Print JSON, as /api/v1/jobs returns it
    #[arg(long, requires = "jobs")]
    json: bool,
}

/// Show what one job or pod asked, how slow it was, and why it failed.
#[derive(Debug, Args)]
#[command(after_help = JOB_EXAMPLES)]
pub(super) struct JobArgs {
    /// Number of the job, name or UID of the pod; "unknown" for all clients without an identity
    #[arg(value_name = "ID|POD")]
    id: String,

    #[command(flatten)]
    whom: StatusTarget,

    /// Print JSON, as /api/v1/jobs/ID returns it
    #[arg(long)]
    json: bool,
}

/// The nodens to query.
#[derive(Debug, Args)]
struct StatusTarget {
    /// Admin address of nodens [default: that of --config, else 127.0.0.1:9053]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,

    /// Configuration file of the running nodens
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
}

const STATUS_EXAMPLES: &str = "\
Examples:
  nodens status                     routes, upstreams, servers
  nodens status --jobs              how much each job asked, and how much of it failed
  nodens status --admin 10.0.0.7:9053";

const JOB_EXAMPLES: &str = "\
Examples:
  nodens job 8123
  nodens job runner-t1abc-project-42-concurrent-0-x7k2m9qa --json";

impl StatusArgs {
    pub(super) fn run(&self) -> CommandOutcome {
        match self.jobs {
            false => self.whom.show("/readyz?verbose", |body| Some(body.to_owned())),
            true if self.json => self.whom.show("/api/v1/jobs", |body| Some(body.to_owned())),
            true => self.whom.show("/api/v1/jobs", |body| Some(text::jobs(&serde_json::from_str(body).ok()?))),
        }
    }
}

impl JobArgs {
    pub(super) fn run(&self) -> CommandOutcome {
        if !self.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
            return complain(&format!("{:?} is neither a job's number nor a pod's name or UID", self.id));
        }
        let path = format!("/api/v1/jobs/{}", self.id);
        match self.json {
            true => self.whom.show(&path, |body| Some(body.to_owned())),
            false => self.whom.show(&path, |body| Some(text::job(&serde_json::from_str(body).ok()?))),
        }
    }
}

impl StatusTarget {
    /// Fetches a page and prints what `show` makes of it.
    fn show(&self, path: &str, show: impl FnOnce(&str) -> Option<String>) -> CommandOutcome {
        let address = match (self.admin, &self.config) {
            (Some(address), _) => address,
            (None, Some(file)) => match load(file) {
                Ok(config) => match config.admin.listen.first() {
                    Some(address) => *address,
                    None => return complain(&format!("{}: it has no admin.listen", file.display())),
                },
                Err(unusable) => return unusable.complain(file),
            },
            (None, None) => DEFAULT_ADMIN,
        };
        match get(address, path) {
            Ok((200, body)) => match show(&body) {
                Some(text) => {
                    let _ = io::stdout().write_all(text.as_bytes()); // a closed stdout cannot be reported
                    CommandOutcome::Good
                }
                None => complain(&format!("{address} does not answer like a nodens")),
            },
            // Not ready; the page has the reason.
            Ok((503, body)) => {
                let _ = io::stdout().write_all(body.as_bytes()); // the exit code reports it too
                CommandOutcome::Failed
            }
            Ok((_, body)) => complain(body.trim_end()),
            Err(error) => complain(&format!("cannot ask {address}: {error}")),
        }
    }
}

fn complain(what: &str) -> CommandOutcome {
    let _ = writeln!(io::stderr(), "nodens: {what}"); // the exit code reports it too
    CommandOutcome::Failed
}

/// Returns the status and the body of a page.
fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // With HTTP/1.0, the body is not chunked and ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.take(LONGEST).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| broken("no response of HTTP"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| broken("no status of HTTP"))?, body.to_owned()))
}
