//! Representation of time. Times are arguments everywhere below the sockets, so this is a number and not a clock.

/// Milliseconds since a moment before the start of the process.
pub type Millis = u64;
