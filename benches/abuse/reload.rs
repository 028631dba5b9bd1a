//! Reloads of a large configuration, one after the other.

use std::fs;
use std::io;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::attack::Target;

/// Pause between two reloads.
const PAUSE: Duration = Duration::from_millis(500);
/// Number of records in the configuration.
const RECORDS: usize = 20_000;
/// Number of views, each of which inherits all records: as many as nodens allows.
const VIEWS: usize = 32;

/// Returns the text that makes the configuration of nodens large.
pub fn large() -> String {
    let mut text = String::new();
    for number in 0..RECORDS {
        let (high, low) = (number / 250, number % 250);
        text +=
            &format!("[[record]]\nname = \"n{number}.corp.example\"\ntype = \"A\"\nvalue = \"10.0.{high}.{low}\"\n");
    }
    for number in 0..VIEWS {
        text +=
            &format!("[[view]]\nname = \"v{number}\"\nnamespaces = [\"n{number}\"]\ndeny = [\"d{number}.example\"]\n");
    }
    text
}

/// Changes a record and makes the process reload its configuration, twice a second until the attack is over.
pub fn repeat(target: &Target) -> io::Result<()> {
    let text = fs::read_to_string(&target.config)?;
    for number in 0.. {
        if target.is_over() {
            break;
        }
        let value = format!("10.1.0.{}", number % 250);
        fs::write(&target.config, text.replacen("10.0.0.0", &value, 1))?;
        kill(Pid::from_raw(target.process as i32), Signal::SIGHUP)?;
        target.count(1);
        sleep(PAUSE);
    }
    Ok(())
}
