//! Names that nodens answers itself: [`records`] of the configuration, and [`special`]-use names that no upstream should
//! see.

pub mod records;
pub mod special;
