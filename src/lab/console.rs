//! Commands that break and repair the servers of a running network, one a line.

use std::collections::HashMap;

use super::LabNetwork;
use super::fault::Behaviour;
use crate::wire::rcode;

/// Description of all commands.
pub(crate) const HELP: &str = "\
kill NAME     it receives queries and never answers
close NAME    its port is closed
fail NAME     it answers SERVFAIL
slow NAME     it takes fifty times as long
heal NAME     it answers as before; \"heal all\" heals them all
status        what each upstream does, and how many queries it saw
quit          end the lab (so does Ctrl-C)";

/// Command interpreter for one network.
#[derive(Debug)]
pub(crate) struct Console<'n> {
    network: &'n LabNetwork,
    broken: HashMap<&'static str, &'static str>,
}

/// Result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CommandResult {
    Say(String),
    /// End of the lab.
    Quit,
}

impl<'n> Console<'n> {
    /// Creates a console for a network without broken servers.
    pub(crate) fn new(network: &'n LabNetwork) -> Self {
        Self { network, broken: HashMap::new() }
    }

    /// Executes a command. For an unknown command, returns the help text.
    pub(crate) async fn obey(&mut self, line: &str) -> CommandResult {
        let words: Vec<_> = line.split_whitespace().collect();
        let said = match words.as_slice() {
            ["quit" | "exit" | "q"] => return CommandResult::Quit,
            ["status" | "s"] => self.status(),
            ["heal", "all"] => {
                let mut healed = Vec::new();
                for server in self.network.servers() {
                    healed.push(self.change("heal", server.name).await);
                }
                healed.join("\n")
            }
            [verb @ ("kill" | "close" | "fail" | "slow" | "heal"), name] => self.change(verb, name).await,
            _ => HELP.to_owned(),
        };
        CommandResult::Say(said)
    }

    async fn change(&mut self, verb: &str, name: &str) -> String {
        let Some(server) = self.network.servers().iter().find(|server| server.name == name) else {
            let names: Vec<_> = self.network.servers().iter().map(|server| server.name).collect();
            return format!("no upstream is called {name}; there are {}", names.join(", "));
        };
        let (behaviour, state) = match verb {
            "kill" => (Behaviour::silent(), Some("silent")),
            "fail" => (Behaviour::rcode(rcode::SERVFAIL), Some("answers SERVFAIL")),
            "slow" => (Behaviour::normal().slower(50), Some("slow")),
            "close" => (Behaviour::normal(), Some("closed")),
            _ => (Behaviour::normal(), None),
        };
        server.upstream.set(behaviour);
        if verb == "close" {
            server.upstream.stop().await;
        } else if let Err(error) = server.upstream.restart() {
            return format!("{name} cannot listen again on {}: {error}", server.upstream.address());
        }
        match state {
            Some(state) => self.broken.insert(server.name, state),
            None => self.broken.remove(server.name),
        };
        format!("{name}: {}", state.unwrap_or("answers"))
    }

    fn status(&self) -> String {
        let line = |server: &super::LabServer| {
            let state = self.broken.get(server.name).copied().unwrap_or("answers");
            let upstream = &server.upstream;
            format!("{:<10} {:<21} {state:<17} {} queries", server.name, upstream.address(), upstream.seen_count())
        };
        self.network.servers().iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::client::{LabQuery, ask};
    use super::*;

    async fn say(console: &mut Console<'_>, line: &str) -> String {
        match console.obey(line).await {
            CommandResult::Say(said) => said,
            CommandResult::Quit => panic!("{line} quits"),
        }
    }

    #[tokio::test]
    async fn upstreams_break_and_heal_on_command() {
        let network = LabNetwork::start().await.unwrap();
        let mut console = Console::new(&network);
        let address = network.server("vpc-1").unwrap().address();
        let question = LabQuery::new("db.corp.example", "A").unwrap();

        assert_eq!(say(&mut console, "close vpc-1").await, "vpc-1: closed");
        assert!(ask(address, &question).await.is_err());
        assert!(say(&mut console, "status").await.contains("closed"));
        assert_eq!(say(&mut console, " fail  vpc-1").await, "vpc-1: answers SERVFAIL");
        assert!(ask(address, &question).await.unwrap().message.answers.is_empty());
        assert!(say(&mut console, "heal all").await.contains("vpc-1: answers"));
        assert_eq!(ask(address, &question).await.unwrap().message.answers.len(), 1);

        assert!(say(&mut console, "kill bill").await.contains("there are kube-dns, vpc-1"));
        assert_eq!(say(&mut console, "what?").await, HELP);
        assert_eq!(console.obey("quit").await, CommandResult::Quit);
    }
}
