//! Names nodens answers itself: [`records`] of the configuration, [`special`]-use names that no upstream should see, and
//! facts about the server.

pub mod records;
pub mod server_facts;
pub mod special;
