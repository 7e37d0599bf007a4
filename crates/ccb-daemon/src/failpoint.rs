//! A test aid: dies, stops or waits at a named edge, so that tests reach what lies between two actions.
//!
//! `CCB_FAILPOINT` is read once: `<name>=abort` kills this process by SIGKILL at that edge (`<name>=abort:<path>`
//! only while `<path>` does not exist, which it creates: once, whoever starts the process again), `<name>=stop`
//! stops it, `<name>=wait:<path>` creates `<path>.reached` and goes on once `<path>` exists. Unset, as it
//! always is outside tests, an edge costs one load and a branch.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use crate::process::{Signal, raise};

/// The variable.
pub const VARIABLE: &str = "CCB_FAILPOINT";

const RECHECK: Duration = Duration::from_millis(5);

static POINT: LazyLock<Option<Point>> = LazyLock::new(|| std::env::var(VARIABLE).ok().as_deref().and_then(parse));

static SABOTAGE: LazyLock<String> = LazyLock::new(|| std::env::var("CCB_SABOTAGE").unwrap_or_default());

#[derive(Debug, PartialEq, Eq)]
struct Point {
    name: String,
    action: Action,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Abort,
    AbortOnce(PathBuf),
    Stop,
    Wait(PathBuf),
}

/// Returns whether a point is set whose name starts with `prefix`.
pub fn armed(prefix: &str) -> bool {
    POINT.as_ref().is_some_and(|point| point.name.starts_with(prefix))
}

/// Returns whether a safeguard is switched off for a test that must turn red without it
/// (`CCB_SABOTAGE=<name>,…`). Release builds have no such switch.
pub fn sabotaged(name: &str) -> bool {
    cfg!(debug_assertions) && SABOTAGE.split(',').any(|word| word == name)
}

/// Passes the edge `name`.
pub async fn hit(name: &str) {
    if let Some(path) = strike(name) {
        while !path.exists() {
            tokio::time::sleep(RECHECK).await;
        }
    }
}

/// Passes the edge `name` on a thread that may block.
pub fn hit_blocking(name: &str) {
    if let Some(path) = strike(name) {
        let recheck = rustix::event::Timespec { tv_sec: 0, tv_nsec: RECHECK.subsec_nanos().into() };
        while !path.exists() {
            let _interrupted = rustix::event::poll(&mut [], Some(&recheck));
        }
    }
}

/// Does what is to be done at `name`; returns what remains to be waited for.
fn strike(name: &str) -> Option<&'static Path> {
    let point = POINT.as_ref().filter(|point| point.name == name)?;
    let signal = match &point.action {
        Action::Abort => Signal::KILL,
        Action::AbortOnce(path) => {
            if std::fs::OpenOptions::new().write(true).create_new(true).open(path).is_err() {
                return None;
            }
            Signal::KILL
        }
        Action::Stop => Signal::STOP,
        Action::Wait(path) => {
            let mut reached = path.clone().into_os_string();
            reached.push(".reached");
            std::fs::write(reached, "").expect("a failpoint's directory is writable");
            return Some(path);
        }
    };
    raise(signal).expect("a process may signal itself");
    None
}

fn parse(text: &str) -> Option<Point> {
    let (name, action) = text.split_once('=')?;
    let action = match action {
        "abort" => Action::Abort,
        "stop" => Action::Stop,
        _ => match action.split_once(':')? {
            ("abort", path) => Action::AbortOnce(path.into()),
            ("wait", path) => Action::Wait(path.into()),
            _ => return None,
        },
    };
    Some(Point { name: name.to_owned(), action })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_name_and_an_action() {
        let point = |action| Some(Point { name: "paste.loaded".to_owned(), action });
        assert_eq!(parse("paste.loaded=abort"), point(Action::Abort));
        assert_eq!(parse("paste.loaded=abort:/tmp/x"), point(Action::AbortOnce("/tmp/x".into())));
        assert_eq!(parse("paste.loaded=stop"), point(Action::Stop));
        assert_eq!(parse("paste.loaded=wait:/tmp/a=b"), point(Action::Wait("/tmp/a=b".into())));
        for rubbish in ["", "x", "x=", "x=y"] {
            assert_eq!(parse(rubbish), None, "{rubbish}");
        }
    }
}
