//! Runs this program under callgrind and reads its output.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs, process};

/// Instructions, by source file.
pub(crate) type Costs = BTreeMap<String, u64>;

/// Returns true if valgrind can be run.
pub(crate) fn is_installed() -> bool {
    let status = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Counts the instructions of this program for `times` repetitions of `operation`, including preparation.
///
/// # Errors
/// Returns the reason as text.
pub(crate) fn count(operation: &str, times: usize) -> Result<Costs, String> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.{}.{operation}.{times}", process::id()));
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", path.display()))
        .arg(program)
        .args(["--do", operation, &times.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let text = fs::read_to_string(&path);
    let _ = fs::remove_file(&path);
    match text {
        Ok(text) if output.status.success() => Ok(costs(&text)),
        _ => Err(format!("valgrind, {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

/// Adds up a file of callgrind (<https://valgrind.org/docs/manual/cl-format.html>). Lines that begin with a position count
/// for the file named last. The line after `calls=` is skipped, because it repeats the cost of the called function.
fn costs(text: &str) -> Costs {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut costs = Costs::new();
    let (mut function, mut file) = ("", "");
    let mut inclusive = false;
    for line in text.lines() {
        if let Some((what, rest)) = line.split_once('=') {
            let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
            match what {
                "fl" | "fi" | "fe" | "cfi" | "cfl" => {
                    // A name is written out once, after its number.
                    let name = if name.is_empty() { names.get(number).copied().unwrap_or("") } else { name };
                    names.insert(number, name);
                    match what {
                        "fl" => (function, file) = (name, name),
                        // `fi` names the file of inlined code, `fe` returns from it.
                        "fi" | "fe" => file = name,
                        _ => {}
                    }
                }
                "fn" => file = function,
                "calls" => inclusive = true,
                _ => {}
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
            if !std::mem::take(&mut inclusive) {
                *costs.entry(file.to_string()).or_default() += cost;
            }
        }
    }
    costs
}
