//! `nodens node`: shows what nodens has configured on the node, prepares it, and removes what a killed nodens has left.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::config_file::load;
use super::outcome::CommandOutcome;
use crate::node::state::{AddressState, FallbackState, NodeState};
use crate::node::{self, NodeNetwork, ipv6};

/// Port that is checked for a running nodens if no configuration is given.
const PORT: u16 = 53;

/// Show, prepare or remove the addresses and the firewall of this node that [node] in the configuration defines.
#[derive(Debug, Args)]
pub(super) struct NodeCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Status(NodeStatusArgs),
    Prepare(Prepare),
    Cleanup(Cleanup),
}

/// Show which addresses and firewall rules of [node] are present, and the firewall's counters; exit code 1 if one is missing.
#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
struct NodeStatusArgs {
    /// Configuration file of the running nodens
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Put the addresses and the fallback of [node] on a node that has no nodens yet: the fallback answers until nodens serves.
///
/// For the boot of a node, before the kubelet starts. The command needs CAP_NET_ADMIN, and shows the state of the node as `status`
/// does. It changes nothing while nodens serves, and refuses if another program listens on the addresses.
#[derive(Debug, Args)]
#[command(after_help = PREPARE_EXAMPLES)]
struct Prepare {
    /// Configuration file of the nodens that will run
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Remove what a killed nodens has left on the node: its nftables table, its link and its addresses.
///
/// Nothing else is removed. The command needs CAP_NET_ADMIN. It refuses while a nodens serves on the addresses, because that
/// nodens would restore them at once.
#[derive(Debug, Args)]
#[command(after_help = CLEANUP_EXAMPLES)]
struct Cleanup {
    /// Configuration file of that nodens, to remove only its addresses [default: all that are known to be of nodens]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Remove them even while something listens on the addresses
    #[arg(long)]
    force: bool,
}

const STATUS_EXAMPLES: &str = "\
Examples:
  nodens node status --config /etc/nodens/nodens.toml";

const PREPARE_EXAMPLES: &str = "\
Examples:
  nodens node prepare --config /etc/nodens/nodens.toml";

const CLEANUP_EXAMPLES: &str = "\
Examples:
  nodens node cleanup
  nodens node cleanup --config /etc/nodens/nodens.toml";

impl NodeCommand {
    pub(super) fn run(&self) -> CommandOutcome {
        match &self.command {
            What::Status(status) => status.run(),
            What::Prepare(prepare) => prepare.run(),
            What::Cleanup(cleanup) => cleanup.run(),
        }
    }
}

impl NodeStatusArgs {
    fn run(&self) -> CommandOutcome {
        match network(&self.config) {
            Ok(Some(node)) => show(&node),
            Ok(None) => say("nothing: the configuration has no [node]\n", CommandOutcome::Good),
            Err(outcome) => outcome,
        }
    }
}

impl Prepare {
    fn run(&self) -> CommandOutcome {
        match network(&self.config) {
            Ok(Some(node)) => match node.prepare() {
                Ok(()) => show(&node),
                Err(error) => complain(&error),
            },
            Ok(None) => complain(&"the configuration has no [node]: there is nothing to prepare"),
            Err(outcome) => outcome,
        }
    }
}

/// Reads the node's network from a configuration file, without IPv6 if that is switched off.
fn network(file: &Path) -> Result<Option<NodeNetwork>, CommandOutcome> {
    let mut config = load(file).map_err(|unusable| unusable.complain(file))?;
    ipv6::leave_out(&mut config);
    Ok(NodeNetwork::of(&config))
}

/// Shows the state of the node; it is good if all is as configured.
fn show(node: &NodeNetwork) -> CommandOutcome {
    match node.state() {
        Ok(state) => say(&table(&state), if state.is_good() { CommandOutcome::Good } else { CommandOutcome::Failed }),
        Err(error) => complain(&error),
    }
}

/// Renders the state, one item a line.
fn table(state: &NodeState) -> String {
    let mut text = String::new();
    for AddressState { ip, link, is_own, taken_over } in &state.addresses {
        let how = match (link, is_own) {
            (Some(link), true) => format!("on {link}"),
            (Some(link), false) => format!("on {link}, not put there by nodens: it stays when nodens stops"),
            (None, _) => "missing".to_owned(),
        };
        let other = taken_over.as_ref().map(|link| format!("; another program has it on {link}"));
        text.push_str(&format!("address   {ip}  {how}{}\n", other.unwrap_or_default()));
    }
    let counts = state.counts;
    text.push_str(&match state.firewall {
        Some(true) => {
            format!(
                "firewall  in place: {} packets of queries, {} of responses untracked\n",
                counts.queries, counts.responses
            )
        }
        Some(false) => "firewall  missing, or changed by another program\n".to_owned(),
        None => "firewall  none is asked for, or the kernel has none\n".to_owned(),
    });
    if let Some(FallbackState { servers, is_in_use }) = &state.fallback {
        let servers = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let how = if *is_in_use { "in use: nodens does not serve" } else { "ready" };
        text.push_str(&format!("fallback  {servers}  {how}, {} packets since the last start\n", counts.fallback));
    }
    if state.is_fallback_refused {
        text.push_str("fallback  none: the kernel refuses it\n");
    }
    text.extend(state.dropping.iter().map(|chain| format!("warning   {chain}\n")));
    text
}

impl Cleanup {
    fn run(&self) -> CommandOutcome {
        let config =
            self.config.as_ref().map(|file| load(file).map_err(|unusable| unusable.complain(file))).transpose();
        let settings = match config {
            Ok(config) => config.map(|config| config.node),
            Err(outcome) => return outcome,
        };
        let (addresses, listen): (Vec<IpAddr>, Vec<SocketAddr>) = match settings {
            Some(None) => return say("nothing to remove: the configuration has no [node]\n", CommandOutcome::Good),
            Some(Some(settings)) => (settings.addresses, settings.listen),
            None => match node::own_addresses() {
                Ok(own) => (Vec::new(), own.into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect()),
                Err(error) => return complain(&error),
            },
        };
        let busy = |listen: &&SocketAddr| {
            UdpSocket::bind(**listen).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        };
        if let Some(listen) = listen.iter().find(busy).filter(|_| !self.force) {
            return complain(&format!(
                "a process listens on {listen}: stop it first if it is nodens; --force removes what nodens has added in any case"
            ));
        }
        match node::remove(&addresses) {
            Ok(removed) if removed.is_empty() => say("nothing to remove\n", CommandOutcome::Good),
            Ok(removed) => {
                say(&removed.iter().map(|what| format!("removed {what}\n")).collect::<String>(), CommandOutcome::Good)
            }
            Err(error) => complain(&error),
        }
    }
}

fn say(text: &str, outcome: CommandOutcome) -> CommandOutcome {
    let _ = io::stdout().write_all(text.as_bytes()); // a closed stdout cannot be reported
    outcome
}

fn complain(error: &dyn std::fmt::Display) -> CommandOutcome {
    let _ = writeln!(io::stderr(), "nodens: {error}"); // the exit code reports it too
    CommandOutcome::Failed
}
