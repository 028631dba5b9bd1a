//! A node on which nodens has not run yet.

use std::process::Command;

use crate::node::{
    BY_KUBE_DNS, BY_NODENS, KUBE_DNS, NAME, NOWHERE, Server, Site, TOOLS, addresses, answers_become, kube_proxy,
    nodens, said, tables,
};
use crate::support::pod::Pod;
use crate::support::space::inside;
use socket2::{Domain, Socket, Type};

#[test]
fn a_pod_that_starts_before_nodens_has_an_answer() {
    inside("node_start::a_pod_that_starts_before_nodens_has_an_answer", &TOOLS, || {
        let site = Site::new();
        let server = Server::start(51, &site.dir, NAME, BY_KUBE_DNS);
        kube_proxy(&server);
        let before = (addresses(), tables());
        let record = format!("{NOWHERE}[[record]]\nname = \"{NAME}\"\ntype = \"A\"\nvalue = \"{BY_NODENS}\"\n");
        let fallback = format!("fallback = [\"{}\", \"{}\"]\n", KUBE_DNS[0], KUBE_DNS[1]);
        let config = site
            .config(&fallback, &record)
            .replace("\"169.254.20.10\"]\n[admin]", "\"169.254.20.10\", \"fd00:53::a\"]\n[admin]");
        let file = site.dir.write("nodens.toml", &config);
        let prepare = || said(&nodens(&["node", "prepare", "--config", file.to_str().expect("UTF-8")]));
        for _ in 0..2 {
            let (good, text) = prepare();
            assert!(
                good && text.contains("169.254.20.10  on lo") && text.contains("in use: nodens does not serve"),
                "{text}"
            );
        }
        let pod = Pod::start(11, &site.dir, "");
        let all = [Some(&pod), None];
        answers_become(&all, BY_KUBE_DNS);

        let mut serving = site.nodens(&config);
        answers_become(&all, BY_NODENS);
        let (good, text) = prepare();
        assert!(good && text.contains("fd00:10:96::a  ready"), "{text}");
        assert!(!serving.log().iter().any(|line| line.contains("node repaired")));
        answers_become(&all, BY_NODENS);
        serving.stop();
        assert_eq!((addresses(), tables()), before);
    });
}

#[test]
fn a_node_without_ipv6_is_prepared_over_ipv4() {
    inside("node_start::a_node_without_ipv6_is_prepared_over_ipv4", &TOOLS, || {
        let site = Site::new();
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("writes");
        let file = site.dir.write("nodens.toml", &site.config("fallback = \"10.96.0.10\"\n", NOWHERE));
        for command in ["prepare", "status"] {
            let (good, text) = said(&nodens(&["node", command, "--config", file.to_str().expect("UTF-8")]));
            assert!(
                good && text.contains("169.254.20.10  on lo") && text.contains("in place") && !text.contains("missing"),
                "{text}"
            );
        }
        assert!(said(&nodens(&["node", "cleanup"])).0);
    });
}

#[test]
fn what_cannot_be_prepared_is_said_and_undone() {
    inside("node_start::what_cannot_be_prepared_is_said_and_undone", &TOOLS, || {
        let site = Site::new();
        let fallback = "fallback = \"10.96.0.10\"\n";
        let refused = |config: &str, program: &mut Command, why: &str| {
            let file = site.dir.write("refused.toml", config);
            let (good, text) =
                said(&program.args(["node", "prepare", "--config"]).arg(file).output().expect("it runs"));
            assert!(!good && text.contains(why), "{why}: {text}");
            site.is_as_before();
        };
        let plain = || Command::new(env!("CARGO_BIN_EXE_nodens"));
        let none = format!("[server]\nlisten = [\"127.0.0.1:0\"]\n{NOWHERE}");
        refused(&none, &mut plain(), "the configuration has no [node]");
        refused(&site.config("", NOWHERE), &mut plain(), "there is no fallback");
        let mut unprivileged = Command::new("setpriv");
        unprivileged.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", env!("CARGO_BIN_EXE_nodens")]);
        refused(&site.config(fallback, NOWHERE), &mut unprivileged, "it needs CAP_NET_ADMIN");
        // Its queries would go to the fallback.
        let other = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        other.set_freebind_v4(true).expect("an option");
        let address: std::net::SocketAddr = "169.254.20.10:53".parse().expect("an address");
        other.bind(&address.into()).expect("binds");
        refused(&site.config(fallback, NOWHERE), &mut plain(), "a process listens on 169.254.20.10");
    });
}
