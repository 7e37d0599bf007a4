//! What an agent is given at its launch so that it can reach the others: our MCP server, and a few words.
//!
//! Given by command line and protocol for this launch only; nothing of the user's is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ccb_core::home::file;
use ccb_core::id::AgentName;
use ccb_core::instructions;
use toml::{Table, Value};

use crate::agents::Agents;
use crate::files::Files;
use crate::mount::read_small;

/// How long (s) a tool of ours may take: longer than its longest wait.
const TOOL_TIMEOUT_S: i64 = 660;

/// How long (s) our server may take to start: it needs milliseconds, a loaded machine more.
const START_TIMEOUT_S: i64 = 30;

/// How `ccb mcp` is started for one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct McpServer {
    /// The program.
    pub(crate) program: String,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Variables that its starter may not hand on by itself.
    pub(crate) env: BTreeMap<String, String>,
}

/// Returns how `ccb mcp` is started for the agent whose environment this is.
pub(crate) fn mcp_server(ccb: &Path, project: &Path, env: &BTreeMap<String, String>) -> McpServer {
    let kept = ["CCB_CALLER", "CCB_RUN_DIR", "XDG_STATE_HOME"];
    let kept = kept.iter().filter_map(|name| Some(((*name).to_owned(), env.get(*name)?.clone())));
    McpServer {
        program: ccb.display().to_string(),
        args: vec!["mcp".into(), "--project".into(), project.display().to_string()],
        env: kept.collect(),
    }
}

impl McpServer {
    /// Returns the options by which Codex starts it and lets its tools run without asking.
    ///
    /// Codex joins tables key by key: ours and another `mcp_servers.ccb` could be one that it refuses to start with.
    /// So a server of that name that the user has configured stays, and ours is not given.
    pub(crate) fn codex_options(&self, project: &Path, env: &BTreeMap<String, String>) -> Vec<String> {
        let home = env.get("CODEX_HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let home = home.or_else(|| Some(Path::new(env.get("HOME")?).join(".codex")));
        let mut files = home.into_iter().chain([project.join(".codex")]).map(|dir| dir.join("config.toml"));
        if files.any(|file| read_small(&file).is_ok_and(|text| has_server(&text))) {
            return Vec::new();
        }
        let text = |text: &String| Value::String(text.clone());
        let env: Table = self.env.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        let server: Table = [
            ("command", text(&self.program)),
            ("args", Value::Array(self.args.iter().map(text).collect())),
            ("env", Value::Table(env)),
            ("startup_timeout_sec", Value::Integer(START_TIMEOUT_S)),
            ("tool_timeout_sec", Value::Integer(TOOL_TIMEOUT_S)),
            ("default_tools_approval_mode", Value::String("approve".into())),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        vec!["-c".into(), format!("mcp_servers.ccb={}", Value::Table(server))]
    }
}

impl McpServer {
    /// Returns what Claude's `--mcp-config` takes. Its tools are there from the start, and not only their names.
    pub(crate) fn claude_config(&self) -> serde_json::Value {
        let server = serde_json::json!({
            "type": "stdio", "command": self.program, "args": self.args, "env": self.env, "alwaysLoad": true,
        });
        serde_json::json!({ "mcpServers": { "ccb": server } })
    }
}

impl McpServer {
    /// Returns what stands in OpenCode's configuration for it.
    pub(crate) fn opencode_config(&self) -> serde_json::Value {
        let command: Vec<&String> = std::iter::once(&self.program).chain(&self.args).collect();
        serde_json::json!({
            "type": "local", "command": command, "environment": self.env, "enabled": true,
            "timeout": TOOL_TIMEOUT_S * 1000,
        })
    }
}

/// Returns whether a configuration of Codex has a server of our name.
fn has_server(text: &str) -> bool {
    let config: Option<Table> = text.parse().ok();
    config.is_some_and(|config| config.get("mcp_servers").is_some_and(|servers| servers.get("ccb").is_some()))
}

/// Returns what an agent is told about itself and the others that are known now.
pub(crate) fn words(agents: &Agents, agent: &AgentName, files: &Files) -> String {
    let table = agents.lock();
    let others = table.values().filter(|slot| slot.config.name != *agent);
    let others: Vec<_> = others.map(|slot| (slot.config.name.clone(), slot.config.provider.row().display)).collect();
    let (project, bin) = (files.home().work_dir().display().to_string(), files.path(file::BIN).display().to_string());
    instructions::instructions(agent, &project, &bin, &others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_kind_reach_codex_as_they_are() {
        let project = "/home/u/a b's \"$(touch X)\"\\ 你好\n\t{x = 1}, # ]";
        let env: BTreeMap<String, String> =
            [("CCB_RUN_DIR", "/state dir/$HOME"), ("CCB_CALLER", "reviewer"), ("SECRET_KEY", "sk-1"), ("PATH", "/bin")]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
        let server = mcp_server(Path::new("/opt/it's \"here\"/ccb"), Path::new(project), &env);
        let options = server.codex_options(Path::new("/nowhere"), &env);
        assert_eq!(options[0], "-c");
        assert!(!options[1].contains("sk-1"), "{}", options[1]);
        let (key, value) = options[1].split_once('=').unwrap();
        let read: Table = format!("it = {value}").parse().unwrap();
        assert_eq!(key, "mcp_servers.ccb");
        assert_eq!(read["it"]["command"].as_str(), Some("/opt/it's \"here\"/ccb"));
        assert_eq!(read["it"]["args"][2].as_str(), Some(project));
        let env = read["it"]["env"].as_table().unwrap();
        assert_eq!(env.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["CCB_CALLER", "CCB_RUN_DIR"]);
        assert_eq!(env["CCB_RUN_DIR"].as_str(), Some("/state dir/$HOME"));
    }

    #[test]
    fn a_server_of_the_users_own_stays() {
        let dir = tempfile::tempdir().unwrap();
        let env: BTreeMap<String, String> = [("CODEX_HOME".to_owned(), dir.path().display().to_string())].into();
        let server = mcp_server(Path::new("/ccb"), Path::new("/p"), &env);
        let options = |text: &str| {
            std::fs::write(dir.path().join("config.toml"), text).unwrap();
            server.codex_options(Path::new("/nowhere"), &env).len()
        };
        assert_eq!(options("[mcp_servers.other]\nurl = \"x\"\n"), 2);
        assert_eq!(options("not toml ["), 2);
        assert_eq!(options("[mcp_servers.ccb]\nurl = \"x\"\n"), 0);
        assert_eq!(server.codex_options(dir.path(), &BTreeMap::new()).len(), 2, "a project's is in its .codex");
    }
}
