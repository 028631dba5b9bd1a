//! `nodens schema`: the JSON Schema of the configuration file.

use std::io::{self, Write};

use clap::Args;

use super::CommandOutcome;
use crate::config::outline::json_schema;

/// Print the JSON Schema of the configuration file, for editors and validators.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Schema {}

const EXAMPLES: &str = "\
Examples:
  nodens schema > nodens.schema.json
  taplo lint --schema file://$PWD/nodens.schema.json nodens.toml

With this as its first line, a file is completed and checked in editors that use Taplo:
  #:schema ./nodens.schema.json

The schema knows keys, forms and bounds of numbers. Only `nodens check` finds all mistakes.";

impl Schema {
    pub(super) fn run(&self) -> CommandOutcome {
        match io::stdout().write_all(json_schema().as_bytes()) {
            Ok(()) => CommandOutcome::Good,
            Err(_) => CommandOutcome::Failed,
        }
    }
}
