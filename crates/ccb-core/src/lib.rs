//! Values and rules of ccb: what a request is, how it moves, what agents say and what that means.
//!
//! Nothing here performs I/O, asks a clock or waits. Time is an argument, the world is an
//! [`Effect`](step::Effect), and what the world does comes back as an [`Input`](step::Input).

pub mod config;
pub mod home;
pub mod id;
pub mod input;
pub mod instructions;
pub mod marker;
pub mod outcome;
pub mod ownership;
pub mod paste;
pub mod prompt;
pub mod provider;
pub mod request;
pub mod screen;
pub mod settings;
pub mod state;
pub mod step;
pub mod time;
mod tree;
pub mod view;
pub mod wire;
