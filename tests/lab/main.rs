//! Ring 4, the lab: the real, pinned CLIs of the agents in their panes, against a fake model on loopback, from an empty home.
//!
//! `CCB_LAB` names the directory with the pinned CLIs (`lab/package.json`). Without it every test says that it is
//! left out, and passes.

#![expect(clippy::unwrap_used, reason = "all of this crate is tests, its helpers too")]

mod asks;
mod claude_asks;
mod claude_conversations;
mod claude_deaths;
mod claude_ends;
mod claude_humans;
mod codex_humans;
mod codex_rungs;
mod deaths;
mod dialogs;
mod droid;
mod ends;
mod env;
mod full;
mod gemini;
mod gemini_humans;
mod homes;
mod humans;
mod mcp;
mod notices;
mod opencode;
mod opencode_humans;
mod restarts;
mod stories;
mod updates;
mod waiting;
mod worlds;
