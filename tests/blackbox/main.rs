//! Ring 3: the real binaries in a sealed world, with stub agents in a private tmux, and `kill -9` of everything.

mod asks;
mod deaths;
mod env;
