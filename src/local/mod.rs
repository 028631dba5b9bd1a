//! Names that nodens answers itself: static [`records`], [`special`]-use names that no upstream should see, names that a
//! [`cluster`]'s domain cannot contain, and facts about the server. [`probes`] decides when names above these are queried,
//! [`pruning`] checks that the cluster has no such names after all.

pub mod cluster;
pub mod probes;
pub mod pruning;
pub mod records;
pub mod server_facts;
pub mod special;
