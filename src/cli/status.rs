//! `nodens status` and `nodens job`: asks a nodens that runs, over its admin address, and shows the answer to people.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::Outcome;
use super::config_file::load;

/// Where the admin pages are without a configuration.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9353);
/// How long connecting and each read may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest response that is read.
const LONGEST: u64 = 64 << 20;

/// Show how a nodens that runs is doing: each route and its servers, or the jobs that ask it.
#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub(super) struct Status {
    /// Show who asked how much
    #[arg(long)]
    jobs: bool,

    #[command(flatten)]
    whom: Whom,

    /// JSON, as /api/v1/jobs gives it
    #[arg(long, requires = "jobs")]
    json: bool,
}

/// Show what one job or pod asked, how slow it was, and why it failed.
#[derive(Debug, Args)]
#[command(after_help = JOB_EXAMPLES)]
pub(super) struct Job {
    /// The job's number, the pod's name or its UID; "unknown": all that are not known
    #[arg(value_name = "ID|POD")]
    id: String,

    #[command(flatten)]
    whom: Whom,

    /// JSON, as /api/v1/jobs/ID gives it
    #[arg(long)]
    json: bool,
}

/// Which nodens is asked.
#[derive(Debug, Args)]
struct Whom {
    /// Its admin address [default: that of --config, else 127.0.0.1:9353]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,

    /// The TOML file that it runs with
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
}

const STATUS_EXAMPLES: &str = "\
Examples:
  nodens status                     routes, upstreams, servers
  nodens status --jobs              who asked how much, and how much of it failed
  nodens status --admin 10.0.0.7:9353";

const JOB_EXAMPLES: &str = "\
Examples:
  nodens job 8123
  nodens job runner-t1abc-project-42-concurrent-0-x7k2m9qa --json";

impl Status {
    /// Shows it.
    pub(super) fn run(&self) -> Outcome {
        match self.jobs {
            false => self.whom.show("/readyz?verbose", |body| Some(body.to_owned())),
            true if self.json => self.whom.show("/api/v1/jobs", |body| Some(body.to_owned())),
            true => self.whom.show("/api/v1/jobs", |body| Some(jobs(&serde_json::from_str(body).ok()?))),
        }
    }
}

impl Job {
    /// Shows it.
    pub(super) fn run(&self) -> Outcome {
        if !self.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
            return complain(&format!("{:?} is neither a job's number nor a pod's name or UID", self.id));
        }
        let path = format!("/api/v1/jobs/{}", self.id);
        match self.json {
            true => self.whom.show(&path, |body| Some(body.to_owned())),
            false => self.whom.show(&path, |body| Some(job(&serde_json::from_str(body).ok()?))),
        }
    }
}

impl Whom {
    /// Gets a page and writes what `show` makes of it.
    fn show(&self, path: &str, show: impl FnOnce(&str) -> Option<String>) -> Outcome {
        let address = match (self.admin, &self.config) {
            (Some(address), _) => address,
            (None, Some(file)) => match load(file) {
                Ok(config) => match config.admin {
                    Some(address) => address,
                    None => return complain(&format!("{}: it has no admin.listen", file.display())),
                },
                Err(unusable) => return unusable.complain(file),
            },
            (None, None) => DEFAULT_ADMIN,
        };
        match get(address, path) {
            Ok((200, body)) => match show(&body) {
                Some(text) => {
                    let _ = io::stdout().write_all(text.as_bytes()); // if nobody listens, nobody misses it
                    Outcome::Good
                }
                None => complain(&format!("{address} does not answer like a nodens")),
            },
            // Not ready: its page says why.
            Ok((_, body)) => complain(body.trim_end()),
            Err(error) => complain(&format!("cannot ask {address}: {error}")),
        }
    }
}

fn complain(what: &str) -> Outcome {
    let _ = writeln!(io::stderr(), "nodens: {what}"); // the exit code says it as well
    Outcome::Failed
}

/// The status and the body of a page.
fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // HTTP/1.0: the body then comes in one piece and ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.take(LONGEST).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| broken("no response of HTTP"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| broken("no status of HTTP"))?, body.to_owned()))
}

/// A line for each job.
fn jobs(list: &Value) -> String {
    let none = Vec::new();
    let jobs = list["jobs"].as_array().unwrap_or(&none);
    let mut text = format!("{:>9} {:>7} {:>7} {:>7}  {}\n", "queries", "failed", "search", "last", "who");
    for job in jobs {
        let number = |key: &str| job[key].as_u64().unwrap_or(0);
        let last = format!("{:.0} s", job["last_age_seconds"].as_f64().unwrap_or(0.0));
        let (queries, failed, search) = (number("queries"), number("failed"), number("search_list_queries"));
        let _ = writeln!(text, "{queries:>9} {failed:>7} {search:>7} {last:>7}  {}", who(job)); // a String takes all
    }
    if let Some(dropped @ 1..) = list["dropped"].as_u64() {
        let _ = writeln!(text, "{dropped} notes found no room and are missing here");
    }
    text
}

/// One job on a page.
fn job(job: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut text = format!("{}\n", who(job));
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("  queries   {} ({} failed)", job["queries"], job["failed"]));
    for (key, label) in [("by_route", "routes"), ("by_rcode", "codes"), ("by_source", "from")] {
        let parts = job[key].as_object().into_iter().flatten().map(|(key, value)| format!("{key} {value}"));
        line(format!("  {label:<9} {}", parts.collect::<Vec<_>>().join(", ")));
    }
    let search = &job["search_list"];
    if search["queries"].as_u64().is_some_and(|queries| queries > 0) {
        line(format!(
            "  search    {} of {} queries were for names with a suffix of the search list; a final dot, or ndots: 1, spares \
             them",
            search["queries"], job["queries"]
        ));
        for meant in list(&search["names"]).iter().take(5) {
            line(format!("            {:>5} for {}", meant["queries"], word(&meant["name"])));
        }
    }
    line("  failures".to_string());
    for failure in list(&job["failures"]) {
        let (name, kind, times) = (word(&failure["name"]), word(&failure["type"]), &failure["queries"]);
        line(format!("    {times}x {name} {kind}: {}", word(&failure["cause"])));
        line(format!("      {}", word(&failure["explanation"])));
    }
    if list(&job["failures"]).is_empty() {
        line("    none".to_string());
    }
    line("  slowest".to_string());
    for slow in list(&job["slowest"]).iter().take(5) {
        let millis = slow["seconds"].as_f64().unwrap_or(0.0) * 1_000.0;
        let (name, kind, route) = (word(&slow["name"]), word(&slow["type"]), word(&slow["route"]));
        line(format!("    {millis:>8.1} ms  {name} {kind} by route {route}"));
    }
    text
}

fn who(job: &Value) -> String {
    let mut text = word(&job["name"]);
    for (key, before) in [("kind", ", "), ("namespace", ", namespace "), ("job_id", ", job ")] {
        if let Some(value) = job[key].as_str() {
            text.push_str(before);
            text.push_str(&plain(value));
        }
    }
    text
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_string(), plain)
}

/// Jobs name themselves and what they ask: no control character of theirs reaches a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say_of_themselves_does_not_steer_the_terminal() {
        let text = jobs(&serde_json::json!({ "jobs": [{ "name": "a\u{1b}[2J", "queries": 3 }] }));
        assert!(text.ends_with("  a\u{fffd}[2J\n") && text.contains("3"), "{text:?}");
    }
}
