//! A small hybrid network on loopback with scripted upstreams: the demo, the tests and the benches use it.

pub mod fault;
pub mod seen;
mod tcp;
pub mod upstream;
pub mod zone;
