//! Names that nodens answers itself: static [`records`], [`special`]-use names that no upstream should see, names that a
//! [`cluster`]'s domain cannot contain, and facts about the server. [`probes`] decides when names above these are queried,
//! [`pruning`] checks that the cluster has no such names after all.

pub(crate) mod cluster;
pub(crate) mod probes;
pub(crate) mod pruning;
pub(crate) mod records;
pub(crate) mod server_facts;
pub(crate) mod special;
