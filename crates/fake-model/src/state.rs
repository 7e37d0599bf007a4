//! What a test can change while the server runs, and what the server counts.
//!
//! `GET /_ctl/state` shows it; `POST /_ctl` replaces the keys it names.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// How much of a prompt's end tells it from others when refusals are counted, in characters.
const COUNTED_TAIL: usize = 200;

#[derive(Default)]
struct Controls {
    forget_done: bool,
    fail: VecDeque<u16>,
    refused: BTreeMap<String, u32>,
    input_tokens: Option<u64>,
}

/// The shared state; its methods lock only for a moment, never while something is sent.
#[derive(Default)]
pub struct State {
    controls: Mutex<Controls>,
    requests: AtomicU64,
    ids: AtomicU64,
}

impl State {
    fn controls(&self) -> MutexGuard<'_, Controls> {
        let controls = self.controls.lock();
        controls.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the controls as the JSON object that `POST /_ctl` takes.
    pub fn show(&self) -> Value {
        let controls = self.controls();
        json!({
            "done": if controls.forget_done { "forget" } else { "obey" },
            "fail": controls.fail,
            "errcount": controls.refused,
            "input_tokens": controls.input_tokens,
        })
    }

    /// Replaces the controls that `change` names, all of them or, with an error, none.
    pub fn change(&self, change: &Value) -> Result<(), String> {
        let object = change.as_object().ok_or("an object is needed")?;
        let mut controls = self.controls();
        let mut next = Controls {
            forget_done: controls.forget_done,
            fail: controls.fail.clone(),
            refused: controls.refused.clone(),
            input_tokens: controls.input_tokens,
        };
        for (key, value) in object {
            let wrong = || format!("'{key}' cannot be {value}");
            match key.as_str() {
                "done" => {
                    next.forget_done = match value.as_str() {
                        Some("obey") => false,
                        Some("forget") => true,
                        _ => return Err(wrong()),
                    }
                }
                "fail" => next.fail = statuses(value).ok_or_else(wrong)?,
                "errcount" => next.refused = counts(value).ok_or_else(wrong)?,
                "input_tokens" if value.is_null() => next.input_tokens = None,
                "input_tokens" => next.input_tokens = Some(value.as_u64().ok_or_else(wrong)?),
                _ => return Err(format!("there is no '{key}'")),
            }
        }
        *controls = next;
        Ok(())
    }

    /// Returns whether answers end with the line that a prompt asks for.
    pub fn obeys_done(&self) -> bool {
        !self.controls().forget_done
    }

    /// Makes answers leave out the line that a prompt asks for.
    pub fn forget_done(&self) {
        self.controls().forget_done = true;
    }

    /// Takes the next forced failure, if a test has ordered one.
    pub fn take_failure(&self) -> Option<u16> {
        self.controls().fail.pop_front()
    }

    /// Counts a refusal of `prompt` and returns true while there have been fewer than `times`.
    pub fn refuse_again(&self, prompt: &str, times: u32) -> bool {
        let skipped = prompt.chars().count().saturating_sub(COUNTED_TAIL);
        let tail: String = prompt.chars().skip(skipped).collect();
        let mut controls = self.controls();
        let count = controls.refused.entry(tail).or_default();
        let again = *count < times;
        *count += u32::from(again);
        again
    }

    /// Returns the input tokens to report for a request of `bytes`.
    pub fn input_tokens(&self, bytes: usize) -> u64 {
        let estimate = u64::try_from(bytes / 4).unwrap_or(u64::MAX).max(1);
        self.controls().input_tokens.unwrap_or(estimate)
    }

    /// Returns the number of the next request, from 1.
    pub fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns an id that neither this server nor an earlier one has given out.
    pub fn fresh_id(&self, prefix: &str) -> String {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}_{:016x}", RandomState::new().hash_one(number))
    }
}

fn statuses(value: &Value) -> Option<VecDeque<u16>> {
    let status = |code: &Value| {
        let code = u16::try_from(code.as_u64()?).ok()?;
        (200..600).contains(&code).then_some(code)
    };
    value.as_array()?.iter().map(status).collect()
}

fn counts(value: &Value) -> Option<BTreeMap<String, u32>> {
    let count = |(key, count): (&String, &Value)| {
        let count = u32::try_from(count.as_u64()?).ok()?;
        Some((key.clone(), count))
    };
    value.as_object()?.iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_and_a_wrong_one_changes_nothing() {
        let state = State::default();
        state.change(&json!({"done": "forget", "fail": [429, 500], "input_tokens": 9})).unwrap();
        let before = state.show();
        for wrong in
            [json!([]), json!({"done": "maybe"}), json!({"fail": [429], "input_tokens": -1}), json!({"fial": []})]
        {
            assert!(state.change(&wrong).is_err(), "{wrong}");
        }
        assert_eq!(state.show(), before);
        assert!(!state.obeys_done());
        assert_eq!(state.take_failure(), Some(429));
        assert_eq!(state.input_tokens(4000), 9);
    }

    #[test]
    fn refusals_are_counted_for_each_prompt() {
        let state = State::default();
        let refused: Vec<bool> = (0..3).map(|_| state.refuse_again("a", 2)).collect();
        assert_eq!(refused, [true, true, false]);
        assert!(state.refuse_again("b", 1));
    }

    #[test]
    fn ids_differ() {
        let state = State::default();
        assert_ne!(state.fresh_id("x"), state.fresh_id("x"));
    }
}
