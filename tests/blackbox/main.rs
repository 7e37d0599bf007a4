//! Ring 3: the real binaries in a sealed world, with stub agents in a private tmux, and `kill -9` of everything.

mod askers;
mod asks;
mod bad_input;
mod deaths;
mod env;
mod idle;
mod long_run;
mod mcp;
mod names;
mod notices;
mod sabotage;
mod screens;
mod start;
mod state_files;
mod supervision;
mod tree;
