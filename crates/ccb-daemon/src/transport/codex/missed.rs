//! The end of a turn of which the app-server's own notice was missed: the thread is read while a turn runs.

use std::time::Duration;

use ccb_core::provider::codex_rpc::Status;
use tokio::time::Instant;

use super::{Codex, Found, Wire};
use crate::transport::Line;

/// How often the thread is read while a turn of ours runs, and while another one does.
const LOOK: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_secs(15));

/// How often a turn without an end must be found in an idle thread before it has died: its end may be on its way.
const PATIENCE: u32 = 5;

/// What is awaited of the turn that runs.
#[derive(Default)]
pub(super) struct Awaited {
    /// The turn that our request was accepted as.
    turn: Option<String>,
    /// When the thread is read next.
    due: Option<Instant>,
    /// How often the turn was found without an end in an idle thread.
    endless: u32,
}

impl Awaited {
    /// A request of ours is in this turn.
    pub(super) fn begin(&mut self, turn: &str) {
        if self.turn.as_deref() != Some(turn) {
            *self = Self { turn: Some(turn.to_owned()), ..Self::default() };
        }
    }

    /// That turn has ended.
    pub(super) fn end(&mut self, turn: &str) {
        if self.turn.as_deref() == Some(turn) {
            *self = Self::default();
        }
    }

    /// Returns when the thread is to be read; none: no turn runs.
    pub(super) fn due(&mut self, active: Option<&str>) -> Option<Instant> {
        let pause = match (&self.turn, active) {
            (Some(_), _) => LOOK.0,
            (None, Some(_)) => LOOK.1,
            (None, None) => {
                self.due = None;
                return None;
            }
        };
        let latest = Instant::now() + pause;
        self.due = Some(self.due.map_or(latest, |due| due.min(latest)));
        self.due
    }
}

impl Codex {
    /// Reads what the thread is doing: a turn that is over there, and not here, has ended unheard.
    pub(super) async fn look_for_end(&mut self, line: &mut Line, wire: &mut Wire) -> anyhow::Result<()> {
        self.awaited.due = None;
        let Some(awaited) = self.awaited.turn.clone().or_else(|| self.active.clone()) else { return Ok(()) };
        if self.is_active(wire).await? {
            return Ok(());
        }
        // What has come meanwhile may be that very notice.
        self.hear_what_has_come(line, wire).await?;
        if self.awaited.turn.as_ref().or(self.active.as_ref()) != Some(&awaited) {
            return Ok(());
        }
        let Found::Turn(record) = self.find(wire, |record| record.id == awaited).await? else { return Ok(()) };
        self.awaited.endless += 1;
        if record.end.is_none() && self.awaited.endless < PATIENCE {
            return Ok(());
        }
        crate::engine::log(&format!("{}: the end of turn {awaited} was not heard; its thread shows it", line.agent));
        self.tell_turn(line, record, &Status::Idle);
        self.active = None;
        self.follow(line, wire).await?;
        self.tell_status(line, &Status::Idle);
        Ok(())
    }
}
