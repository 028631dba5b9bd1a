//! Network and mount namespaces for a test, and tests that cannot run everywhere.

use std::env;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::eventually;

/// Environment variable that is set when a test runs inside its namespaces.
const INSIDE: &str = "NODENS_TEST_INSIDE";

/// Returns whether a test can run here: as root if `root` is set, and with these tools. Otherwise prints the reason for
/// skipping the test, or panics if `CI` is set.
pub(crate) fn can_run(root: bool, tools: &[&str]) -> bool {
    let lacks = |tool: &&&str| {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut places = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        !places.any(|dir: std::path::PathBuf| dir.join(tool).exists())
    };
    let is_root = || fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0);
    let why = if root && !is_root() {
        "needs root".to_owned()
    } else if let Some(tool) = tools.iter().find(lacks) {
        format!("needs {tool}")
    } else {
        return true;
    };
    skip(&why);
    false
}

fn skip(why: &str) {
    assert!(env::var_os("CI").is_none(), "skipped: {why}, which CI must have");
    println!("skipped: {why}");
}

/// Runs a test in its own network and mount namespace, by starting this test program again inside. `test` is the name
/// of the test. The only link there is loopback, and it is up.
pub(crate) fn inside(test: &str, tools: &[&str], body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        return body();
    }
    if !can_run(true, &[tools, &["unshare", "ip", "mount"]].concat()) {
        return;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private"]);
        command
    };
    // Root in a container may lack the permission.
    if !unshare().arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skip("needs to make namespaces");
    }
    let output = unshare()
        .arg(env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "inside:\n{stdout}\n{stderr}");
}

/// Runs `ip` with these words.
pub(crate) fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("ip runs");
    assert!(status.success(), "ip {words}");
}

/// Adds an IPv6 address to loopback, and waits until the kernel has a route to it, which comes a moment later.
pub(crate) fn add_address(address: &str) {
    ip(&format!("address add {address}/128 dev lo nodad"));
    eventually(&format!("a way to {address}"), || {
        let socket = UdpSocket::bind((address, 0)).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
        socket.send_to(&[0], socket.local_addr().ok()?).ok()?;
        socket.recv(&mut [0]).ok()
    });
}

/// Mounts a file over an existing one, in this namespace only.
pub(crate) fn put_in_place(file: &Path, of: &str) {
    let of = Path::new(of).canonicalize().unwrap_or_else(|error| panic!("{of}: {error}"));
    let status = Command::new("mount").arg("--bind").arg(file).arg(of).status().expect("mount runs");
    assert!(status.success());
}
