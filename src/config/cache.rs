//! Settings of the cache: `[cache]`.

use std::time::Duration;

use toml::Spanned;

use super::table::TomlTable;
use super::units::{Bounds, Size, Time};

/// `[cache] memory`. A cache below the floor could not hold the largest answers.
pub(crate) const MEMORY: Bounds<Size> =
    Bounds { default: Size(64 << 20), floor: Size(1 << 20), ceiling: Size(256 << 30) };
/// `[cache] max_ttl`. RFC 8767 section 4 advises at most one week.
pub(crate) const MAX_TTL: Bounds<Time> =
    Bounds { default: Time::secs(3_600), floor: Time::secs(1), ceiling: Time::WEEK };
/// `[cache] negative_max_ttl`, also that of routes. RFC 2308 section 5 advises at most one to three hours.
pub(crate) const NEGATIVE_MAX_TTL: Bounds<Time> =
    Bounds { default: Time::secs(30), floor: Time::secs(1), ceiling: Time::secs(3 * 3_600) };
/// `[cache] stale`. RFC 8767 section 5 advises one to three days; the default is one hour, because jobs are short. Zero: never.
pub(crate) const STALE: Bounds<Time> = Bounds { default: Time::secs(3_600), floor: Time::secs(0), ceiling: Time::WEEK };
/// `[cache] failure_max_ttl`. RFC 9520 section 3.2 requires one second to five minutes. The default is short for clients that
/// poll a name until it resolves again.
pub(crate) const FAILURE_MAX_TTL: Bounds<Time> =
    Bounds { default: Time::secs(10), floor: Time::secs(1), ceiling: Time::secs(300) };
/// Default of `[cache] prefetch`.
pub(crate) const PREFETCH: bool = true;
/// Default of `[cache] rotate`.
pub(crate) const ROTATE: bool = true;

/// Settings of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// Hard limit on the memory of all cached answers, in bytes.
    pub memory: usize,
    /// Longest time that a positive answer is kept.
    pub max_ttl: Duration,
    /// Longest time that a negative answer is kept (RFC 2308), unless its route has a limit of its own.
    pub negative_max_ttl: Duration,
    /// Longest time past its TTL that an answer is served while upstreams fail (RFC 8767); zero: never.
    pub stale: Duration,
    /// Longest time that a failure is remembered (RFC 9520).
    pub failure_max_ttl: Duration,
    /// Prefetch of popular answers before their TTL ends.
    pub prefetch: bool,
    /// Rotation of the addresses of a cached answer from response to response.
    pub rotate: bool,
}

/// `[cache]` in the file.
#[derive(Debug)]
pub(crate) struct CacheTable {
    pub memory: Spanned<Size>,
    pub max_ttl: Spanned<Time>,
    pub negative_max_ttl: Spanned<Time>,
    pub stale: Spanned<Time>,
    pub failure_max_ttl: Spanned<Time>,
    pub prefetch: bool,
    pub rotate: bool,
}

impl CacheTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
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

/// Converts `[cache]` to its validated form.
pub(super) fn cache(file: &CacheTable) -> CacheConfig {
    CacheConfig {
        memory: usize::try_from(file.memory.get_ref().0).unwrap_or(usize::MAX),
        max_ttl: file.max_ttl.get_ref().duration(),
        negative_max_ttl: file.negative_max_ttl.get_ref().duration(),
        stale: file.stale.get_ref().duration(),
        failure_max_ttl: file.failure_max_ttl.get_ref().duration(),
        prefetch: file.prefetch,
        rotate: file.rotate,
    }
}
