//! askd: everything of ccb that acts on the world.
//!
//! Two processes: a small [`keeper`] that starts, watches and restarts the [`worker`], which is the daemon
//! proper. In the worker one thread owns the [`engine`] and the [`store`]; the [`server`] and the transports
//! run on one asynchronous thread beside it and talk to it by messages alone.

mod agents;
mod arguments;
mod clock;
mod door;
mod end;
mod engine;
pub mod failpoint;
mod files;
mod injection;
mod keeper;
mod life;
mod lock;
mod mount;
mod notify;
mod ownership;
pub mod paste;
pub mod process;
mod record;
mod server;
mod shutdown;
mod store;
mod succession;
mod tcp;
mod timers;
pub mod tmux;
mod transport;
mod views;
mod worker;

pub use arguments::main;
