//! Ring 3: the real binaries in a sealed world, with stub agents in a private tmux, and `kill -9` of everything.

mod askers;
mod asks;
mod bad_input;
mod clock;
mod deaths;
mod disk;
mod doctor;
mod doors;
mod env;
mod fencing;
mod idle;
mod long_run;
mod mcp;
mod names;
mod notices;
mod ownership;
mod sabotage;
mod screens;
mod soak;
mod start;
mod state_files;
mod supervision;
mod tcp;
mod tree;
mod versions;
