//! Tests of single parts of the library: properties over generated input, and the scripted upstream of the lab.

#[path = "../support/addresses.rs"]
mod addresses;

mod accounting;
mod attribution;
mod failover_properties;
mod flood;
mod lab_upstream;
mod reload;
mod wire_properties;
