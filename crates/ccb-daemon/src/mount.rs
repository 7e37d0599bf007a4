//! Starting and ending agents: panes, launch specifications, and what becomes of a pane that dies.
//!
//! What was mounted is kept in the store and in a private file, so that an agent comes back after any death
//! but the one that a human wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccb_core::config::{self, AgentConfig, Config};
use ccb_core::home::file;
use ccb_core::id::{AgentName, nearest};
use ccb_core::provider::Rung;
use ccb_core::state::Presence;
use ccb_core::step::Input;
use ccb_core::wire::{Beside, Code, Host, LaunchSpec, Mount, Mounted, Order, Refusal, RunnerEvent, Session};
use futures_util::future::join_all;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::agents::{Agents, CLOSING, Runner, Slot};
use crate::door::queue::Out;
use crate::engine::{Engine, log};
use crate::failpoint;
use crate::files::Files;
use crate::injection;
use crate::process::Identity;
use crate::tmux::{self, Server, Side};
use crate::transport::ladder::{self, Choice, Drive, Launching, Probe, Ready};
use crate::transport::{Launch, Line, Task};

mod fall;
mod restart;
mod terminals;

use restart::Restarts;
use terminals::Terminals;

/// The session's name in a tmux server of our own.
const SESSION: &str = "ccb";

/// The size of a session that nobody is attached to.
const SIZE: (u16, u16) = (200, 50);

/// How soon (s) after its start an agent's pane must die, how often, before it is left dead.
const SHORT_LIFE: Duration = Duration::from_secs(10);
const BREAKER: usize = 5;

/// The size (bytes) of the largest configuration.
const CONFIG_LIMIT: u64 = 1 << 20;

/// How long a pane may take to end: its runner gives each program two seconds.
const ENDING: Duration = Duration::from_secs(6);

/// The store's key for what is mounted.
const KEY: &str = "mount";

/// The home's file with the agents' environment.
pub(crate) const ENVIRONMENT: &str = "run/environment.json";

/// What is mounted, as it is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    agents: Vec<AgentConfig>,
    host: Host,
    /// The agents that were last started to act without asking (`-a`).
    #[serde(default)]
    auto_agents: BTreeSet<AgentName>,
    /// The agents that are to run, and the process that ran each in its pane.
    running: BTreeMap<AgentName, Identity>,
    /// The tmux servers that those panes were opened in.
    #[serde(default)]
    terminals: BTreeMap<AgentName, Identity>,
    /// The rung on which what runs in each pane was started.
    #[serde(default)]
    rungs: BTreeMap<AgentName, Rung>,
    /// The rungs that have broken since somebody has started each agent.
    #[serde(default)]
    broken: fall::Broken,
}

/// Starts and ends agents.
pub(crate) struct Mounts {
    files: Arc<Files>,
    engine: Engine,
    agents: Agents,
    kept: tokio::sync::Mutex<Kept>,
    /// Held while a pane is opened: the first one makes the session, and the others must find it.
    opening: tokio::sync::Mutex<()>,
    /// When each agent's pane was last started, for the breaker.
    starts: std::sync::Mutex<BTreeMap<AgentName, Vec<Instant>>>,
    /// Who waits for an agent to be started again.
    restarts: Restarts,
    /// The tmux servers of the panes.
    terminals: Terminals,
    /// Told when an agent's runner has died.
    pub(crate) runner_gone: Notify,
    /// The same, for whoever waits for it within a mount.
    ended: Notify,
}

impl Mounts {
    /// Returns mounts with nothing in them. A tmux server of the project's own is told to `own`.
    pub(crate) fn new(files: Arc<Files>, engine: Engine, agents: Agents, own: UnboundedSender<Identity>) -> Self {
        Self {
            files,
            engine,
            agents,
            kept: tokio::sync::Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            starts: std::sync::Mutex::default(),
            restarts: Restarts::default(),
            terminals: Terminals::new(own),
            runner_gone: Notify::new(),
            ended: Notify::new(),
        }
    }

    /// Brings back what an earlier worker had mounted: living panes come by themselves, dead ones are made anew.
    pub(crate) async fn recover(self: &Arc<Self>) {
        let stored = self.engine.look(|view| view.store.meta(KEY).ok().flatten()).await.ok().flatten();
        if let Some(kept) = stored.and_then(|text| serde_json::from_str::<Kept>(&text).ok()) {
            *self.kept.lock().await = kept;
        }
        // Without a configuration that can be used, the agents that were mounted go on as they are.
        let config = self.read_config().unwrap_or_else(|refusal| {
            log(&format!("the configuration cannot be used now: {}", refusal.message));
            Config::default()
        });
        if let Err(refusal) = self.configure(&config).await {
            log(&format!("the configuration cannot be used now: {}", refusal.message));
        }
        self.watch_terminals().await;
        self.recall_broken().await;
        self.listen_for_breaks();
        let running = self.kept.lock().await.running.clone();
        if let Ok(socket) = self.own_socket() {
            crate::succession::mend_socket(&socket, running.values()).await;
        }
        for (agent, runner) in running {
            self.presence(&agent, Presence::Starting { why: "askd has just started; its pane reports soon".into() });
            if let Some(identity) = Some(runner).filter(Identity::is_alive) {
                self.await_return(agent, identity);
            } else {
                let mounts = self.clone();
                tokio::spawn(async move { mounts.respawn(&agent, "its pane died while askd was away").await });
            }
        }
    }

    /// Waits until a living runner of an earlier worker has reported again or has died.
    fn await_return(self: &Arc<Self>, agent: AgentName, identity: Identity) {
        let mounts = self.clone();
        tokio::spawn(async move {
            identity.died().await;
            let reported = mounts.agents.lock().get(&agent).is_some_and(|slot| slot.runner.is_some());
            if !reported {
                mounts.respawn(&agent, "its pane died before it reported to the new askd").await;
            }
        });
    }

    fn presence(&self, agent: &AgentName, presence: Presence) {
        self.engine.tell(Input::Presence { agent: agent.clone(), presence });
    }

    /// Reads the project's configuration. What needs trust and has none is refused.
    fn read_config(&self) -> Result<Config, Refusal> {
        let path = self.files.home().work_dir().join(".ccb/ccb.config");
        let text = match read_small(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(error) => return Err(Refusal::new(Code::Config, format!("cannot read `{}`: {error}", path.display()))),
        };
        let config = config::parse(".ccb/ccb.config", &text).map_err(|e| Refusal::new(Code::Config, e.to_string()))?;
        if config.agents.iter().any(AgentConfig::needs_trust) && !self.trusted(&config::trust_hash(&text)) {
            let message = "`.ccb/ccb.config` names commands that have not been trusted";
            return Err(Refusal::new(Code::Config, message).hint("look at what would run and allow it: ccb trust"));
        }
        Ok(config)
    }

    fn trusted(&self, hash: &str) -> bool {
        let text = std::fs::read_to_string(self.files.path(file::TRUST)).unwrap_or_default();
        let trust: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        trust["hashes"].as_array().is_some_and(|hashes| hashes.iter().any(|known| known == hash))
    }

    /// Takes the configured and the mounted agents into the table and into the engine.
    async fn configure(&self, config: &Config) -> Result<(), Refusal> {
        let mut all = config.agents.clone();
        for agent in &self.kept.lock().await.agents {
            if !all.iter().any(|known| known.name == agent.name) {
                all.push(agent.clone());
            }
        }
        {
            let mut table = self.agents.lock();
            for config in &all {
                match table.get_mut(&config.name) {
                    Some(slot) if slot.runner.is_some() => {}
                    Some(slot) => slot.config = config.clone(),
                    None => {
                        let slot = Slot::new(config.clone());
                        table.insert(config.name.clone(), slot);
                    }
                }
            }
        }
        let known: Vec<(AgentName, String)> = self
            .agents
            .lock()
            .values()
            .map(|s| (s.config.name.clone(), s.config.provider.row().display.into()))
            .collect();
        // Agents with open requests stay known, configured or not: nothing is lost by editing a file.
        let open = self.engine.look(|view| view.state.agents.keys().cloned().collect::<Vec<_>>()).await?;
        let others = open
            .into_iter()
            .filter(|name| !known.iter().any(|(k, _)| k == name))
            .map(|name| (name.clone(), name.to_string()));
        let agents = known.iter().cloned().chain(others).collect();
        self.engine.submit(Input::Configure(agents)).await?;
        Ok(())
    }

    /// Starts the agents that are wanted and do not run yet.
    pub(crate) async fn mount(self: &Arc<Self>, call: Mount) -> Result<Mounted, Refusal> {
        let config = self.read_config()?;
        let wanted = self.wanted(&call.agents, &config).await?;
        for agent in &wanted {
            // Somebody starts it: what broke may work again.
            self.forgive(&agent.name).await;
        }
        self.can_all_start(&wanted, &call.env).await?;
        crate::files::write_durable(&self.files.path(ENVIRONMENT), to_json(&call.env).as_bytes())
            .map_err(|error| Refusal::new(Code::Store, format!("cannot keep the agents' environment: {error}")))?;
        for agent in &wanted {
            self.until_ended(&agent.name).await;
        }
        if !self.alive() && !self.has_panes().await {
            self.kept.lock().await.host = call.host;
        }
        // What is driven stays as it was started, also if its runner reports anew.
        for agent in &wanted {
            if !self.is_running(&agent.name).await {
                self.take_config(agent).await;
            }
        }
        self.configure(&config).await?;
        let mut mounted = Mounted::default();
        for agent in wanted {
            // Whoever brings it back is through, or has yet to begin.
            let turn = self.restarts.turn(&agent.name);
            let _one_at_a_time = turn.lock().await;
            let reported = self.agents.lock().get(&agent.name).is_some_and(|slot| slot.runner.is_some());
            let is_wanted = self.kept.lock().await.running.contains_key(&agent.name);
            if (reported && is_wanted) || self.is_running(&agent.name).await {
                mounted.running.push(agent.name);
                continue;
            }
            // One that has died and is wanted comes back as it was.
            if !is_wanted {
                {
                    // For this launch only: what runs already stays as it was started.
                    let mut kept = self.kept.lock().await;
                    kept.auto_agents.remove(&agent.name);
                    if call.auto {
                        kept.auto_agents.insert(agent.name.clone());
                    }
                }
                if !call.resume {
                    self.agents.set_session(&agent.name, "").await;
                }
            }
            // What has ended again and again is started in the pane that asks whether to.
            let anew = reported && self.start_in_its_pane(&agent.name).await;
            let started = anew || self.open_pane(&agent.name).await?;
            let list = if started { &mut mounted.started } else { &mut mounted.running };
            list.push(agent.name);
        }
        mounted.attach = self.attach().await;
        mounted.beside = self.beside(&mounted.running).await;
        Ok(mounted)
    }

    /// Says why one of them cannot be started: all are, or none is.
    async fn can_all_start(&self, wanted: &[AgentConfig], env: &BTreeMap<String, String>) -> Result<(), Refusal> {
        // Each is asked what it can, which takes it up to a second.
        let chosen = join_all(wanted.iter().map(|agent| self.choose(agent, env))).await;
        let (mut first, mut others) = (None, Vec::new());
        for (agent, chosen) in wanted.iter().zip(chosen) {
            match chosen {
                Ok(_) => others.push(agent.name.as_str()),
                Err(refusal) => {
                    first.get_or_insert(refusal);
                }
            }
        }
        let Some(refusal) = first else { return Ok(()) };
        if others.is_empty() {
            return Err(refusal);
        }
        let without = format!("or start the others alone: {}", others.join(", "));
        let hint = refusal.hint.as_ref().map_or_else(|| without.clone(), |hint| format!("{hint}; {without}"));
        Err(refusal.hint(hint))
    }

    async fn wanted(&self, words: &[String], config: &Config) -> Result<Vec<AgentConfig>, Refusal> {
        if words.is_empty() {
            let mut all = config.agents.clone();
            if all.is_empty() {
                all.clone_from(&self.kept.lock().await.agents);
            }
            if all.is_empty() {
                let refusal = Refusal::new(Code::Config, "no agents are configured for this project");
                return Err(refusal.hint("name them: `ccb codex`, or write `codex` into .ccb/ccb.config"));
            }
            return Ok(all);
        }
        let mut wanted: Vec<AgentConfig> = Vec::new();
        for word in words {
            let configured = config.agents.iter().find(|agent| agent.name.as_str().eq_ignore_ascii_case(word));
            let agent = match configured {
                Some(agent) => agent.clone(),
                None => AgentConfig::word(word).map_err(|what| {
                    let names = config.agents.iter().map(|agent| agent.name.as_str());
                    let refusal = Refusal::new(Code::UnknownAgent, what);
                    match nearest(word, names) {
                        Some(near) => refusal.hint(format!("did you mean the configured agent `{near}`?")),
                        None => refusal,
                    }
                })?,
            };
            if !wanted.iter().any(|known| known.name == agent.name) {
                wanted.push(agent);
            }
        }
        Ok(wanted)
    }

    /// Chooses how an agent is driven, and refuses one that cannot be, before anything is started.
    async fn choose(
        &self,
        agent: &AgentConfig,
        env: &BTreeMap<String, String>,
    ) -> Result<(Choice, Rung, String), Refusal> {
        if agent.command.is_some() && agent.transcript.is_none() {
            let message = format!(
                "agent `{}` has a command but no `transcript`: there would be no way to know its answers",
                agent.name
            );
            return Err(Refusal::new(Code::Launch, message).hint("name the file that it writes: transcript = \"…\""));
        }
        let program = self.program(agent, env)?;
        let broken = self.agents.lock().get(&agent.name).map(|slot| slot.broken.clone()).unwrap_or_default();
        let env = self.probing(agent, env);
        ladder::choose(agent, &broken, &self.probe(agent, &program, &env)).await
    }

    /// Returns the environment in which a program is asked what it can: one that writes even then does it in the home.
    fn probing(&self, agent: &AgentConfig, env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let row = agent.provider.row();
        let private = |name: &str| (name.to_owned(), self.files.path(&format!("run/probe.{}", row.name)));
        let private = row.home.map(private).map(|(name, dir)| (name, dir.display().to_string()));
        env.iter().map(|(name, value)| (name.clone(), value.clone())).chain(private).collect()
    }

    /// Returns a probe of an agent's program.
    fn probe<'a>(&'a self, agent: &AgentConfig, program: &'a Path, env: &'a BTreeMap<String, String>) -> Probe<'a> {
        let since = self.restarts.last();
        Probe { program, env, engine: &self.engine, since, forced: agent.rung.is_some() }
    }

    /// Returns the agent's program, found on the PATH of its environment.
    fn program(&self, agent: &AgentConfig, env: &BTreeMap<String, String>) -> Result<PathBuf, Refusal> {
        let row = agent.provider.row();
        let word = agent.command.as_deref().unwrap_or(row.program);
        let path = env.get("PATH").map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
        find_program(word, path, self.files.home().work_dir()).ok_or_else(|| match agent.command {
            Some(_) => Refusal::new(Code::Launch, format!("agent `{}`: there is no program `{word}`", agent.name))
                .hint("`command` in .ccb/ccb.config names it; a path is relative to the project"),
            None => {
                Refusal::new(Code::Launch, format!("{} CLI is not installed: no `{word}` on the PATH", row.display))
                    .hint(format!("install it: {}", row.install))
            }
        })
    }

    /// Returns the tmux server that the panes are in.
    async fn server(&self) -> Result<Server, Refusal> {
        let dir = self.files.home().work_dir().to_owned();
        Ok(match &self.kept.lock().await.host {
            Host::Own => Server::own(self.own_socket()?, dir),
            Host::Window { socket, .. } => Server::of_user(PathBuf::from(socket), dir),
        })
    }

    fn own_socket(&self) -> Result<PathBuf, Refusal> {
        tmux::socket_path(&self.files.path("run/tmux.sock"))
            .map_err(|error| Refusal::new(Code::Launch, format!("there is no place for tmux's socket: {error}")))
    }

    /// Waits until a pane that is ending has ended: it is started anew after that, and not taken for one that runs.
    async fn until_ended(&self, agent: &AgentName) {
        let ended = async {
            loop {
                let news = self.ended.notified();
                if self.agents.ending(agent).is_none() {
                    return;
                }
                news.await;
            }
        };
        tokio::time::timeout(ENDING, ended).await.ok();
    }

    /// Whether the process that was last started in the agent's pane is alive, whether it has reported or not.
    async fn is_running(&self, agent: &AgentName) -> bool {
        self.kept.lock().await.running.get(agent).is_some_and(Identity::is_alive)
    }

    /// Makes a pane that runs the agent; false if it has one.
    async fn open_pane(self: &Arc<Self>, agent: &AgentName) -> Result<bool, Refusal> {
        let _one_at_a_time = self.opening.lock().await;
        // Its death may be seen by two watchers, and a mount be repeated before its runner has reported.
        if self.is_running(agent).await {
            return Ok(false);
        }
        self.presence(agent, Presence::Starting { why: "its pane is being opened".into() });
        // Before there is a runner, which may ask what to start before we have heard of its pane.
        self.kept.lock().await.rungs.remove(agent);
        self.starts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .entry(agent.clone())
            .or_default()
            .push(Instant::now());
        let ccb = ccb_program()?;
        let dir = self.files.home().work_dir().display().to_string();
        let argv = [ccb.display().to_string(), "run".into(), agent.to_string(), "--project".into(), dir];
        let server = self.server().await?;
        let host = self.kept.lock().await.host.clone();
        let home = self.files.home().root().display().to_string();
        let env = [("CCB_RUN_DIR", home.as_str())];
        let opened = match &host {
            Host::Own => match server.session_pane(SESSION).await {
                Ok(Some(neighbour)) => server.split(&neighbour, Side::Right, &argv, &env).await,
                Ok(None) | Err(_) => server.start_session(SESSION, SIZE, &argv, &env).await,
            },
            Host::Window { pane, .. } => server.split(pane, Side::Right, &argv, &env).await,
        };
        let pane = opened.map_err(|error| {
            let missing = matches!(&error, tmux::Error::Start(e) if e.kind() == std::io::ErrorKind::NotFound);
            let refusal = Refusal::new(Code::Launch, format!("no pane for `{agent}`: {error}"));
            if missing { refusal.hint("install tmux: apt install tmux, or brew install tmux") } else { refusal }
        })?;
        if server.window_panes(&pane.pins.pane).await.is_ok_and(|panes| panes.len() > 1) {
            server.tiled(&pane.pins.pane).await.ok();
        }
        server.label(&pane.pins.pane, agent.as_str()).await.ok();
        let (terminal, runner) = (pane.pins.server, pane.pins.process);
        self.kept.lock().await.terminals.insert(agent.clone(), terminal.clone());
        // It may have reported before we heard of its pane.
        if let Some(reported) = self.agents.lock().get_mut(agent).and_then(|slot| slot.runner.as_mut())
            && reported.identity == runner
        {
            reported.terminal = Some(terminal.clone());
        }
        if host == Host::Own {
            self.terminals.owns(server, terminal);
        }
        self.keep_running(agent, Some(runner.clone())).await;
        self.await_return(agent.clone(), runner);
        Ok(true)
    }

    /// Keeps whether an agent is to run, and as which process.
    async fn keep_running(&self, agent: &AgentName, runner: Option<Identity>) {
        let text = {
            let mut kept = self.kept.lock().await;
            match runner {
                Some(runner) => drop(kept.running.insert(agent.clone(), runner)),
                None => drop(kept.running.remove(agent)),
            }
            to_json(&*kept)
        };
        let stored = self.engine.look(move |view| view.store.set_meta(KEY, &text)).await;
        if let Ok(Err(error)) = stored {
            log(&format!("what is mounted could not be kept: {error:#}"));
        }
    }

    /// Returns an agent's configuration: as it was mounted, or as it is known otherwise.
    async fn config_of(&self, agent: &AgentName) -> Option<AgentConfig> {
        let kept = self.kept.lock().await.agents.iter().find(|known| known.name == *agent).cloned();
        kept.or_else(|| self.agents.lock().get(agent).map(|slot| slot.config.clone()))
    }

    /// Tells a pane's runner what to start, and starts the agent's transport.
    pub(crate) async fn launch(
        self: &Arc<Self>,
        agent: &AgentName,
        pane: Option<String>,
        pid: u32,
        connection: u64,
        orders: &Out,
    ) -> Result<LaunchSpec, Refusal> {
        let identity = Identity::of(pid).ok_or_else(|| Refusal::new(Code::Launch, "the runner's process is gone"))?;
        let env = self.environment(agent)?;
        let config = self.config_of(agent).await;
        let config = config.ok_or_else(|| Refusal::new(Code::UnknownAgent, format!("no agent `{agent}` here")))?;
        let auto = self.kept.lock().await.auto_agents.contains(agent);
        let (choice, rung, why) = self.chosen(&config, &env).await?;
        let socket = self.server().await?.socket().display().to_string();
        let pane = pane.map(|pane| (socket, pane));
        let terminal = self.terminal_of(agent, &identity).await;
        {
            let mut table = self.agents.lock();
            let Some(slot) = table.get_mut(agent) else {
                return Err(Refusal::new(Code::UnknownAgent, format!("no agent `{agent}` here")));
            };
            if let Some(other) = slot.runner.as_ref().filter(|r| r.identity != identity && r.identity.is_alive()) {
                let message = format!("agent `{agent}` already runs in another pane (process {})", other.identity.pid);
                return Err(Refusal::new(Code::Launch, message).hint("close this pane"));
            }
            slot.runner = Some(Runner {
                identity: identity.clone(),
                pane: pane.clone(),
                orders: Some(orders.clone()),
                connection,
                terminal,
                closing: None,
            });
            slot.rung = (rung, why);
            slot.unheard = None;
        }
        self.ended.notify_waiters();
        self.kept.lock().await.rungs.insert(agent.clone(), rung);
        self.keep_running(agent, Some(identity.clone())).await;
        let program = self.program(&config, &env)?;
        let (help, version) = choice.words(&self.probe(&config, &program, &self.probing(&config, &env))).await;
        let launching = Launching {
            agent: agent.clone(),
            rung,
            program: program.display().to_string(),
            help,
            version,
            auto,
            session: self.agents.session(agent).await.filter(|session| !session.is_empty()),
            words: injection::words(&self.agents, agent, &self.files),
            mcp: injection::mcp_server(&ccb_program()?, self.files.home().work_dir(), &env),
            files: self.files.clone(),
            runner: identity,
            config,
            env,
        };
        let Ready { server, tui, env, session, anew, drive } = choice.prepare(&launching)?;
        if let Some(session) = &session {
            self.agents.set_session(agent, session).await;
        }
        self.start_transport(agent, rung, anew, drive);
        let cwd = self.files.home().work_dir().display().to_string();
        let env = launching.env.into_iter().chain(env).collect();
        Ok(LaunchSpec { agent: agent.clone(), cwd, env, server, tui })
    }

    /// Returns how an agent is driven that this runner asks for. What runs in its pane already stays on the rung that
    /// it was started on.
    async fn chosen(
        &self,
        config: &AgentConfig,
        env: &BTreeMap<String, String>,
    ) -> Result<(Choice, Rung, String), Refusal> {
        let started = self.kept.lock().await.rungs.get(&config.name).copied().filter(|_| config.command.is_none());
        let Some(rung) = started.filter(|_| config.rung.is_none()) else {
            return self.choose(config, env).await;
        };
        match self.choose(config, env).await {
            Ok(best) if best.1 == rung => Ok(best),
            other => match ladder::started(config.provider, rung) {
                // The program may have been replaced meanwhile; what runs is none the worse for it.
                Some(choice) => Ok((choice, rung, "what runs was started so".into())),
                None => other,
            },
        }
    }

    /// Starts an agent's transport; one that drives it on this rung already is told of the launch.
    fn start_transport(&self, agent: &AgentName, rung: Rung, anew: Option<Launch>, drive: Drive) {
        let mut table = self.agents.lock();
        let Some(slot) = table.get_mut(agent) else { return };
        if let Some((tasks, _)) = slot.tasks.as_ref().filter(|(tasks, on)| *on == rung && !tasks.is_closed()) {
            if let Some(anew) = anew {
                tasks.send(Task::Launch(Box::new(anew))).ok();
            }
            return;
        }
        let (tx, tasks) = unbounded_channel();
        slot.tasks = Some((tx, rung));
        let line = Line::new(agent.clone(), self.engine.clone(), self.agents.clone(), tasks);
        tokio::spawn(drive(line, self.agents.clone()));
    }

    /// The environment of an agent: its mounter's, its configuration's, and ours.
    fn environment(&self, agent: &AgentName) -> Result<BTreeMap<String, String>, Refusal> {
        let text = std::fs::read_to_string(self.files.path(ENVIRONMENT))
            .map_err(|error| Refusal::new(Code::Launch, format!("the agents' environment is not there: {error}")))?;
        let mut env: BTreeMap<String, String> = serde_json::from_str(&text)
            .map_err(|error| Refusal::new(Code::Launch, format!("the agents' environment cannot be read: {error}")))?;
        if let Some(slot) = self.agents.lock().get(agent) {
            env.extend(slot.config.env.clone());
        }
        let bin = self.files.path(file::BIN).display().to_string();
        let path = env.get("PATH").cloned().unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        env.insert("PATH".into(), format!("{bin}:{path}"));
        env.insert("CCB_CALLER".into(), agent.to_string());
        env.insert("CCB_RUN_DIR".into(), self.files.home().root().display().to_string());
        env.insert("CCB_MANAGED".into(), "1".into());
        Ok(env)
    }

    /// A runner tells what became of what it started. Of one that is not the agent's nothing is taken: a second pane was
    /// refused, and its end is nobody else's.
    pub(crate) async fn report(self: &Arc<Self>, agent: &AgentName, pid: u32, event: RunnerEvent) {
        let opened = self.kept.lock().await.running.get(agent).is_some_and(|runner| runner.pid == pid);
        let reported = match self.agents.lock().get_mut(agent).and_then(|slot| slot.runner.as_mut()) {
            Some(runner) if runner.identity.pid == pid => {
                if event == RunnerEvent::Closed {
                    runner.closing = Some(CLOSING);
                }
                true
            }
            Some(_) | None => false,
        };
        if !opened && !reported {
            return;
        }
        if event == RunnerEvent::Closed {
            failpoint::hit("mount.closed").await;
        }
        match &event {
            // A TUI that was running before we came shows the session that is kept.
            RunnerEvent::TuiStarted { .. } => {
                let unknown = self.agents.lock().get(agent).is_some_and(|slot| slot.tui.is_none());
                if unknown {
                    let session = self.agents.session(agent).await;
                    self.agents.set_tui(agent, session);
                }
                // Its human may have started it that had ended too often.
                let runner =
                    self.agents.lock().get(agent).and_then(|slot| slot.runner.as_ref().map(|r| r.identity.clone()));
                if let Some(runner) = runner.filter(|_| !opened) {
                    self.keep_running(agent, Some(runner)).await;
                }
            }
            RunnerEvent::TuiEnded { how, again } => {
                self.agents.error(agent, format!("its TUI ended: {how}"));
                if !again {
                    self.agents.set_tui(agent, None);
                    self.keep_running(agent, None).await;
                }
            }
            RunnerEvent::ServerEnded { how } => self.agents.error(agent, format!("its server ended: {how}")),
            RunnerEvent::Closed if self.terminal_was_killed(agent).await => {}
            RunnerEvent::Closed => self.keep_running(agent, None).await,
            RunnerEvent::ServerStarted { .. } => {}
        }
        self.agents.task(agent, Task::Runner(event));
    }

    /// A runner's connection is over: if it died, all that it ran is over too, and the agent comes back.
    pub(crate) fn runner_lost(self: &Arc<Self>, agent: &AgentName, connection: u64) {
        let identity = {
            let mut table = self.agents.lock();
            let Some(runner) = table.get_mut(agent).and_then(|slot| slot.runner.as_mut()) else { return };
            if runner.connection != connection {
                return;
            }
            runner.orders = None;
            runner.identity.clone()
        };
        let (mounts, agent) = (self.clone(), agent.clone());
        tokio::spawn(async move {
            identity.died().await;
            mounts.runner_died(&agent, &identity).await;
        });
    }

    async fn runner_died(self: &Arc<Self>, agent: &AgentName, identity: &Identity) {
        let wanted = self.kept.lock().await.running.contains_key(agent);
        let why =
            if wanted { "its pane died; it is started again" } else { "its pane was closed; start it with `ccb`" };
        {
            let mut table = self.agents.lock();
            let Some(slot) = table.get_mut(agent) else { return };
            if slot.runner.as_ref().is_none_or(|runner| runner.identity != *identity) {
                return;
            }
            slot.runner = None;
            slot.tui = None;
        }
        // Before anything new starts, so that a transport never mistakes the new for the old.
        self.agents.task(agent, Task::RunnerGone { why: why.into() });
        self.runner_gone.notify_one();
        self.ended.notify_waiters();
        if wanted {
            self.respawn(agent, why).await;
        }
    }

    /// Starts an agent's pane again, unless it dies, or cannot be opened, each time.
    async fn respawn(self: &Arc<Self>, agent: &AgentName, why: &str) {
        // Its death may be seen by two watchers: the second must not count the successor among the dead.
        let turn = self.restarts.turn(agent);
        let _one_at_a_time = turn.lock().await;
        // Nobody may want it any more, and another watcher have brought it back.
        let wanted = self.kept.lock().await.running.get(agent).is_some_and(|runner| !runner.is_alive());
        if !wanted {
            return;
        }
        log(&format!("{agent}: {why}"));
        while self.kept.lock().await.running.contains_key(agent) {
            let short = {
                let mut starts = self.starts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let starts = starts.entry(agent.clone()).or_default();
                starts.retain(|at| at.elapsed() < SHORT_LIFE);
                starts.len()
            };
            if short >= BREAKER {
                let last = self.agents.lock().get(agent).and_then(|slot| slot.error.clone());
                let last = last.map_or(String::new(), |last| format!(" ({last})"));
                let why = format!("its pane died {BREAKER} times within {} s{last}", SHORT_LIFE.as_secs());
                let why = format!("{why}; start it with `ccb`");
                self.keep_running(agent, None).await;
                // By its transport, which may still be telling of the last death: this is the last word.
                if !self.agents.task(agent, Task::RunnerGone { why: why.clone() }) {
                    self.engine.tell(Input::Gone { agent: agent.clone(), why });
                }
                return;
            }
            match self.open_pane(agent).await {
                Ok(_) => return,
                Err(refusal) => {
                    self.presence(agent, Presence::Starting { why: refusal.message.clone() });
                    self.agents.error(agent, refusal.message);
                    tokio::time::sleep(Duration::from_millis(100 << short)).await;
                }
            }
        }
    }

    /// Ends all agents and their panes.
    pub(crate) async fn unmount(&self) {
        let names: Vec<AgentName> = self.agents.lock().keys().cloned().collect();
        let runners: Vec<Identity> =
            self.agents.lock().values().filter_map(|slot| slot.runner.as_ref().map(|r| r.identity.clone())).collect();
        for agent in &names {
            self.keep_running(agent, None).await;
            self.agents.order(agent, &Order::Stop);
        }
        for identity in runners {
            tokio::time::timeout(ENDING, identity.died()).await.ok();
        }
        if matches!(self.kept.lock().await.host, Host::Own)
            && let Ok(server) = self.server().await
            && let Err(error) = server.kill_server().await
        {
            log(&format!("the project's tmux could not be ended: {error}"));
        }
    }

    /// Returns whether any agent has a runner.
    pub(crate) fn alive(&self) -> bool {
        self.agents.lock().values().any(|slot| slot.runner.is_some())
    }

    /// Returns whether any agent has a pane, whether its runner has reported to this worker or not.
    pub(crate) async fn has_panes(&self) -> bool {
        self.kept.lock().await.running.values().any(Identity::is_alive)
    }

    /// A runner came that does not speak our protocol: its agent goes on in its pane, and cannot be asked.
    pub(crate) async fn runner_of_another_version(&self, pid: u32, version: &str) {
        let running = self.kept.lock().await.running.clone();
        for (agent, _) in running.iter().filter(|(_, runner)| runner.pid == pid) {
            let why =
                format!("its pane was opened by another version of ccb ({version}): close it and start it with `ccb`");
            self.presence(agent, Presence::Starting { why });
        }
    }

    /// Returns whether any agent is to run, though its runner may not have reported yet, or is just coming back.
    pub(crate) async fn wanted_alive(&self) -> bool {
        self.alive() || !self.kept.lock().await.running.is_empty()
    }

    /// Returns the pane of the first of these agents, if they are in a tmux server of the user's.
    async fn beside(&self, running: &[AgentName]) -> Option<Beside> {
        if matches!(self.kept.lock().await.host, Host::Own) {
            return None;
        }
        let table = self.agents.lock();
        let mut panes = running.iter().filter_map(|agent| table.get(agent)?.runner.as_ref()?.pane.clone());
        panes.next().map(|(socket, pane)| Beside { socket, pane })
    }

    /// Returns how to attach to our own tmux server, if it runs.
    pub(crate) async fn attach(&self) -> Option<Session> {
        if !matches!(self.kept.lock().await.host, Host::Own) {
            return None;
        }
        let server = self.server().await.ok()?;
        let there = server.has_session(SESSION).await.unwrap_or(false);
        there.then(|| Session { socket: server.socket().display().to_string(), session: SESSION.into() })
    }
}

/// Returns the path of `ccb`, which is installed beside us.
fn ccb_program() -> Result<PathBuf, Refusal> {
    let ccb = crate::process::own_program().map(|exe| exe.with_file_name("ccb"));
    ccb.map_err(|error| Refusal::new(Code::Launch, format!("where is ccb? {error}")))
}

/// Reads a file of a project, which may be anything: only a regular one, and not a large one.
pub(crate) fn read_small(path: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let data = file.metadata()?;
    if !data.is_file() || data.len() > CONFIG_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file of at most 1 MiB"));
    }
    let mut text = String::new();
    file.take(CONFIG_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

/// Finds a program as a shell would, but runs none.
fn find_program(word: &str, path: &str, cwd: &Path) -> Option<PathBuf> {
    let executable =
        |file: &Path| file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
    if word.contains('/') {
        let file = cwd.join(word);
        return executable(&file).then_some(file);
    }
    path.split(':').filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join(word)).find(|file| executable(file))
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("our own types serialize: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path_or_by_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("my agent");
        std::fs::write(&file, "").unwrap();
        let path = format!("/nowhere:{}", dir.path().display());
        assert_eq!(find_program("my agent", &path, dir.path()), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_program("my agent", &path, Path::new("/")), Some(file.clone()));
        assert_eq!(find_program("./my agent", "", dir.path()).map(|f| f.exists()), Some(true));
        assert_eq!(find_program("absent", &path, dir.path()), None);
    }
}
