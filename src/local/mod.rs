//! Names nodens answers itself: [`records`] of the configuration, [`special`]-use names that no upstream should see, names
//! that a [`cluster`]'s domain cannot have, and facts about the server. [`probes`] says when more is worth knowing of these.

pub mod cluster;
pub mod probes;
pub mod records;
pub mod server_facts;
pub mod special;
