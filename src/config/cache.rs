//! How much is kept, and how long: `[cache]`.

use std::time::Duration;

use toml::Spanned;

use super::table::Table;
use super::units::{Bounds, Size, Time};

/// `[cache] memory`: below the floor it could not hold the largest answers.
pub const MEMORY: Bounds<Size> = Bounds { default: Size(64 << 20), floor: Size(1 << 20), ceiling: Size(256 << 30) };
/// `[cache] max_ttl`: RFC 8767 section 4 advises no more than a week.
pub const MAX_TTL: Bounds<Time> = Bounds { default: Time::secs(3_600), floor: Time::secs(1), ceiling: Time::WEEK };
/// `[cache] negative_max_ttl`, a route's as well: RFC 2308 section 5 advises no more than one to three hours.
pub const NEGATIVE_MAX_TTL: Bounds<Time> =
    Bounds { default: Time::secs(30), floor: Time::secs(1), ceiling: Time::secs(3 * 3_600) };
/// `[cache] stale`: RFC 8767 section 5 advises one to three days; here jobs are short, so an hour. Zero: never.
pub const STALE: Bounds<Time> = Bounds { default: Time::secs(3_600), floor: Time::secs(0), ceiling: Time::WEEK };
/// `[cache] failure_max_ttl`: RFC 9520 section 3.2 has it between a second and five minutes. Who polls a name until it is back must
/// not be blind for long.
pub const FAILURE_MAX_TTL: Bounds<Time> =
    Bounds { default: Time::secs(10), floor: Time::secs(1), ceiling: Time::secs(300) };
/// `[cache] prefetch`.
pub const PREFETCH: bool = true;
/// `[cache] rotate`.
pub const ROTATE: bool = true;

/// The cache's bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// A hard bound on all cached answers, in bytes.
    pub memory: usize,
    /// The longest that a positive answer is kept.
    pub max_ttl: Duration,
    /// The longest that a negative answer is kept (RFC 2308), unless its route says otherwise.
    pub negative_max_ttl: Duration,
    /// How long past its TTL an answer may stand in for dead upstreams (RFC 8767); zero: never.
    pub stale: Duration,
    /// The longest that a failure is remembered (RFC 9520).
    pub failure_max_ttl: Duration,
    /// Whether popular answers are fetched again before a client has to wait for them.
    pub prefetch: bool,
    /// Whether the addresses of a cached answer change places from response to response.
    pub rotate: bool,
}

/// `[cache]`.
#[derive(Debug)]
pub struct CacheTable {
    /// Default: [`MEMORY`].
    pub memory: Spanned<Size>,
    /// Default: [`MAX_TTL`].
    pub max_ttl: Spanned<Time>,
    /// Default: [`NEGATIVE_MAX_TTL`].
    pub negative_max_ttl: Spanned<Time>,
    /// Default: [`STALE`].
    pub stale: Spanned<Time>,
    /// Default: [`FAILURE_MAX_TTL`].
    pub failure_max_ttl: Spanned<Time>,
    /// Default: [`PREFETCH`].
    pub prefetch: bool,
    /// Default: [`ROTATE`].
    pub rotate: bool,
}

impl CacheTable {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| Self {
            memory: table.bounded("memory", &MEMORY),
            max_ttl: table.bounded("max_ttl", &MAX_TTL),
            negative_max_ttl: table.bounded("negative_max_ttl", &NEGATIVE_MAX_TTL),
            stale: table.bounded("stale", &STALE),
            failure_max_ttl: table.bounded("failure_max_ttl", &FAILURE_MAX_TTL),
            prefetch: table.flag("prefetch", PREFETCH),
            rotate: table.flag("rotate", ROTATE),
        })
    }
}

/// `[cache]` as the rest of the house reads it.
pub(super) fn cache(file: &CacheTable) -> Cache {
    Cache {
        memory: usize::try_from(file.memory.get_ref().0).unwrap_or(usize::MAX),
        max_ttl: file.max_ttl.get_ref().duration(),
        negative_max_ttl: file.negative_max_ttl.get_ref().duration(),
        stale: file.stale.get_ref().duration(),
        failure_max_ttl: file.failure_max_ttl.get_ref().duration(),
        prefetch: file.prefetch,
        rotate: file.rotate,
    }
}
