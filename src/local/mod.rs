//! Names nodens answers itself: [`records`] of the configuration, [`special`]-use names that no upstream should see, names
//! that a [`cluster`]'s domain cannot have, and facts about the server. [`probes`] says when more is worth knowing of these,
//! [`pruning`] whether the cluster has such names after all.

pub mod cluster;
pub mod probes;
pub mod pruning;
pub mod records;
pub mod server_facts;
pub mod special;
