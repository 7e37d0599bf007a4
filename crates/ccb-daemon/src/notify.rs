//! Telling a human that an agent waits for them: by a mark at its pane, and by a command of the human's own.
//!
//! Each agent has a task of its own, so that a tmux or a command that is slow holds up no other agent. Nothing of a
//! message reaches an argument list: the command gets none, and reads what it is told from its environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ccb_core::id::AgentName;
use ccb_core::paste::neutralise;
use ccb_core::state::Presence;
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::agents::Agents;
use crate::engine::log;
use crate::files::Files;
use crate::process::kill_group;
use crate::tmux::Server;

/// The variable that names the command.
const COMMAND: &str = "CCB_NOTIFY";

/// How long the command may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The most that the command is told of the reason, in characters.
const WHY_LIMIT: usize = 500;

/// Follows what the agents are doing, until the engine has ended.
pub(crate) async fn run(mut presences: UnboundedReceiver<(AgentName, Presence)>, agents: Agents, files: Arc<Files>) {
    let command = command(std::env::var_os(COMMAND));
    let mut tasks: BTreeMap<AgentName, UnboundedSender<Presence>> = BTreeMap::new();
    while let Some((agent, presence)) = presences.recv().await {
        let task = tasks.entry(agent.clone()).or_insert_with(|| {
            let (tell, told) = unbounded_channel();
            let project = files.home().work_dir().to_owned();
            let herald = Herald { agent, agents: agents.clone(), project, command: command.clone(), marked: None };
            tokio::spawn(herald.run(told));
            tell
        });
        task.send(presence).ok();
    }
}

/// Returns the command that a setting names: a program on the PATH, or an absolute path.
fn command(setting: Option<OsString>) -> Option<OsString> {
    let setting = setting.filter(|setting| !setting.is_empty())?;
    let path = Path::new(&setting);
    if path.is_absolute() || path.components().count() == 1 {
        return Some(setting);
    }
    log(&format!("{COMMAND} is neither a program's name nor an absolute path, and is not used: {}", path.display()));
    None
}

/// What tells of one agent.
struct Herald {
    agent: AgentName,
    agents: Agents,
    project: PathBuf,
    command: Option<OsString>,
    /// Which pane, of which server, was marked last, and how; an earlier askd may have marked it otherwise.
    marked: Option<((String, String), bool)>,
}

impl Herald {
    async fn run(mut self, mut presences: UnboundedReceiver<Presence>) {
        let mut waits = false;
        // Whether what was told last still lasts, and was told by an earlier worker: it does not begin with us.
        let mut noted = self.agents.noted(&self.agent).await.is_some();
        let mut inherited = noted;
        // The beginning of a waiting that has not been told yet, by its reason.
        let mut due: Option<String> = None;
        let mut telling: Option<JoinHandle<()>> = None;
        loop {
            tokio::select! {
                presence = presences.recv() => {
                    let Some(presence) = presence else { return };
                    let why = waiting(&presence);
                    match (&why, waits) {
                        (Some(why), false) => due = Some((*why).to_owned()).filter(|_| !std::mem::take(&mut inherited)),
                        (Some(_), true) => {}
                        (None, _) => due = None,
                    }
                    let goes_on = matches!(presence, Presence::Idle | Presence::Busy { .. });
                    if goes_on && std::mem::take(&mut noted) {
                        inherited = false;
                        self.agents.note(&self.agent, "").await;
                    }
                    waits = why.is_some();
                    self.mark(waits).await;
                }
                () = over(&mut telling) => telling = None,
            }
            // One at a time: what has begun meanwhile is told next, if it still lasts.
            if telling.is_none()
                && let Some(why) = due.take()
                && let Some(command) = &self.command
            {
                self.agents.note(&self.agent, &why).await;
                noted = true;
                telling = Some(tokio::spawn(tell(command.clone(), self.agent.clone(), why, self.project.clone())));
            }
        }
    }

    /// Marks the agent's pane, or takes the mark away.
    async fn mark(&mut self, waits: bool) {
        let runner = self.agents.lock().get(&self.agent).and_then(|slot| slot.runner.clone());
        let Some(pane) = runner.and_then(|runner| runner.pane) else { return };
        let wanted = Some((pane.clone(), waits));
        if self.marked == wanted {
            return;
        }
        let server = Server::of_user(PathBuf::from(&pane.0), self.project.clone());
        // Of a pane that has just died nothing is to be said.
        if server.mark(&pane.1, waits).await.is_ok() {
            self.marked = wanted;
        }
    }
}

/// Returns what an agent waits for, if it waits for a human.
fn waiting(presence: &Presence) -> Option<&str> {
    match presence {
        Presence::Waiting { why } => Some(why),
        Presence::Absent { .. } | Presence::Starting { .. } | Presence::Idle | Presence::Busy { .. } => None,
    }
}

/// Waits for the end of a task; for ever if there is none.
async fn over(task: &mut Option<JoinHandle<()>>) {
    match task {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

/// Runs the command for the beginning of a waiting. Its failure is written down, and hurts nobody.
async fn tell(command: OsString, agent: AgentName, why: String, project: PathBuf) {
    if let Err(error) = try_to_tell(&command, &agent, &why, &project).await {
        log(&format!("{agent}: {COMMAND} (`{}`) {error}", command.display()));
    }
}

async fn try_to_tell(command: &OsString, agent: &AgentName, why: &str, project: &Path) -> Result<(), String> {
    let why: String = neutralise(why).chars().take(WHY_LIMIT).collect();
    let mut child = Command::new(command)
        // A PATH may have a directory in it that is none of its own: nothing of the project's is ever run.
        .current_dir("/")
        .env("CCB_NOTIFY_AGENT", agent.as_str())
        .env("CCB_NOTIFY_WHY", why)
        .env("CCB_NOTIFY_PROJECT", project)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("could not be started: {error}"))?;
    match tokio::time::timeout(LIMIT, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("failed: {status}")),
        Ok(Err(error)) => Err(format!("could not be waited for: {error}")),
        Err(_) => {
            let killed = kill_group(&child);
            child.wait().await.ok();
            Err(match killed {
                Ok(()) => format!("took longer than {} s and was killed", LIMIT.as_secs()),
                Err(error) => format!("took longer than {} s and could not be killed: {error}", LIMIT.as_secs()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_name_or_an_absolute_path() {
        let read = |setting: &str| command(Some(setting.into())).is_some();
        assert!(read("notify-send") && read("/opt/my tools/tell me"));
        assert!(!read("") && !read("tools/tell") && !read("./tell") && command(None).is_none());
    }
}
