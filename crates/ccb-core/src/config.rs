//! `.ccb/ccb.config`: which agents a project has.
//!
//! Two forms, which may follow one another in one file: a list of `name:provider` or `provider` words
//! (separated by commas, semicolons, blanks or newlines; `#` and `//` start comments), and TOML tables
//! `[agents.NAME]`. A table replaces a word of the same name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{AgentName, nearest};
use crate::provider::{Provider, Rung, TABLE};
use crate::screen::Look;

/// The agents of a project, in the order in which they stand in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The agents.
    pub agents: Vec<AgentConfig>,
}

/// One agent as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// Its name.
    pub name: AgentName,
    /// Its provider, which is also the format of its transcript.
    pub provider: Provider,
    /// The program to run instead of the provider's own CLI.
    pub command: Option<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Environment of the program.
    pub env: BTreeMap<String, String>,
    /// The rung that is forced.
    pub rung: Option<Rung>,
    /// How the end of an answer is known on the watched rung.
    pub completion: Completion,
    /// The transcript file on the watched rung; relative to the project.
    pub transcript: Option<String>,
    /// What the program's screen looks like; none: it is pasted into blindly.
    pub screen: Option<Look>,
    /// How long (ms) it must say nothing for an answer without an end to be over; 0: for ever; none: by the settings.
    pub idle_timeout: Option<u64>,
}

/// How the end of an answer is known on the watched rung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Completion {
    /// By the `CCB_DONE` line, which the agent is asked for.
    #[default]
    Marker,
    /// By the transcript's own record of a turn's end.
    Record,
    /// By silence alone; such an answer is *incomplete*.
    Quiet,
}

/// A configuration that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct ConfigError {
    /// The file, as the user knows it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    agents: BTreeMap<String, toml::Spanned<Table>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    provider: String,
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    rung: Option<Rung>,
    #[serde(default)]
    completion: Completion,
    transcript: Option<String>,
    screen: Option<Look>,
    idle_timeout: Option<f64>,
}

impl AgentConfig {
    /// Returns the agent that has nothing configured but its name and provider.
    pub fn plain(name: AgentName, provider: Provider) -> Self {
        Self {
            name,
            provider,
            command: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            rung: None,
            completion: Completion::default(),
            transcript: None,
            screen: None,
            idle_timeout: None,
        }
    }

    /// Reads a word `name:provider` or `provider`.
    pub fn word(word: &str) -> Result<Self, String> {
        let (name, provider) = word.split_once(':').unwrap_or((word, word));
        let provider = provider_named(provider)?;
        let name = AgentName::new(name).map_err(|e| e.to_string())?;
        Ok(Self::plain(name, provider))
    }

    /// Returns whether it holds something that takes effect only once the user has trusted the file.
    pub fn needs_trust(&self) -> bool {
        self.command.is_some() || !self.args.is_empty() || !self.env.is_empty() || self.transcript.is_some()
    }
}

fn provider_named(name: &str) -> Result<Provider, String> {
    Provider::named(name).ok_or_else(|| {
        let known: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
        match nearest(name, known.iter().copied()) {
            Some(near) => format!("unknown provider `{name}`; did you mean `{near}`?"),
            None => format!("unknown provider `{name}`; known are {}", known.join(", ")),
        }
    })
}

/// Reads the text of `file`.
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let error = |line: usize, what: String| ConfigError { file: file.to_owned(), line, what };
    let tables_from = text.lines().position(|line| line.trim_start().starts_with('['));
    let head = text.lines().take(tables_from.unwrap_or(usize::MAX));
    for (i, line) in head.enumerate() {
        let line = line.split("//").next().unwrap_or_default().split('#').next().unwrap_or_default();
        if let Some((key, _)) = line.split_once('=') {
            let key = key.trim();
            let what = format!("unknown key `{key}`; agents are words `name:provider` or tables `[agents.NAME]`");
            return Err(error(i + 1, what));
        }
        for word in line.split([',', ';', ' ', '\t']).filter(|w| !w.is_empty()) {
            let agent = AgentConfig::word(word).map_err(|what| error(i + 1, what))?;
            if config.agents.iter().any(|known| known.name == agent.name) {
                return Err(error(i + 1, format!("agent `{}` stands twice", agent.name)));
            }
            config.agents.push(agent);
        }
    }
    let Some(from) = tables_from else {
        return Ok(config);
    };
    let body = text.lines().skip(from).collect::<Vec<_>>().join(
        "
",
    );
    let line_of = |offset: usize| from + 1 + body[..offset.min(body.len())].matches('\n').count();
    let tables: File = toml::from_str(&body).map_err(|e| {
        let line = e.span().map_or(from + 1, |span| line_of(span.start));
        error(line, e.message().to_owned())
    })?;
    let mut tables: Vec<(String, toml::Spanned<Table>)> = tables.agents.into_iter().collect();
    tables.sort_by_key(|(_, table)| table.span().start);
    for (name, table) in tables {
        let line = line_of(table.span().start);
        let agent = agent(&name, table.into_inner()).map_err(|what| error(line, what))?;
        match config.agents.iter_mut().find(|known| known.name == agent.name) {
            Some(known) => *known = agent,
            None => config.agents.push(agent),
        }
    }
    Ok(config)
}

fn agent(name: &str, table: Table) -> Result<AgentConfig, String> {
    Ok(AgentConfig {
        name: AgentName::new(name).map_err(|e| e.to_string())?,
        provider: provider_named(&table.provider)?,
        command: table.command,
        args: table.args,
        env: table.env,
        rung: table.rung,
        completion: table.completion,
        transcript: table.transcript,
        screen: table.screen,
        idle_timeout: table.idle_timeout.filter(|seconds| seconds.is_finite()).map(crate::settings::millis),
    })
}

/// Returns the hash by which a configuration's text is trusted.
pub fn trust_hash(text: &str) -> String {
    crate::home::hex(&Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_tables_are_one_list() {
        let text = "codex, reviewer:claude # the critic\n\n[agents.stub]\nprovider = \"codex\"\ncommand = \"./stub\"\ntranscript = \"s.jsonl\"\n";
        let config = parse("ccb.config", text).unwrap();
        let names: Vec<&str> = config.agents.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["codex", "reviewer", "stub"]);
        assert!(config.agents[2].needs_trust() && !config.agents[0].needs_trust());
        assert_eq!(config.agents[2].completion, Completion::Marker);
    }

    #[test]
    fn an_idle_timeout_is_a_number_of_seconds() {
        let read = |value: &str| {
            let text = format!("[agents.x]\nprovider = \"codex\"\nidle_timeout = {value}\n");
            parse("ccb.config", &text).map(|config| config.agents[0].idle_timeout)
        };
        for (value, ms) in [("3", Some(3000)), ("0.5", Some(500)), ("0", Some(0)), ("-1", Some(0)), ("nan", None)] {
            assert_eq!(read(value), Ok(ms), "{value}");
        }
        assert_eq!(read("\"soon\"").unwrap_err().line, 3);
    }

    #[test]
    fn errors_name_file_and_line() {
        let table = [
            ("codex\nclaud", "ccb.config:2: unknown provider `claud`; did you mean `claude`?"),
            ("a:codex a:codex", "ccb.config:1: agent `a` stands twice"),
            (
                "version = 2",
                "ccb.config:1: unknown key `version`; agents are words `name:provider` or tables `[agents.NAME]`",
            ),
            (
                "1x:codex",
                "ccb.config:1: `1x` is not an agent name: expected a letter, then up to 31 letters, digits, `-` or `_`",
            ),
        ];
        for (text, want) in table {
            assert_eq!(parse("ccb.config", text).unwrap_err().to_string(), want);
        }
        let unknown = parse("ccb.config", "codex\n[agents.x]\nprovider = \"codex\"\ncolour = 1\n").unwrap_err();
        assert_eq!(unknown.line, 4);
        assert!(unknown.what.contains("unknown field `colour`"), "{unknown}");
    }
}
