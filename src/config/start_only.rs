//! Keys that only a start reads. Neither a reload nor the restart of a worker process that died changes them.

use super::{AdminConfig, CacheConfig, Config, ServerConfig, WarmUp};

impl Config {
    /// Sets the start-only keys to their values in `start`. Returns the names of the keys whose values differed: they need a
    /// restart. This is the only list of these keys.
    pub fn keep_start_only(&mut self, start: &Self) -> Vec<&'static str> {
        // Exhaustive, so that a new key does not compile until it is decided here: named if only a start reads it, `_` if a reload
        // applies it.
        let Self {
            server,
            admin,
            report,
            node,
            handover,
            cache,
            kubernetes,
            warm_up,
            needs_restart,
            bootstrap: _,
            upstreams: _,
            routes: _,
            records: _,
            hosts: _,
            rewrites: _,
            clients: _,
            views: _,
            metrics: _,
            query_log: _,
            warnings: _,
        } = self;
        let ServerConfig {
            listen,
            workers,
            allow: _,
            tcp_idle_timeout: _,
            tcp_connections: _,
            tcp_connections_per_client: _,
            identity: _,
            hints: _,
        } = server;
        let AdminConfig { listen: admin_listen, metrics_listen, allow: _ } = admin;
        let CacheConfig {
            memory,
            max_ttl: _,
            negative_max_ttl: _,
            stale: _,
            failure_max_ttl: _,
            prefetch: _,
            rotate: _,
        } = cache;
        let WarmUp { file, enabled: _ } = warm_up;
        let keys: Vec<_> = [
            keep("server.listen", listen, &start.server.listen),
            keep("server.workers", workers, &start.server.workers),
            keep("admin.listen", admin_listen, &start.admin.listen),
            keep("admin.metrics_listen", metrics_listen, &start.admin.metrics_listen),
            keep("report.listen", report, &start.report),
            keep("node", node, &start.node),
            keep("handover.socket", handover, &start.handover),
            keep("cache.memory", memory, &start.cache.memory),
            keep("kubernetes", kubernetes, &start.kubernetes),
            keep("warm_up.file", file, &start.warm_up.file),
        ]
        .into_iter()
        .flatten()
        .collect();
        needs_restart.clone_from(&keys);
        keys
    }
}

/// Sets one value to that of the start. Returns its name if it differed.
fn keep<T: Clone + PartialEq>(name: &'static str, value: &mut T, start: &T) -> Option<&'static str> {
    (value != start).then(|| {
        value.clone_from(start);
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::parse;

    /// File that differs from `OTHER` in every start-only key, and in another key.
    const ONE: &str = "[upstreams.up]\nservers = [\"192.0.2.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";
    const OTHER: &str = "[server]\nlisten = [\"192.0.2.9\"]\nworkers = 3\n[admin]\nlisten = \"192.0.2.9\"\n\
                         metrics_listen = [\"192.0.2.8\"]\n\
                         [report]\nlisten = [\"192.0.2.9\"]\n[node]\naddresses = [\"192.0.2.9\"]\n\
                         [handover]\nsocket = \"/run/nodens/handover.sock\"\n[cache]\nmemory = \"3MiB\"\nstale = \"2m\"\n\
                         [kubernetes]\nnode = \"n\"\n[warm_up]\nfile = \"/var/lib/nodens/query-history.json\"\n";

    fn config(text: &str) -> Config {
        parse(text, &[]).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"))
    }

    #[test]
    fn they_stay_and_everything_else_changes() {
        let (start, next) = (config(ONE), config(&(OTHER.to_owned() + ONE)));
        let mut merged = next.clone();
        let keys = merged.keep_start_only(&start);
        assert_eq!(keys.len(), 10, "{keys:?}");
        assert_eq!(merged.needs_restart, keys);
        assert_eq!(merged.cache.stale, next.cache.stale);
        assert_eq!((&merged.server, &merged.node, &merged.warm_up), (&start.server, &start.node, &start.warm_up));
        assert_eq!(merged.keep_start_only(&start), Vec::<&str>::new());
        // A comparison with the configuration in force finds the same keys again.
        assert_eq!(next.clone().keep_start_only(&merged), keys);
        // The reference page and `nodens check` name each of the keys.
        let (page, check) = (include_str!("../../docs/reference/command-line.md"), include_str!("../cli/check.rs"));
        for key in keys {
            let table = key.split('.').next().unwrap_or(key);
            assert!(page.contains(&format!("`{key}`")) || page.contains(&format!("`[{table}]`")), "{key}");
            assert!(check.contains(&format!(" {key}")), "{key}");
        }
    }
}
