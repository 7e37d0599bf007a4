//! The process's environment as a value, so that what depends on it can be tested.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use ccb_core::settings;

/// Environment variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<OsString, OsString>);

/// What one process tells another in a pane or a daemon: true there only, so never handed on.
const INTERNAL: &[&str] =
    &["CCB_AGENT", "CCB_CALLER", "CCB_MANAGED", "CCB_PARENT_PID", "CCB_REQ_ID", "CCB_RUN_DIR", "CCB_WORK_DIR"];

/// What describes the terminal or the shell that `ccb` was called in.
const TERMINAL: &[&str] = &["COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM", "_"];

/// What Claude Code (2.1.330) tells the programs that it runs: a Claude that is started with that takes itself for a part of
/// the other, and keeps no records. Its settings, which have such names too, are the user's.
const OF_CLAUDE: &[&str] = &[
    "CLAUDECODE",
    "CLAUDE_PID",
    "CLAUDE_CODE_CHILD_NOTES_DIR",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_EXECPATH",
    "CLAUDE_CODE_SESSION_ATTENDED",
    "CLAUDE_CODE_SESSION_ID",
];

/// How the names begin of whatever else it tells them, and of what tmux does.
const TELLING: &[&str] = &["CLAUDE_CODE_MESSAGING_", "TMUX"];

impl Environment {
    pub(crate) fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// Returns the variable as it is.
    pub(crate) fn raw(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Returns the variable, if it is set, not empty, and text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.raw(name).and_then(OsStr::to_str)
    }

    /// Returns the variable as an absolute path, if it is one.
    pub(crate) fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.raw(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// Returns whether the variable switches something on.
    pub(crate) fn truthy(&self, name: &str) -> bool {
        self.text(name).is_some_and(settings::truthy)
    }

    /// Returns whether the variable switches something off that is on by default.
    pub(crate) fn falsy(&self, name: &str) -> bool {
        self.text(name).is_some_and(settings::falsy)
    }

    /// Returns what the keeper starts with: nothing that belongs to one caller.
    ///
    /// `run_dir` is the home that `CCB_RUN_DIR` names, if it is this project's; `parent` is whether the process that
    /// `CCB_PARENT_PID` names is this project's.
    pub(crate) fn for_keeper(&self, run_dir: Option<OsString>, parent: bool) -> BTreeMap<OsString, OsString> {
        let dropped = |name: &str| match name {
            "CCB_CALLER" | "CCB_REQ_ID" | "CCB_RUN_DIR" => true,
            "CCB_MANAGED" | "CCB_PARENT_PID" => !parent,
            _ => false,
        };
        let wanted = |name: &str| {
            matches!(name, "HOME" | "PATH" | "USER" | "LOGNAME" | "SHELL" | "LANG" | "TMPDIR" | "TZ" | "TERM")
                || name.starts_with("LC_")
                || name.starts_with("XDG_")
                || (name.starts_with("CCB_") && !dropped(name))
        };
        let kept = self.0.iter().filter(|(name, _)| name.to_str().is_some_and(wanted));
        let mut kept: BTreeMap<OsString, OsString> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        // A path that says nothing to us, being relative, must say nothing to the keeper.
        if self.absolute("XDG_STATE_HOME").is_none() {
            kept.remove(OsStr::new("XDG_STATE_HOME"));
        }
        if let Some(run_dir) = run_dir {
            kept.insert("CCB_RUN_DIR".into(), run_dir);
        }
        kept
    }

    /// Returns what agents start with: the user's own environment without what is true only of this terminal.
    /// A variable that is not text cannot be told over the wire and stays behind.
    pub(crate) fn for_agents(&self) -> BTreeMap<String, String> {
        let texts = self.0.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
        texts
            .filter(|(name, _)| !TELLING.iter().any(|begin| name.starts_with(begin)))
            .filter(|(name, _)| ![TERMINAL, INTERNAL, OF_CLAUDE].iter().any(|names| names.contains(name)))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        let names = [
            "HOME",
            "PATH",
            "LC_ALL",
            "XDG_STATE_HOME",
            "TERM",
            "OPENAI_API_KEY",
            "TMUX",
            "TMUX_PANE",
            "PWD",
            "_",
            "CCB_WATCHDOG_INTERVAL_S",
            "CCB_CALLER",
            "CCB_MANAGED",
            "CCB_PARENT_PID",
            "CCB_REQ_ID",
            "CCB_RUN_DIR",
            "LD_PRELOAD",
            "CLAUDECODE",
            "CLAUDE_CODE_CHILD_SESSION",
            "CLAUDE_CODE_MESSAGING_SOCKET",
            "CLAUDE_CODE_USE_BEDROCK",
        ];
        names.into_iter().map(|name| (name, "/x")).collect()
    }

    #[test]
    fn the_keeper_gets_nothing_that_belongs_to_one_caller() {
        let names = |run_dir: Option<&str>, parent: bool| {
            let kept = environment().for_keeper(run_dir.map(Into::into), parent);
            kept.into_keys().map(|name| name.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        let always = "CCB_WATCHDOG_INTERVAL_S HOME LC_ALL PATH TERM XDG_STATE_HOME";
        assert_eq!(names(None, false), always);
        assert_eq!(names(Some("/r"), false), format!("CCB_RUN_DIR {always}"));
        assert_eq!(names(None, true), format!("CCB_MANAGED CCB_PARENT_PID {always}"));
    }

    #[test]
    fn agents_get_the_users_environment_without_this_terminals() {
        let names: Vec<String> = environment().for_agents().into_keys().collect();
        let want = [
            "CCB_WATCHDOG_INTERVAL_S",
            "CLAUDE_CODE_USE_BEDROCK",
            "HOME",
            "LC_ALL",
            "LD_PRELOAD",
            "OPENAI_API_KEY",
            "PATH",
            "XDG_STATE_HOME",
        ];
        assert_eq!(names, want);
    }

    #[test]
    fn switches_are_read_in_any_case() {
        let environment: Environment = [("A", "Off"), ("B", "YES"), ("C", ""), ("D", "rel")].into_iter().collect();
        assert!(environment.falsy("A") && !environment.falsy("B") && !environment.falsy("C"));
        assert!(environment.truthy("B") && !environment.truthy("A") && !environment.truthy("Z"));
        assert_eq!((environment.text("C"), environment.absolute("D")), (None, None));
    }
}
