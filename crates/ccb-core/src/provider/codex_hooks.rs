//! Hooks that Codex CLI is given for one launch, and whether its user has agreed to them (measured: 0.169.0).
//!
//! Codex runs no hook that its user has not reviewed; what was reviewed is in `config.toml`, by place and content. The
//! review is the user's: nothing here is passed to Codex in its stead.

use std::fmt::Write as _;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

/// The events, as they are configured and as they are reviewed.
pub const EVENTS: &[(&str, &str)] = &[
    ("SessionStart", "session_start"),
    ("UserPromptSubmit", "user_prompt_submit"),
    ("Stop", "stop"),
    ("PermissionRequest", "permission_request"),
];

/// The command. It is the same for every agent and project, so that it is reviewed once: which agent calls is in its
/// environment.
pub const COMMAND: &str = "ccb hook \"$CCB_CALLER\" \"$CCB_HOOK_PROJECT\" || :";

/// How long (s) Codex waits for it at the most.
const LIMIT: i64 = 5;

/// Returns the options that give Codex our hooks, beside those that its user has.
pub fn options() -> Vec<String> {
    let option = |(event, _): &(&str, &str)| {
        let command = Value::String(COMMAND.to_owned());
        ["-c".to_owned(), format!("hooks.{event}=[{{hooks=[{{type=\"command\",command={command},timeout={LIMIT}}}]}}]")]
    };
    EVENTS.iter().flat_map(option).collect()
}

/// Returns whether the user has reviewed our hooks and trusts them, by Codex's `config.toml`.
pub fn are_trusted(config: &str) -> bool {
    let Ok(config) = config.parse::<Table>() else { return false };
    let reviewed = |(_, event): &(&str, &str)| {
        let state = config.get("hooks")?.get("state")?.get(format!("/<session-flags>/config.toml:{event}:0:0"))?;
        let on = state.get("enabled").and_then(Value::as_bool) != Some(false);
        Some(on && state.get("trusted_hash")?.as_str()? == hash(event))
    };
    EVENTS.iter().all(|event| reviewed(event) == Some(true))
}

/// Returns what Codex keeps of a hook that was reviewed.
fn hash(event: &str) -> String {
    let hook = json!({"async": false, "command": COMMAND, "timeout": LIMIT, "type": "command"});
    let hook = json!({"event_name": event, "hooks": [hook]}).to_string();
    Sha256::digest(hook).iter().fold("sha256:".to_owned(), |mut hash, byte| {
        let _ = write!(hash, "{byte:02x}");
        hash
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_counts_only_if_it_was_of_these_very_hooks() {
        let review = |skip: &str, hash: &dyn Fn(&str) -> String| {
            let state = EVENTS.iter().filter(|(_, event)| *event != skip);
            let state = state.map(|(_, event)| {
                format!(
                    "[hooks.state.\"/<session-flags>/config.toml:{event}:0:0\"]\ntrusted_hash = \"{}\"\n",
                    hash(event)
                )
            });
            state.collect::<String>()
        };
        let whole = review("", &hash);
        assert!(are_trusted(&whole), "{whole}");
        assert!(are_trusted(&format!("model = \"x\"\n{whole}")));
        assert!(!are_trusted(&review("stop", &hash)));
        assert!(!are_trusted(&review("", &|_| "sha256:00".into())));
        assert!(!are_trusted(&whole.replace("trusted_hash", "enabled = false\ntrusted_hash")));
        assert!(!are_trusted("") && !are_trusted("not toml ["));
    }

    #[test]
    fn options_are_toml() {
        let options = options();
        assert_eq!(options.len(), 2 * EVENTS.len());
        for option in options.iter().filter(|option| *option != "-c") {
            let read: Table = option.parse().unwrap();
            let (name, groups) = read["hooks"].as_table().unwrap().iter().next().unwrap();
            assert!(EVENTS.iter().any(|(event, _)| event == name));
            assert_eq!(groups[0]["hooks"][0]["command"].as_str(), Some(COMMAND));
        }
    }
}
