//! A nodens in front of the network. No other module of the lab uses `app` and `config`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use tokio::task::spawn_blocking;

use crate::app::{self, Running};
use crate::config::parse::parse;

pub(crate) struct Front {
    running: Running,
}

/// Reason why no nodens runs.
#[derive(Debug, Error)]
pub(crate) enum FrontError {
    /// All mistakes of an invalid configuration.
    #[error("the lab's configuration is wrong: {0}")]
    Config(String),
    #[error("nodens does not start: {0}")]
    Start(String),
}

impl Front {
    /// Starts nodens with the configuration in `text`.
    ///
    /// # Errors
    /// [`FrontError`] distinguishes an invalid configuration from a failed start.
    pub(crate) async fn start(text: &str) -> Result<Self, FrontError> {
        let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let config = parse(text, &local).map_err(|diagnostics| {
            FrontError::Config(diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        // Starting and stopping block, and the upstreams may run in the current thread.
        let started = spawn_blocking(move || app::start(config)).await;
        match started {
            Ok(Ok(running)) => Ok(Self { running }),
            Ok(Err(error)) => Err(FrontError::Start(error.to_string())),
            Err(panic) => Err(FrontError::Start(panic.to_string())),
        }
    }

    /// Returns the addresses that nodens listens on.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        self.running.listen_addresses()
    }

    /// Returns the address of its metrics and status page, if there is one.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.running.admin_addresses().first().copied()
    }

    /// Stops nodens once the queries in flight are answered.
    pub(crate) async fn stop(self) {
        let running = self.running;
        // After a panic there is nothing left to stop.
        let _ = spawn_blocking(move || running.stop()).await;
    }
}
