//! What a pane's runner is made of: the processes it keeps, its terminal, and its link to askd.

pub(crate) mod group;
pub(crate) mod kept;
pub(crate) mod link;
pub(crate) mod terminal;
