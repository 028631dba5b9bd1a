//! Pods in network and mount namespaces of their own, on a bridge in the namespaces of the test, which are the node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sched::{CloneFlags, setns};

use super::space::ip;
use super::{DEADLINE, Dir, eventually};

/// Addresses of the node on the bridge; the pods' addresses are in the same networks.
pub(crate) const GATEWAY: [&str; 2] = ["10.244.1.1", "fd00:1::1"];

/// Creates the bridge of the node; to be called in the namespaces of the test.
pub(crate) fn make_bridge() {
    ip("link add pods type bridge");
    ip(&format!("address add {}/24 dev pods", GATEWAY[0]));
    ip(&format!("address add {}/64 dev pods nodad", GATEWAY[1]));
    ip("link set pods up");
}

/// A pod with one process that sleeps; killed on drop.
pub(crate) struct Pod {
    child: Child,
    /// IPv4 and IPv6 address.
    pub(crate) addresses: [String; 2],
}

impl Pod {
    /// Starts a pod with the `number`th address of the bridge's networks and `resolv` as its resolv.conf.
    pub(crate) fn start(number: u8, dir: &Dir, resolv: &str) -> Self {
        // The process exits after 300 s even if the test is killed.
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "sleep", "300"]).stdin(Stdio::null());
        let child = command.spawn().expect("unshare runs");
        let id = child.id();
        let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        eventually("namespaces of a pod", || {
            let is_sleep = fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name == "sleep\n");
            (is_sleep && network(&id.to_string()) != network("self")).then_some(())
        });
        let addresses = [format!("10.244.1.{number}"), format!("fd00:1::{number:x}")];
        let pod = Self { child, addresses };
        ip(&format!("link add pod{number} type veth peer name eth0 netns {id}"));
        ip(&format!("link set pod{number} master pods up"));
        let resolv = dir.write(&format!("resolv-{number}.conf"), resolv);
        let nsswitch = dir.write("nsswitch.conf", "hosts: files dns\n");
        for (file, of) in [(&resolv, "/etc/resolv.conf"), (&nsswitch, "/etc/nsswitch.conf")] {
            let of = Path::new(of).canonicalize().unwrap_or_else(|_| PathBuf::from(of));
            pod.must("mount", &["--bind", &file.display().to_string(), &of.display().to_string()]);
        }
        for words in [
            "link set lo up".to_owned(),
            "link set eth0 up".to_owned(),
            format!("address add {}/24 dev eth0", pod.addresses[0]),
            format!("address add {}/64 dev eth0 nodad", pod.addresses[1]),
            format!("route add default via {}", GATEWAY[0]),
            format!("-6 route add default via {}", GATEWAY[1]),
        ] {
            pod.must("ip", &words.split(' ').collect::<Vec<_>>());
        }
        pod
    }

    /// Returns a function that moves the thread that calls it into the pod's network.
    pub(crate) fn network(&self) -> impl FnOnce() + Send + 'static {
        let network = fs::File::open(format!("/proc/{}/ns/net", self.child.id())).expect("a namespace");
        move || setns(network, CloneFlags::CLONE_NEWNET).expect("the pod's network")
    }

    /// Runs a program in the pod, for at most `DEADLINE`.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.arg(DEADLINE.as_secs().to_string()).args(["nsenter", "--net", "--mount", "--target"]);
        command.arg(self.child.id().to_string()).arg(program).args(arguments);
        command.stdin(Stdio::null()).output().expect("timeout runs")
    }

    /// Starts a program in the pod, with `file` as its last argument. The caller must kill it.
    pub(crate) fn spawn(&self, program: &str, arguments: &[&str], file: &Path) -> Child {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.child.id().to_string(), program]);
        command.args(arguments).arg(file).stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("nsenter runs")
    }

    /// Runs a program that must succeed, and returns its output.
    pub(crate) fn must(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {stdout}{stderr}");
        stdout.into_owned()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
