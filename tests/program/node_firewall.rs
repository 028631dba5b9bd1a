//! The firewall of a node: changes of the table of nodens by hand, and chains of other programs that drop queries.

use crate::node::{ADDRESSES, NOWHERE, Site, TOOLS, nodens, run, said, tables};
use crate::support::eventually;
use crate::support::space::inside;

/// Returns the table of nodens without its counters and without the addresses that are alive.
fn table() -> String {
    let text = run("nft", "-s list table inet nodens");
    text.lines().filter(|line| !line.contains("elements")).collect::<Vec<_>>().join("\n")
}

/// Returns the rule of this chain with this comment, as `nft` shows it, and its handle.
fn rule(chain: &str, comment: &str) -> (String, String) {
    let text = run("nft", &format!("-s -a list chain inet nodens {chain}"));
    let line = text.lines().find(|line| line.contains(comment)).expect("the rule");
    let (rule, handle) = line.trim().split_once(" # handle ").expect("a handle");
    (rule.to_owned(), handle.to_owned())
}

#[test]
fn a_table_changed_by_hand_is_restored() {
    inside("node_firewall::a_table_changed_by_hand_is_restored", &TOOLS, || {
        let site = Site::new();
        let nodens = site.nodens(&site.config("fallback = [\"10.96.0.10\", \"fd00:10:96::a\"]", NOWHERE));
        let before = table();
        // Each of these leaves the names of chains and the comments of rules as they are.
        let replaced = |chain: &str, comment: &str, part: &str, by: &str| {
            let (rule, handle) = rule(chain, comment);
            assert!(rule.contains(part), "{rule}");
            vec![format!("replace rule inet nodens {chain} handle {handle} {}", rule.replace(part, by))]
        };
        let damages: [&dyn Fn() -> Vec<String>; 8] = [
            &|| replaced("prerouting", "UDP queries to 169.254.20.10:53", "udp dport 53", "udp dport 54"),
            &|| replaced("prerouting", "TCP queries to 169.254.20.10:53", "@alive4", "!= @alive4"),
            &|| replaced("output", "UDP fallback of [fd00:53::a]:53", "fd00:10:96::a comment", "fd00:10:96::b comment"),
            &|| replaced("postrouting", "answers of the fallback of 169.254.20.10", "0x00001000", "0x00002000"),
            &|| replaced("output", "UDP responses from 169.254.20.10:53", "notrack", "drop"),
            &|| vec!["add chain inet nodens input { policy drop ; }".to_owned()],
            &|| vec!["add chain inet nodens more { type filter hook input priority 0 ; policy drop ; }".to_owned()],
            &|| vec!["add table inet nodens { flags dormant ; }".to_owned()],
        ];
        for (number, damage) in damages.iter().enumerate() {
            let words = damage();
            words.iter().for_each(|words| drop(run("nft", words)));
            let repairs = number as f64 + 1.0;
            nodens.metric_becomes("nodens_node_repairs_total", &[("what", "firewall")], |count| count == repairs);
            assert_eq!(table(), before, "{words:?}");
        }
    });
}

#[test]
fn a_removed_table_comes_back_alive() {
    inside("node_firewall::a_removed_table_comes_back_alive", &TOOLS, || {
        let site = Site::new();
        let _nodens = site.nodens(&site.config("fallback = [\"10.96.0.10\", \"fd00:10:96::a\"]", NOWHERE));
        for _ in 0..5 {
            // As a reload of another firewall does.
            run("nft", "delete table inet nodens");
            eventually("the table", || tables().contains("table inet nodens").then_some(()));
            // The fallback would get the queries until the next renewal.
            assert!(run("nft", "list set inet nodens alive4").contains(ADDRESSES[0]));
        }
    });
}

#[test]
fn a_table_that_is_in_place_keeps_its_counters() {
    inside("node_firewall::a_table_that_is_in_place_keeps_its_counters", &TOOLS, || {
        let site = Site::new();
        let config = site.config("", NOWHERE);
        let file = site.dir.write("nodens.toml", &config);
        let status = || said(&nodens(&["node", "status", "--config", file.to_str().expect("UTF-8")])).1;
        let mut killed = site.nodens(&config);
        run("dig", &format!("@{} +short +tries=1 +timeout=30 localhost", ADDRESSES[0]));
        let before = status();
        assert!(before.contains("firewall  in place") && !before.contains("place: 0 packets"), "{before}");
        killed.kill();
        let next = site.nodens(&config);
        next.metric_becomes("nodens_node_untracked_packets_total", &[("kind", "queries")], |count| count > 0.0);
        assert_eq!(status(), before);
    });
}

#[test]
fn foreign_chains_that_drop_are_named() {
    inside("node_firewall::foreign_chains_that_drop_are_named", &TOOLS, || {
        let site = Site::new();
        let config = site.config("", NOWHERE);
        let file = site.dir.write("nodens.toml", &config);
        let status = || said(&nodens(&["node", "status", "--config", file.to_str().expect("UTF-8")]));
        // Those of no concern: they accept, are on another hook, or are switched off.
        run("nft", "add chain inet other accepts { type filter hook input priority 0 ; policy accept ; }");
        run("nft", "add chain inet other forwards { type filter hook forward priority 0 ; policy drop ; }");
        run("nft", "add table ip asleep { flags dormant ; }");
        run("nft", "add chain ip asleep input { type filter hook input priority 0 ; policy drop ; }");
        let mut quiet = site.nodens(&config);
        let (good, text) = status();
        assert!(good && !text.contains("policy drop"), "{text}");
        assert!(!quiet.log().iter().any(|line| line.contains("policy drop")));
        quiet.stop();

        run("nft", "add table inet filter");
        run("nft", "add chain inet filter input { type filter hook input priority 0 ; policy drop ; }");
        run("nft", "add table ip6 filter");
        run("nft", "add chain ip6 filter OUTPUT { type filter hook output priority 0 ; policy drop ; }");
        run("nft", "add rule inet filter input iif lo accept");
        run("nft", "add rule ip6 filter OUTPUT oif lo accept");
        let serving = site.nodens(&config);
        let warnings = serving.log().into_iter().filter(|line| line.contains("policy drop")).collect::<String>();
        let (good, text) = status();
        assert!(good, "{text}");
        for text in [&warnings, &text] {
            assert_eq!(text.matches("policy drop").count(), 2, "{text}");
            let input = "inet filter input has the policy drop: one of its rules must accept UDP and TCP to";
            assert!(text.contains(&format!("{input} 169.254.20.10:53, [fd00:53::a]:53")), "{text}");
            let output = "ip6 filter OUTPUT has the policy drop: one of its rules must accept UDP and TCP from";
            assert!(text.contains(&format!("{output} [fd00:53::a]:53")), "{text}");
        }
    });
}
