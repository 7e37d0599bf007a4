//! `ccb [agents…]`: starts the project's agents, or joins them, and shows them.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use ccb_core::config::{AgentConfig, Config};
use ccb_core::id::{AgentName, nearest};
use ccb_core::provider::TABLE;
use ccb_core::wire::{Beside, Host, Mount, Mounted};

use super::{attach, trust};
use crate::connect::Askd;
use crate::environment::Environment;
use crate::error::{CliError, note};
use crate::project::{self, CONFIG};
use crate::{Context, exit, output};

/// How long the panes may take to open.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own on the command line")]
pub(super) struct Options {
    /// Which agents: configured names, or `name:provider`; without any, all that are configured
    pub(super) agents: Vec<String>,
    /// Let the agents act without asking, for this start only
    #[arg(short, long)]
    pub(super) auto: bool,
    /// Go on with the agents' last conversations
    #[arg(short, long, visible_alias = "restore")]
    pub(super) resume: bool,
    /// Start, but do not show
    #[arg(long)]
    pub(super) detach: bool,
    /// Print one line of JSON, and do not show
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<u8, CliError> {
    attach::need_tmux(context)?;
    let words = words(&options.agents);
    // A mistyped command must not make a project.
    let nowhere = project::find(&context.cwd, context.environment.absolute("HOME").as_deref()).is_none();
    if nowhere {
        agents(&words, &Config::default())?;
    }
    let place = project::here_or_new(context)?;
    let text = project::config_text(&place.home)?.unwrap_or_default();
    let config = trust::parse(&text)?;
    if config.agents.iter().any(AgentConfig::needs_trust) && !trust::is_trusted(&place.home, &text) {
        return Err(CliError::new(format!("{CONFIG} has commands that you have not trusted"))
            .hint("`ccb trust` shows them and asks you"));
    }
    let agents = agents(&words, &config)?;
    let askd = Askd::of(context, &place, "client")?;
    let host = host(&context.environment);
    let env = context.environment.for_agents();
    let mount = Mount { agents, host, env, auto: options.auto, resume: options.resume };
    let shows = mount.host == Host::Own && !options.detach && !options.json && io::stdout().is_terminal();
    if shows {
        return attach::with_instance(context, &askd, || {
            let mounted = askd.call_within(&mount, MOUNT_LIMIT)?;
            tell(&mounted)?;
            if let Some(beside) = &mounted.beside {
                output::print(&elsewhere(beside))?;
            }
            Ok(mounted.attach)
        });
    }
    let mounted = askd.call_within(&mount, MOUNT_LIMIT)?;
    if options.json {
        output::print_json(&mounted)?;
        return Ok(exit::OK);
    }
    tell(&mounted)?;
    match (&mounted.attach, &mounted.beside) {
        (Some(_), _) => drop(output::print("`ccb attach` shows the agents")?),
        (None, Some(beside)) if is_here(&mount.host, beside) && !options.detach => {
            // What runs already is gone to; what was just opened is in sight.
            if mounted.started.is_empty() {
                attach::focus(beside)?;
            }
        }
        (None, Some(beside)) => drop(output::print(&elsewhere(beside))?),
        (None, None) => {}
    }
    Ok(exit::OK)
}

/// Prints what was started, and what the user should know.
fn tell(mounted: &Mounted) -> Result<(), CliError> {
    mounted.notes.iter().for_each(|text| note(text));
    output::print(&told(mounted)).map(drop)
}

/// Returns whether a pane is in the tmux server that we are in.
fn is_here(host: &Host, beside: &Beside) -> bool {
    let real = |path: &str| std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    match host {
        Host::Window { socket, .. } => real(socket) == real(&beside.socket),
        Host::Own => false,
    }
}

/// Says where panes are that cannot be shown here.
fn elsewhere(beside: &Beside) -> String {
    format!("the agents are in pane {} of another tmux: `tmux -S {} attach` shows it", beside.pane, beside.socket)
}

/// Returns the words of a list that commas and blanks separate.
fn words(given: &[String]) -> Vec<String> {
    let words = given.iter().flat_map(|word| word.split([',', ' '])).filter(|word| !word.is_empty());
    let mut unique: Vec<String> = Vec::new();
    for word in words.map(str::to_ascii_lowercase) {
        if !unique.contains(&word) {
            unique.push(word);
        }
    }
    unique
}

/// Returns the agents as askd wants them: configured names, or `name:provider`.
fn agents(words: &[String], config: &Config) -> Result<Vec<String>, CliError> {
    if words.is_empty() && config.agents.is_empty() {
        return Err(CliError::new("no agents are given, and none are configured")
            .hint("name them: `ccb codex` or `ccb writer:codex,reviewer:claude`")
            .hint(format!("or list them in {CONFIG}, in the same words")));
    }
    words.iter().map(|word| agent(word, config)).collect()
}

fn agent(word: &str, config: &Config) -> Result<String, CliError> {
    let is_configured = |name: &str| config.agents.iter().any(|agent| agent.name.as_str() == name);
    if is_configured(word) {
        return Ok(word.to_owned());
    }
    match AgentConfig::word(word) {
        Ok(agent) => Ok(format!("{}:{}", agent.name, agent.provider.row().name)),
        Err(what) if word.contains(':') => Err(CliError::new(what)),
        Err(_) => Err(unknown(word, config)),
    }
}

fn unknown(word: &str, config: &Config) -> CliError {
    let verbs = super::verbs();
    let names = config.agents.iter().map(|agent| agent.name.as_str());
    let known: Vec<&str> =
        names.chain(TABLE.iter().map(|row| row.name)).chain(verbs.iter().map(String::as_str)).collect();
    let error = CliError::new(format!("`{word}` is no agent, no provider and no command"));
    match nearest(word, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error
            .hint("`ccb --help` lists the commands")
            .hint(format!("providers are {}", TABLE.iter().map(|row| row.name).collect::<Vec<_>>().join(", "))),
    }
}

/// Returns where the panes go: beside us if we are in a pane, else into a session of the project's own.
pub(super) fn host(environment: &Environment) -> Host {
    // The variable is `<socket>,<server's pid>,<session>`, and a path may hold commas itself.
    let socket = environment.text("TMUX").and_then(|tmux| tmux.rsplitn(3, ',').nth(2));
    match (socket, environment.text("TMUX_PANE")) {
        (Some(socket), Some(pane)) => Host::Window { socket: socket.to_owned(), pane: pane.to_owned() },
        _ => Host::Own,
    }
}

fn told(mounted: &Mounted) -> String {
    let list = |names: &[AgentName]| names.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", ");
    match (mounted.started.is_empty(), mounted.running.is_empty()) {
        (true, true) => "nothing was started".to_owned(),
        (false, true) => format!("started: {}", list(&mounted.started)),
        (true, false) => format!("running already: {}", list(&mounted.running)),
        (false, false) => format!("started: {}; running already: {}", list(&mounted.started), list(&mounted.running)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        trust::parse("codex reviewer:claude").unwrap()
    }

    #[test]
    fn agents_are_configured_names_or_given_with_their_provider() {
        let given = ["Codex, reviewer".to_owned(), "tester:gemini".to_owned(), "codex".to_owned()];
        assert_eq!(agents(&words(&given), &config()).unwrap(), ["codex", "reviewer", "tester:gemini"]);
        assert_eq!(agents(&words(&["droid".into()]), &config()).unwrap(), ["droid:droid"]);
        assert!(agents(&[], &config()).unwrap().is_empty());
    }

    #[test]
    fn unknown_words_are_errors_with_the_nearest_that_is_known() {
        let text = |word: &str| agents(&[word.to_owned()], &config()).unwrap_err().text();
        insta::assert_snapshot!(text("reviwer"), @r#"
        error: `reviwer` is no agent, no provider and no command
        hint: did you mean `reviewer`?
        "#);
        insta::assert_snapshot!(text("explan"), @r#"
        error: `explan` is no agent, no provider and no command
        hint: did you mean `explain`?
        "#);
        insta::assert_snapshot!(text("zebra"), @r#"
        error: `zebra` is no agent, no provider and no command
        hint: `ccb --help` lists the commands
        hint: providers are codex, claude, gemini, opencode, droid
        "#);
        insta::assert_snapshot!(text("a:claud"), @"error: unknown provider `claud`; did you mean `claude`?");
        insta::assert_snapshot!(agents(&[], &Config::default()).unwrap_err().text(), @r#"
        error: no agents are given, and none are configured
        hint: name them: `ccb codex` or `ccb writer:codex,reviewer:claude`
        hint: or list them in .ccb/ccb.config, in the same words
        "#);
    }

    #[test]
    fn panes_go_where_we_are() {
        let of = |pairs: &[(&str, &str)]| host(&pairs.iter().copied().collect());
        let window = Host::Window { socket: "/t,x/default".into(), pane: "%3".into() };
        assert_eq!(of(&[("TMUX", "/t,x/default,12,0"), ("TMUX_PANE", "%3")]), window);
        assert_eq!((of(&[("TMUX", "/t,1,0")]), of(&[])), (Host::Own, Host::Own));
    }
}
