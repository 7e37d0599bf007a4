//! The ways to drive each provider, best first, and which one an agent takes.
//!
//! A way is a row: a rung, what the installed CLI must be able to do for it, and how a launch is prepared. The best
//! one that fits and has not broken is taken, and people are told why. Nothing else names a provider's transport.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ccb_core::config::AgentConfig;
use ccb_core::id::AgentName;
use ccb_core::provider::{Provider, Rung};
use ccb_core::wire::{Code, Refusal, ServerSpec};
use futures_util::future::BoxFuture;

use super::{Launch, Line, claude, codex, droid, gemini, opencode, watched};
use crate::agents::Agents;
use crate::engine::Engine;
use crate::files::Files;
use crate::injection::McpServer;
use crate::process::Identity;

/// How long a CLI may take to say what it can.
const PROBE: Duration = Duration::from_secs(20);

/// For how long a file's answer is good, in milliseconds: what only leads to the CLI stays the same when that changes.
const GOOD_FOR: i64 = 24 * 60 * 60 * 1000;

/// How many characters of a complaint people are shown.
const COMPLAINT: usize = 200;

/// One way to drive a provider's own CLI.
pub(crate) struct Way {
    /// The provider.
    pub(crate) provider: Provider,
    /// The rung.
    pub(crate) rung: Rung,
    /// Says why the installed CLI cannot be driven so.
    pub(crate) fits: for<'a> fn(&'a Probe<'a>) -> BoxFuture<'a, Result<(), String>>,
    /// Whether a launch is prepared by what the CLI says of itself: [`Launching::help`] and [`Launching::version`].
    pub(crate) asks: bool,
    /// Prepares a launch.
    pub(crate) prepare: fn(&Launching) -> Result<Ready, Refusal>,
}

impl Way {
    fn choice(&self) -> Choice {
        Choice { rung: self.rung, asks: self.asks, prepare: self.prepare }
    }
}

/// All ways, a line for each provider. Their order says nothing: a provider's ladder is in its row.
const WAYS: [&[Way]; 5] =
    [claude::WAYS, codex::launch::WAYS, droid::launch::WAYS, gemini::WAYS, opencode::launch::WAYS];

/// Returns all ways.
fn ways() -> impl Iterator<Item = &'static Way> {
    WAYS.iter().copied().flatten()
}

/// How a configured command is driven, whatever its provider.
const COMMAND: fn(&Launching) -> Result<Ready, Refusal> = |launching| Ok(watched::prepare(launching));

/// What a launch is prepared from.
pub(crate) struct Launching {
    /// The agent.
    pub(crate) agent: AgentName,
    /// How it is configured.
    pub(crate) config: AgentConfig,
    /// The rung that it is launched on.
    pub(crate) rung: Rung,
    /// Its program.
    pub(crate) program: String,
    /// What the program says to `--help`, and its version, where the way wants to know it.
    pub(crate) help: String,
    /// See `help`.
    pub(crate) version: Option<Version>,
    /// Whether it acts without asking (`-a`).
    pub(crate) auto: bool,
    /// The environment of all that is started.
    pub(crate) env: BTreeMap<String, String>,
    /// The provider's session to go on in, if there is one.
    pub(crate) session: Option<String>,
    /// What it is told about itself and the others.
    pub(crate) words: String,
    /// Our MCP server.
    pub(crate) mcp: McpServer,
    /// The home.
    pub(crate) files: Arc<Files>,
    /// The process in the pane that the launch is for.
    pub(crate) runner: Identity,
}

/// A launch that is prepared.
pub(crate) struct Ready {
    /// A server that runs beside the TUI.
    pub(crate) server: Option<ServerSpec>,
    /// The TUI's command line; none: the transport orders it once the server can be joined.
    pub(crate) tui: Option<Vec<String>>,
    /// Variables of this launch alone, beside those of every agent.
    pub(crate) env: BTreeMap<String, String>,
    /// The session that was chosen for it, to be kept.
    pub(crate) session: Option<String>,
    /// What a transport is told that drives the agent on this rung already.
    pub(crate) anew: Option<Launch>,
    /// The transport.
    pub(crate) drive: Drive,
}

/// A transport, not yet running: it ends with its tasks.
pub(crate) type Drive = Box<dyn FnOnce(Line, Agents) -> BoxFuture<'static, ()> + Send>;

impl Ready {
    /// Returns a launch with nothing but a TUI and its transport.
    pub(crate) fn tui(argv: Vec<String>, drive: Drive) -> Self {
        Self { server: None, tui: Some(argv), env: BTreeMap::new(), session: None, anew: None, drive }
    }
}

/// The way that was chosen.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    rung: Rung,
    /// Whether its preparation depends on the program's version.
    asks: bool,
    prepare: fn(&Launching) -> Result<Ready, Refusal>,
}

impl Choice {
    /// Returns what the program says to `--help`, and its version: kept since it was probed, where the way asks for it.
    pub(crate) async fn words(self, probe: &Probe<'_>) -> (String, Option<Version>) {
        if !self.asks {
            return (String::new(), None);
        }
        (probe.says(&["--help"]).await.unwrap_or_default(), probe.version().await.ok())
    }

    /// Prepares a launch on this way.
    pub(crate) fn prepare(self, launching: &Launching) -> Result<Ready, Refusal> {
        debug_assert_eq!(self.rung, launching.rung, "a launch is prepared on the rung that was chosen");
        (self.prepare)(launching)
    }
}

/// An installed CLI, and what it was asked.
pub(crate) struct Probe<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    /// Its environment.
    pub(crate) env: &'a BTreeMap<String, String>,
    /// Where answers are kept, for that very file.
    pub(crate) engine: &'a Engine,
    /// Since when they are good: what only leads to the CLI stays the same file when that is updated.
    pub(crate) since: i64,
    /// Whether the user forces the rung that is asked for.
    pub(crate) forced: bool,
}

impl Probe<'_> {
    /// Returns what the program says to these arguments, kept for that very file; or what is wrong with it.
    pub(crate) async fn says(&self, args: &[&str]) -> Result<String, String> {
        let words = args.join(" ");
        let called = self.program.file_name().unwrap_or_default().to_string_lossy();
        let data = std::fs::metadata(self.program).map_err(|error| format!("`{called}` cannot be read: {error}"))?;
        let key = format!("probe.{}:{}:{:?}:{words}", self.program.display(), data.len(), data.modified().ok());
        let (kept, now) = (key.clone(), crate::clock::wall());
        if let Ok(Some(entry)) = self.engine.look(move |view| view.store.meta(&kept).ok().flatten()).await
            && let Some(said) = still_good(&entry, now, self.since)
        {
            return Ok(said.to_owned());
        }
        let asked = tokio::process::Command::new(self.program)
            .args(args)
            .env_clear()
            .envs(self.env)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PROBE, asked)
            .await
            .map_err(|_elapsed| format!("`{called} {words}` says nothing within {} s", PROBE.as_secs()))?
            .map_err(|error| format!("`{called}` cannot be run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // What fails may be mended without a change of its file.
        if !output.status.success() {
            let complaint = complaint(&String::from_utf8_lossy(&output.stderr), &said);
            return Err(format!("`{called} {words}` fails ({}){complaint}", output.status));
        }
        let entry = format!("{now} {said}");
        self.engine.look(move |view| view.store.set_meta(&key, &entry).ok()).await.ok();
        Ok(said)
    }

    /// Returns the program's version: the first word of `--version` that is one; or why there is none.
    pub(crate) async fn version(&self) -> Result<Version, String> {
        let said = self.says(&["--version"]).await?;
        said.split_whitespace().find_map(Version::read).ok_or_else(|| "it does not say its version".into())
    }
}

/// Returns what a kept answer says, unless it is too old, was given before `since`, or is of another form.
fn still_good(entry: &str, now: i64, since: i64) -> Option<&str> {
    let (at, said) = entry.split_once(' ')?;
    let at: i64 = at.parse().ok()?;
    (at >= since && (at..at.saturating_add(GOOD_FOR)).contains(&now)).then_some(said)
}

/// Returns the first line of what a program complains of, after a colon.
fn complaint(stderr: &str, stdout: &str) -> String {
    let line = stderr.lines().chain(stdout.lines()).map(str::trim).find(|line| !line.is_empty());
    let shown = |line: &str| line.chars().filter(|c| !c.is_control()).take(COMPLAINT).collect::<String>();
    line.map(|line| format!(": {}", shown(line))).unwrap_or_default()
}

/// A version of a CLI, as far as it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// Reads `1.2.3`, with or without a leading `v` and whatever may follow the numbers.
    pub(crate) fn read(word: &str) -> Option<Self> {
        let mut numbers = word.strip_prefix('v').unwrap_or(word).splitn(3, '.');
        let mut number = || {
            let digits: String = numbers.next()?.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        };
        Some(Self(number()?, number()?, number()?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What drives its provider's CLI of any version.
pub(crate) fn always<'a>(_: &'a Probe<'a>) -> BoxFuture<'a, Result<(), String>> {
    Box::pin(async { Ok(()) })
}

/// Chooses the way for an agent: the best one that fits and is not among the `broken` ones. Returns the way, its rung,
/// and why that one. Nothing is chosen in the place of a rung that the user forces.
pub(crate) async fn choose(
    config: &AgentConfig,
    broken: &BTreeMap<Rung, String>,
    probe: &Probe<'_>,
) -> Result<(Choice, Rung, String), Refusal> {
    if config.command.is_some() {
        return match config.rung {
            None => Ok((
                Choice { rung: Rung::Watched, asks: false, prepare: COMMAND },
                Rung::Watched,
                "a configured command".into(),
            )),
            Some(Rung::Watched) => Ok((
                Choice { rung: Rung::Watched, asks: false, prepare: COMMAND },
                Rung::Watched,
                "forced by the configuration".into(),
            )),
            Some(other) => Err(refuse(config, &format!("a configured command cannot be {}", other.word()))
                .hint("leave `rung` out of its table in .ccb/ccb.config")),
        };
    }
    let row = config.provider.row();
    let way = |rung: Rung| ways().find(|way| way.provider == config.provider && way.rung == rung);
    if let Some(rung) = config.rung {
        let has = || row.rungs.iter().map(|rung| rung.word()).collect::<Vec<_>>().join(", ");
        let Some(way) = way(rung) else {
            return Err(refuse(config, &format!("{} has no {} rung", row.display, rung.word()))
                .hint(format!("it can be: {}", has())));
        };
        (way.fits)(probe).await.map_err(|why| {
            refuse(config, &format!("it cannot be {}: {why}", rung.word()))
                .hint("leave `rung` out of its table in .ccb/ccb.config, and the best one that works is taken")
        })?;
        return Ok((way.choice(), rung, "forced by the configuration".into()));
    }
    let mut passed: Vec<String> = Vec::new();
    for way in row.rungs.iter().filter_map(|rung| way(*rung)) {
        let fits = match broken.get(&way.rung) {
            Some(why) => Err(why.clone()),
            None => (way.fits)(probe).await,
        };
        match fits {
            Ok(()) => {
                let why = if passed.is_empty() { best(config, probe).await } else { passed.join("; ") };
                return Ok((way.choice(), way.rung, why));
            }
            Err(why) => passed.push(format!("not {}: {why}", way.rung.word())),
        }
    }
    let why = if passed.is_empty() { "this version of ccb has no way to drive it".into() } else { passed.join("; ") };
    Err(refuse(config, &why).hint(format!("install a newer one: {}", row.install)))
}

/// Returns the way of a rung for what was started on it already, whatever the installed CLI can do by now.
pub(crate) fn started(provider: Provider, rung: Rung) -> Option<Choice> {
    ways().find(|way| way.provider == provider && way.rung == rung).map(Way::choice)
}

/// Says that the rung is the best one for this CLI.
async fn best(config: &AgentConfig, probe: &Probe<'_>) -> String {
    let display = config.provider.row().display;
    match probe.version().await {
        Ok(version) => format!("the best one for {display} {version}"),
        Err(_) => format!("the best one for {display}"),
    }
}

fn refuse(config: &AgentConfig, why: &str) -> Refusal {
    Refusal::new(Code::Launch, format!("agent `{}` cannot be started: {why}", config.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccb_core::provider::TABLE;

    #[test]
    fn every_rung_of_every_ladder_has_a_way_and_every_way_a_rung() {
        for row in TABLE {
            for rung in row.rungs {
                assert!(ways().any(|way| way.provider == row.provider && way.rung == *rung), "{row:?} {rung:?}");
            }
            assert!(row.rungs.is_sorted(), "the best one is first: {row:?}");
        }
        assert!(ways().all(|way| way.provider.row().rungs.contains(&way.rung)));
    }

    #[test]
    fn an_answer_is_good_for_a_day_and_not_before_it_was_given() {
        let entry = format!("{GOOD_FOR} 1.2.3 (x)\ny");
        let table = [(GOOD_FOR - 1, false), (GOOD_FOR, true), (2 * GOOD_FOR - 1, true), (2 * GOOD_FOR, false)];
        for (now, good) in table {
            assert_eq!(still_good(&entry, now, 0), good.then_some("1.2.3 (x)\ny"), "{now}");
        }
        for (since, good) in [(GOOD_FOR, true), (GOOD_FOR + 1, false)] {
            assert_eq!(still_good(&entry, GOOD_FOR + 1, since).is_some(), good, "{since}");
        }
        // As an earlier version of ours has kept it.
        assert_eq!(still_good("1.2.3 (x)", 0, 0), None);
    }

    #[test]
    fn the_first_line_of_a_complaint_is_shown() {
        let table = [
            ("", "", ""),
            ("\n  Error: \u{1b}[1mno\nmore", "out", ": Error: [1mno"),
            (" \n", "only here\n", ": only here"),
        ];
        for (stderr, stdout, want) in table {
            assert_eq!(complaint(stderr, stdout), want);
        }
    }

    #[test]
    fn versions_are_read_as_each_cli_says_them() {
        let table = [
            ("2.1.330", Some(Version(2, 1, 330))),
            ("v1.2.3-beta.4", Some(Version(1, 2, 3))),
            ("0.169.0", Some(Version(0, 169, 0))),
            ("codex-cli", None),
            ("1.2", None),
            ("(Claude", None),
        ];
        for (word, version) in table {
            assert_eq!(Version::read(word), version, "{word}");
        }
    }
}
