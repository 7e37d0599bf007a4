//! Ring 3: the real binaries in a sealed world, with stub agents in a private tmux, and `kill -9` of everything.

#![expect(clippy::unwrap_used, reason = "all of this crate is tests, its helpers too")]

mod askers;
mod asks;
mod bad_input;
mod clock;
mod codex;
mod crash_matrix;
mod deaths;
mod disk;
mod doctor;
mod doors;
mod droid;
mod ends;
mod env;
mod fencing;
mod idle;
mod long_run;
mod matrix;
mod mcp;
mod names;
mod notices;
mod ownership;
mod restarts;
mod retry;
mod sabotage;
mod screens;
mod several;
mod soak;
mod start;
mod state_files;
mod supervision;
mod tcp;
mod tree;
mod versions;
mod waiting;
