//! `ccb doctor`: looks at all that a working ccb needs, and says of each fault what mends it. It starts nothing and
//! changes nothing. `ccb-cleanup` is its old name.

mod daemon;
mod home;
mod world;

use std::fmt::Write as _;

use serde::Serialize;

use crate::connect::Askd;
use crate::error::CliError;
use crate::{Context, display, exit, output, project};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    /// `--list`, `--clean` and `--kill-zombies` of CCB 5.2's `ccb-cleanup`: here daemons end by themselves, and nothing
    /// that dead ones have left is in anybody's way
    #[arg(long, hide = true, aliases = ["clean", "kill-zombies"], overrides_with = "list")]
    list: bool,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Something does not work, or will not.
    Fault,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What it is about.
    area: &'static str,
    /// How grave it is.
    level: Level,
    /// What was found, and what it means.
    what: String,
    /// What to do about it.
    mend: Option<String>,
}

/// The answer in JSON.
#[derive(Serialize)]
struct Report {
    faults: usize,
    findings: Vec<Finding>,
}

impl Finding {
    fn ok(area: &'static str, what: impl Into<String>) -> Self {
        Self { area, level: Level::Ok, what: what.into(), mend: None }
    }

    fn note(area: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Note, ..Self::ok(area, what) }
    }

    fn fault(area: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Fault, ..Self::ok(area, what) }.mend(mend)
    }

    fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

pub(super) fn run(context: &Context, options: &Options) -> Result<u8, CliError> {
    let findings = findings(context);
    let faults = findings.iter().filter(|finding| finding.level == Level::Fault).count();
    let code = if faults == 0 { exit::OK } else { exit::ERROR };
    if options.json {
        output::print_json(&Report { faults, findings })?;
        return Ok(code);
    }
    let mut text = told(&findings);
    if options.list {
        text.push_str("nothing is to be cleaned up: askd heals its files by itself, and ends when nobody needs it\n");
    }
    output::print(&text)?;
    Ok(code)
}

fn findings(context: &Context) -> Vec<Finding> {
    let mut findings = world::environment(context);
    findings.extend(world::programs(context));
    let place = match project::here(context) {
        Ok(place) => place,
        Err(error) => {
            let mend = error.hints.first().cloned().unwrap_or_default();
            findings.push(Finding::note("project", error.message).mend(mend));
            return findings;
        }
    };
    findings.push(Finding::ok("project", place.home.work_dir().display().to_string()));
    findings.extend(home::checked(&place.home));
    match Askd::of(context, &place, "client") {
        Ok(askd) => findings.extend(daemon::checked(&askd)),
        Err(error) => findings.push(Finding::fault("daemon", error.message, "install ccb again")),
    }
    findings
}

fn told(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Fault => "FAULT",
        };
        [level.to_owned(), finding.area.to_owned(), finding.what.replace('\n', " ")]
    };
    let mut text = String::new();
    for (line, finding) in display::table(&findings.iter().map(row).collect::<Vec<_>>()).lines().zip(findings) {
        text.push_str(line);
        text.push('\n');
        if let Some(mend) = &finding.mend {
            let _ = writeln!(text, "       mend: {mend}");
        }
    }
    let faults = findings.iter().filter(|finding| finding.level == Level::Fault).count();
    let _ = match faults {
        0 => writeln!(text, "\nnothing is wrong"),
        1 => writeln!(text, "\n1 fault"),
        _ => writeln!(text, "\n{faults} faults"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_line_and_its_mend_another() {
        let findings = [
            Finding::ok("tmux", "tmux 3.3a"),
            Finding::fault("disk", "no space is left", "free some"),
            Finding::note("daemon", "none serves").mend("`ccb` starts one"),
        ];
        insta::assert_snapshot!(told(&findings), @r"
        ok     tmux    tmux 3.3a
        FAULT  disk    no space is left
               mend: free some
        note   daemon  none serves
               mend: `ccb` starts one

        1 fault
        ");
    }
}
