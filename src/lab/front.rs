//! A nodens in front of the network: the lab's only tie to the rest of the house.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use tokio::task::spawn_blocking;

use crate::app::{self, Running};
use crate::config::parse::parse;

/// A nodens that runs.
pub struct Front {
    running: Running,
}

/// Why none runs.
#[derive(Debug, Error)]
pub enum FrontError {
    /// The configuration is wrong: every mistake of it.
    #[error("the lab's configuration is wrong: {0}")]
    Config(String),
    /// It could not start.
    #[error("nodens does not start: {0}")]
    Start(String),
}

impl Front {
    /// Starts nodens with a configuration.
    ///
    /// # Errors
    /// [`FrontError`] says whether the configuration or the start failed.
    pub async fn start(text: &str) -> Result<Self, FrontError> {
        let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let config = parse(text, &local).map_err(|mistakes| {
            FrontError::Config(mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        // Starting and stopping block, and the upstreams may live in this very thread.
        let started = spawn_blocking(move || app::start(config)).await;
        match started {
            Ok(Ok(running)) => Ok(Self { running }),
            Ok(Err(error)) => Err(FrontError::Start(error.to_string())),
            Err(panic) => Err(FrontError::Start(panic.to_string())),
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.running.listen_addresses()
    }

    /// Where its metrics and status page are, if it has any.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.running.admin_addresses().first().copied()
    }

    /// Stops it once the queries in flight are answered.
    pub async fn stop(self) {
        let running = self.running;
        // A panic on the way down leaves nothing to stop.
        let _ = spawn_blocking(move || running.stop()).await;
    }
}
