//! The doctor's look at the environment and at the programs that are installed.

use std::io;
use std::process::{Command, Stdio};

use super::Finding;
use crate::environment::Environment;
use crate::{Context, program};

/// The oldest tmux whose formats and buffers we use.
const TMUX: (u32, u32) = (3, 2);

/// Variables of ccb that change what it does, and what they change.
const SWITCHES: &[(&str, &str)] = &[
    ("CCB_ASKD_AUTOSTART", "askd is not started by itself if it is off"),
    ("CCB_ASKD_LISTEN", "askd opens a TCP port too"),
    ("CCB_FAILPOINT", "a test aid: askd dies or stops at a named edge"),
    ("CCB_FORCE_REBIND", "what others own is taken over"),
    ("CCB_RUN_DIR", "names the home of a project"),
];

/// Returns what is to be said of the environment.
pub(super) fn environment(context: &Context) -> Vec<Finding> {
    let environment = &context.environment;
    let mut findings = Vec::new();
    match locale(environment) {
        Some(locale) if is_utf8(locale) => findings.push(Finding::ok("environment", format!("the locale is {locale}"))),
        locale => {
            let what = format!(
                "the locale ({}) is not UTF-8: agents' interfaces are drawn wrongly",
                locale.unwrap_or("none is set")
            );
            findings.push(Finding::note("environment", what).mend("export LANG=C.UTF-8"));
        }
    }
    for (name, means) in SWITCHES {
        if let Some(value) = environment.text(name) {
            findings.push(Finding::note("environment", format!("{name}={value} is set: {means}")));
        }
    }
    findings.extend(watches(watch()));
    findings
}

/// Tries what askd does to hear of agents' records.
#[cfg(target_os = "linux")]
fn watch() -> io::Result<()> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let watches = init(CreateFlags::CLOEXEC)?;
    add_watch(&watches, "/", WatchFlags::CREATE)?;
    Ok(())
}

/// Elsewhere the system sets no such limits.
#[cfg(not(target_os = "linux"))]
fn watch() -> io::Result<()> {
    Ok(())
}

/// Returns what is to be said of files that cannot be watched.
fn watches(tried: io::Result<()>) -> Option<Finding> {
    let error = tried.err()?;
    let what = format!("files cannot be watched ({error}): agents' records are looked at twice a second instead");
    let mend = "allow more: sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=1048576";
    Some(Finding::note("environment", what).mend(mend))
}

fn locale(environment: &Environment) -> Option<&str> {
    ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| environment.text(name))
}

fn is_utf8(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Returns what is to be said of the programs.
pub(super) fn programs(context: &Context) -> Vec<Finding> {
    let mut findings = vec![tmux(context)];
    findings.extend(ours(context));
    findings
}

fn tmux(context: &Context) -> Finding {
    let install = "install it: `sudo apt install tmux`, `sudo dnf install tmux` or `brew install tmux`";
    let Some(path) = program::on_path(&context.environment, "tmux") else {
        return Finding::fault("tmux", "tmux is not on PATH, and the agents run in its panes", install);
    };
    let said = Command::new(&path).arg("-V").stdin(Stdio::null()).output();
    let said = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default();
    match tmux_version(&said) {
        Some(version) if version >= TMUX => Finding::ok("tmux", said),
        Some(_) => Finding::fault("tmux", format!("{said} is too old, {}.{} is needed", TMUX.0, TMUX.1), install),
        None => Finding::note("tmux", format!("{} does not tell its version: `{said}`", path.display())),
    }
}

/// Reads `tmux -V`: `tmux 3.3a`, `tmux next-3.4`.
fn tmux_version(said: &str) -> Option<(u32, u32)> {
    let word = said.split_whitespace().nth(1)?;
    let word = word.rsplit('-').next()?;
    let (major, minor) = word.split_once('.').unwrap_or((word, "0"));
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, digits.parse().ok()?))
}

/// Our own programs belong together, and the one that a pane's agent finds should be this one.
fn ours(context: &Context) -> Vec<Finding> {
    let again = "install ccb again: `ccb`, `ask` and `askd` belong into one directory";
    let Ok(own) = program::own() else {
        return vec![Finding::note("programs", "it cannot be told where this program is")];
    };
    let mut findings = Vec::new();
    for name in ["ccb", "ask", "askd"] {
        let beside = own.with_file_name(name);
        if !beside.exists() {
            findings.push(Finding::fault("programs", format!("{} is missing", beside.display()), again));
            continue;
        }
        let found = program::on_path(&context.environment, name).and_then(|found| found.canonicalize().ok());
        let same = beside.canonicalize().ok();
        if let Some(found) = found.filter(|found| Some(found) != same.as_ref()) {
            let what = format!("PATH has another `{name}` first: {}, this is {}", found.display(), beside.display());
            findings.push(Finding::note("programs", what).mend("remove one of them, or change the order in PATH"));
        }
    }
    if findings.is_empty() {
        let version = env!("CARGO_PKG_VERSION");
        findings.push(Finding::ok(
            "programs",
            format!("ccb {version}, ask and askd in {}", own.parent().unwrap_or(&own).display()),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_watched_are_told_with_what_mends_it() {
        assert_eq!(watches(Ok(())), None);
        let finding = watches(Err(rustix::io::Errno::MFILE.into())).expect("a finding");
        assert!(finding.what.contains("Too many open files") && finding.what.contains("twice a second"), "{finding:?}");
        assert!(finding.mend.is_some_and(|mend| mend.contains("max_user_instances")));
    }

    #[test]
    fn tmux_tells_its_version_in_several_ways() {
        let table = [
            ("tmux 3.3a", Some((3, 3))),
            ("tmux 3.5", Some((3, 5))),
            ("tmux next-3.4", Some((3, 4))),
            ("tmux 2.8", Some((2, 8))),
            ("tmux master", None),
            ("", None),
        ];
        for (said, version) in table {
            assert_eq!(tmux_version(said), version, "{said}");
        }
        assert!(tmux_version("tmux 3.1c") < Some(TMUX) && tmux_version("tmux 3.2") >= Some(TMUX));
    }

    #[test]
    fn what_is_switched_by_variables_is_told() {
        let of = |pairs: &[(&str, &str)]| {
            let context = Context { environment: pairs.iter().copied().collect(), cwd: "/".into() };
            environment(&context).into_iter().map(|finding| finding.what).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(of(&[("LANG", "de_DE.utf8")]), "the locale is de_DE.utf8");
        assert!(of(&[("LANG", "C"), ("CCB_ASKD_AUTOSTART", "0")]).contains("CCB_ASKD_AUTOSTART=0 is set"));
        assert!(of(&[("LC_ALL", "C"), ("LANG", "C.UTF-8")]).contains("(C) is not UTF-8"));
        assert!(of(&[]).contains("none is set"));
    }
}
