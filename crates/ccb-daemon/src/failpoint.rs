//! A test aid: dies, stops or waits at a named edge, so that tests reach what lies between two actions.
//!
//! `CCB_FAILPOINT` is read once: `<name>=abort` kills this process by SIGKILL at that edge, `<name>=stop` stops it,
//! `<name>=panic` panics, `<name>=hang` never goes on, `<name>=stall:<seconds>` goes on after that time. Each takes a
//! further `:<path>`: then only while `<path>` does not exist, which it creates: once, whoever starts the process
//! again. `<name>=panic-while:<path>` panics as long as `<path>` exists, `<name>=fail-while:<path>` has what is done
//! there fail as long, `<name>=wait:<path>` creates `<path>.reached` and goes on once `<path>` exists. Unset, as it
//! always is outside tests, an edge costs one load and a branch.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use ccb_core::settings::millis;

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
    /// The file that says that it has happened.
    once: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Abort,
    Stop,
    Panic,
    PanicWhile(PathBuf),
    FailWhile(PathBuf),
    Hang,
    Stall(Duration),
    Wait(PathBuf),
}

/// What remains to be waited for at an edge.
enum Until {
    Exists(&'static Path),
    Over(Duration),
    Never,
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

/// Returns whether what is done at `name` is to fail.
pub fn fails(name: &str) -> bool {
    POINT.as_ref().is_some_and(|point| match &point.action {
        Action::FailWhile(path) => point.name == name && path.exists(),
        Action::Abort
        | Action::Stop
        | Action::Panic
        | Action::PanicWhile(_)
        | Action::Hang
        | Action::Stall(_)
        | Action::Wait(_) => false,
    })
}

/// Passes the edge `name`.
pub async fn hit(name: &str) {
    match strike(name) {
        None => {}
        Some(Until::Exists(path)) => {
            while !path.exists() {
                tokio::time::sleep(RECHECK).await;
            }
        }
        Some(Until::Over(time)) => tokio::time::sleep(time).await,
        Some(Until::Never) => std::future::pending().await,
    }
}

/// Passes the edge `name` on a thread that may block.
pub fn hit_blocking(name: &str) {
    let Some(until) = strike(name) else { return };
    let began = std::time::Instant::now();
    let recheck = rustix::event::Timespec { tv_sec: 0, tv_nsec: RECHECK.subsec_nanos().into() };
    while match &until {
        Until::Exists(path) => !path.exists(),
        Until::Over(time) => began.elapsed() < *time,
        Until::Never => true,
    } {
        let _interrupted = rustix::event::poll(&mut [], Some(&recheck));
    }
}

/// Does what is to be done at `name`; returns what remains to be waited for.
fn strike(name: &str) -> Option<Until> {
    let point = POINT.as_ref().filter(|point| point.name == name)?;
    if let Some(path) = &point.once
        && std::fs::OpenOptions::new().write(true).create_new(true).open(path).is_err()
    {
        return None;
    }
    let signal = match &point.action {
        Action::Abort => Signal::KILL,
        Action::Stop => Signal::STOP,
        Action::Panic => panic!("as CCB_FAILPOINT demands at {name}"),
        Action::PanicWhile(path) => {
            assert!(!path.exists(), "as CCB_FAILPOINT demands at {name}");
            return None;
        }
        Action::FailWhile(_) => return None,
        Action::Hang => return Some(Until::Never),
        Action::Stall(time) => return Some(Until::Over(*time)),
        Action::Wait(path) => {
            let mut reached = path.clone().into_os_string();
            reached.push(".reached");
            std::fs::write(reached, "").expect("a failpoint's directory is writable");
            return Some(Until::Exists(path));
        }
    };
    raise(signal).expect("a process may signal itself");
    None
}

fn parse(text: &str) -> Option<Point> {
    let (name, action) = text.split_once('=')?;
    let (word, rest) = action.split_once(':').map_or((action, None), |(word, rest)| (word, Some(rest)));
    let (action, once) = match (word, rest) {
        ("abort", once) => (Action::Abort, once),
        ("stop", once) => (Action::Stop, once),
        ("panic", once) => (Action::Panic, once),
        ("hang", once) => (Action::Hang, once),
        ("panic-while", Some(path)) => (Action::PanicWhile(path.into()), None),
        ("fail-while", Some(path)) => (Action::FailWhile(path.into()), None),
        ("wait", Some(path)) => (Action::Wait(path.into()), None),
        ("stall", Some(rest)) => {
            let (seconds, once) = rest.split_once(':').map_or((rest, None), |(seconds, once)| (seconds, Some(once)));
            let seconds = seconds.parse().ok().filter(|seconds: &f64| seconds.is_finite())?;
            (Action::Stall(Duration::from_millis(millis(seconds))), once)
        }
        _ => return None,
    };
    Some(Point { name: name.to_owned(), action, once: once.map(PathBuf::from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_name_and_an_action() {
        let point = |action, once: Option<&str>| {
            Some(Point { name: "paste.loaded".to_owned(), action, once: once.map(PathBuf::from) })
        };
        assert_eq!(parse("paste.loaded=abort"), point(Action::Abort, None));
        assert_eq!(parse("paste.loaded=abort:/tmp/x"), point(Action::Abort, Some("/tmp/x")));
        assert_eq!(parse("paste.loaded=stop"), point(Action::Stop, None));
        assert_eq!(parse("paste.loaded=hang:/tmp/x"), point(Action::Hang, Some("/tmp/x")));
        assert_eq!(parse("paste.loaded=stall:10"), point(Action::Stall(Duration::from_secs(10)), None));
        assert_eq!(parse("paste.loaded=stall:1:/x"), point(Action::Stall(Duration::from_secs(1)), Some("/x")));
        assert_eq!(parse("paste.loaded=panic-while:/x"), point(Action::PanicWhile("/x".into()), None));
        assert_eq!(parse("paste.loaded=fail-while:/x"), point(Action::FailWhile("/x".into()), None));
        assert_eq!(parse("paste.loaded=wait:/tmp/a=b"), point(Action::Wait("/tmp/a=b".into()), None));
        for rubbish in ["", "x", "x=", "x=y", "x=wait", "x=stall:soon"] {
            assert_eq!(parse(rubbish), None, "{rubbish}");
        }
    }
}
