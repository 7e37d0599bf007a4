//! The worker: the daemon proper, put together.

use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use ccb_core::home::{Home, file};
use ccb_core::id::{AgentName, RequestId};
use ccb_core::request::Request;
use ccb_core::settings::{falsy, max_depth, max_open, seconds};
use ccb_core::state::{Policy, Presence, Sabotage};
use ccb_core::step::{Effect, Input};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::agents::Agents;
use crate::clock::Clock;
use crate::door::Door;
use crate::door::guests::{Budget, Guests};
use crate::door::queue::Memory;
use crate::engine::{Engine, Outlets, log};
use crate::files::Files;
use crate::life::{Unsettled, end_when_unused};
use crate::lock::{Claim, Ground};
use crate::mount::Mounts;
use crate::ownership::Owners;
use crate::record::{Record, heartbeat, last_end};
use crate::store::Store;
use crate::succession::{Keepsakes, finish_hand_overs, open_store, take_locks};
use crate::tcp::{Address, LISTEN};
use crate::timers::{self, Arm};
use crate::transport::{Offer, Task};

/// How long a hand-over to an agent that is under way may still take when askd is told to end.
const HAND_OVERS: Duration = Duration::from_millis(500);

/// How long an orderly stop waits for the engine.
const STOP_PATIENCE: Duration = Duration::from_millis(300);

/// Serves the project until it is told to stop.
pub(crate) fn run(home: Home) -> anyhow::Result<ExitCode> {
    // Whatever we or our libraries create is the user's alone (promise P9).
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let files = Arc::new(Files::open(home)?);
    write_panics(&files);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    crate::failpoint::hit_blocking("worker.start");
    let code = runtime.block_on(serve(files));
    // A file's write that the disk does not finish must not hold an orderly stop.
    runtime.shutdown_background();
    Ok(ExitCode::from(code?))
}

/// Has a panic of any thread end the process, with its message kept for the keeper (promise P8).
fn write_panics(files: &Arc<Files>) {
    let files = files.clone();
    std::panic::set_hook(Box::new(move |panic| {
        log(&panic.to_string());
        files.write(crate::keeper::PANIC, &panic.to_string().replace('\n', " ")).ok();
        std::process::abort();
    }));
}

/// Serves until the end, and returns the exit code for the keeper.
async fn serve(files: Arc<Files>) -> anyhow::Result<u8> {
    let budget = Budget::take();
    let Some((lock, claim)) = take_locks(&files).await? else {
        let (path, pid) = (files.path(file::WORKER_LOCK), std::process::id());
        say(&format!("error: another worker of this project has `{}`, and worker {pid} gives way", path.display()));
        return Ok(crate::keeper::GIVES_WAY);
    };
    let (mut store, mut notes) = open_store(&files)?;
    let ground = Arc::new(Ground::of(lock, files.path(file::STORE))?);
    let last_end = last_end(&files);
    let (generation, clock) = begin(&mut store)?;
    let listener = listen(&files)?;
    files.link_commands().context("cannot link the commands into the home")?;

    let (effects_in, effects) = unbounded_channel();
    let (news_in, news) = unbounded_channel();
    let (leave, leaving) = unbounded_channel();
    let (presences_in, presences) = unbounded_channel();
    let outlets = Outlets { effects: effects_in, news: news_in, presences: presences_in, leave };
    let engine = Engine::start(store, ground.clone(), policy(), clock, outlets)?;
    let agents = Agents::new(engine.clone());
    let (session_in, sessions) = unbounded_channel();
    let mounts = Arc::new(Mounts::new(files.clone(), engine.clone(), agents.clone(), session_in));
    let tcp = open_tcp(&engine, &mut notes).await;
    let record = Record {
        files: files.clone(),
        generation,
        started: clock.now(),
        restarts: last_end.as_ref().map_or(0, |end| end.restarts),
        owners: Arc::default(),
        closed: Arc::default(),
        tcp: tcp.as_ref().map(|(_, address)| address.clone()),
    };
    let owners = Owners::restore(engine.clone(), clock, record.clone()).await;
    let door = Arc::new(Door {
        files: files.clone(),
        engine: engine.clone(),
        agents: agents.clone(),
        mounts: mounts.clone(),
        ground,
        keepsakes: Keepsakes::default(),
        notes,
        owners: owners.clone(),
        clock,
        generation,
        started: clock.now(),
        last_end,
        record: record.clone(),
        keeper: AtomicU32::new(0),
        keeper_lost: Notify::new(),
        stop: Notify::new(),
        stopping: std::sync::Mutex::new(None),
        connections_changed: Notify::new(),
        connections: AtomicU64::new(0),
        guests: Arc::new(Guests::new(budget)),
        memory: Memory::new(),
    });
    door.keepsakes.look(&files);
    mounts.recover().await;
    let (arm, orders) = unbounded_channel();
    let unsettled = Arc::new(Unsettled::default());
    unsettled.seed(&engine).await;
    tokio::spawn(timers::run(orders, engine.clone(), clock));
    tokio::spawn(perform(effects, agents.clone(), arm.clone(), door.clone()));
    tokio::spawn(watch_ground(door.clone(), leaving, claim));
    tokio::spawn(crate::notify::run(presences, agents.clone(), files.clone()));
    tokio::spawn(listen_to_news(news, arm, unsettled.clone()));
    record.write("running", None).context("cannot write `askd.json`")?;
    tokio::spawn(heartbeat(record.clone(), unsettled.clone()));
    tokio::spawn(replace_keeper(door.clone()));
    tokio::spawn(owners.clone().follow_sessions(sessions));
    tokio::spawn(end_when_unused(door.clone(), unsettled));
    tokio::spawn(crate::door::serve(door.clone(), listener));
    if let Some((listener, address)) = tcp {
        tokio::spawn(crate::tcp::serve(door.clone(), listener, address.token));
    }
    say("ready");

    until_stopped(&door).await?;
    Ok(end(&door).await)
}

/// Counts this worker, and starts its clock.
fn begin(store: &mut Store) -> anyhow::Result<(u64, Clock)> {
    let generation = store.meta("generation")?.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) + 1;
    let unsettled = store.open_requests()?.iter().any(|request| !request.is_settled());
    let clock = Clock::start(store.meta("clock")?.as_deref(), unsettled, store.latest_moment()?);
    store.remember("clock", clock.kept());
    store.set_meta("generation", &generation.to_string())?;
    Ok((generation, clock))
}

/// Opens the socket. A file that is there already is a dead worker's: we hold the lock.
fn listen(files: &Files) -> anyhow::Result<UnixListener> {
    crate::files::remove_if_there(&files.path(file::SOCKET))?;
    let listener = UnixListener::bind(files.socket(file::SOCKET)).context("cannot open askd's socket")?;
    std::fs::set_permissions(files.path(file::SOCKET), std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Ends this worker: in order, or so that the next one goes on from where it was. Returns the exit code.
async fn end(door: &Door) -> u8 {
    door.record.close();
    let (why, code) = door.stopping().clone().unwrap_or_default();
    log(&format!("stopping: {why}"));
    if code == crate::keeper::GIVES_WAY || door.ground.lost().is_some() {
        finish_hand_overs(&door.engine, crate::succession::HAND_OVERS).await;
        match tokio::time::timeout(crate::succession::COPY, door.engine.stop()).await {
            Ok(Some(rest)) => crate::succession::leave(door, rest).await,
            Ok(None) => {}
            Err(_) => log("the engine did not stop in time: its requests are left where they are"),
        }
        // What is in the home now may be the next worker's. Our keeper may have lost its lock as well; if it has not,
        // this one ends at once.
        if code == crate::keeper::GIVES_WAY {
            start_keeper(door).ok();
        }
        return code;
    }
    door.record.write("stopping", Some(&why)).ok();
    finish_hand_overs(&door.engine, HAND_OVERS).await;
    // A commit that the disk does not finish holds nobody: what is not committed was never accepted.
    if tokio::time::timeout(STOP_PATIENCE, door.engine.stop()).await.is_err() {
        log("the engine did not stop in time: it is left where it is");
    }
    // A disk that takes nothing keeps no one from ending.
    let swept = [file::SOCKET, file::STATE, crate::keeper::SETTINGS]
        .map(|name| crate::files::remove_if_there(&door.files.path(name)))
        .into_iter()
        .chain([door.record.write("stopped", Some(&why))]);
    for error in swept.filter_map(Result::err) {
        log(&format!("the end could not be written down: {error}"));
    }
    code
}

/// Opens the TCP door if it is wanted. That it cannot be opened is no reason not to serve, but is told in `notes`.
async fn open_tcp(engine: &Engine, notes: &mut Vec<String>) -> Option<(TcpListener, Address)> {
    let setting = std::env::var(LISTEN).ok().filter(|setting| !setting.trim().is_empty())?;
    let opened = crate::tcp::open(&setting, engine).await;
    if let Err(error) = &opened {
        log(&format!("{error:#}"));
        notes.push(format!("{error:#}"));
    }
    opened.ok()
}

/// Says on the standard output, which the keeper reads, how the start went.
fn say(line: &str) {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}").ok();
    std::io::stdout().flush().ok();
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        rustix::stdio::dup2_stdout(null).ok();
    }
}

fn policy() -> Policy {
    let word = |name: &str| std::env::var(name).ok();
    let mut policy = Policy {
        notices: !word("CCB_COMPLETION_HOOK_ENABLED").is_some_and(|word| falsy(&word)),
        max_depth: max_depth(word("CCB_MAX_DEPTH").as_deref()),
        max_open: max_open(word("CCB_MAX_OPEN").as_deref()),
        ..Policy::default()
    };
    for (name, fault) in [("idle-check", Sabotage::IgnoreBusy), ("proof", Sabotage::OfferAgainWithoutProof)] {
        if crate::failpoint::sabotaged(name) {
            policy.sabotage.push(fault);
        }
    }
    if let Ok(word) = std::env::var("CCB_PROOF_GRACE_S") {
        let grace = seconds(Some(&word), 20.0, 0.1, 3600.0);
        policy.consume_grace = i64::try_from(grace.as_millis()).unwrap_or(policy.consume_grace);
    }
    policy
}

/// Waits for TERM, INT, HUP or a call that ends the daemon.
async fn until_stopped(door: &Door) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    tokio::select! {
        () = door.stop.notified() => {}
        _ = term.recv() => door.request_stop("signal TERM"),
        _ = int.recv() => door.request_stop("signal INT"),
        _ = hup.recv() => door.request_stop("signal HUP"),
    }
    // The answer to whoever asked for it goes out first.
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

/// Brings the engine's effects to the transports and timers.
async fn perform(mut effects: UnboundedReceiver<Effect>, agents: Agents, arm: UnboundedSender<Arm>, door: Arc<Door>) {
    while let Some(effect) = effects.recv().await {
        match effect {
            Effect::Arm { id, timer, at } => drop(arm.send(Arm::At(id, timer, at))),
            Effect::Interrupt { agent, id, turn } => drop(agents.task(&agent, Task::Interrupt { id, turn })),
            Effect::Reconcile { agent, id, attempt, turn, handed, last } => {
                let of = id.clone();
                let kind = door
                    .engine
                    .look(move |view| view.state.requests.get(&of).map(|request| request.kind.clone()))
                    .await;
                let Ok(Some(kind)) = kind else { continue };
                agents.task(&agent, Task::Reconcile { id, attempt, kind, turn, handed, last });
            }
            Effect::Offer { agent, id, attempt, kind, message, no_wrap } => {
                // Fencing: a deleted lock file may have let another worker in. Nothing is offered without the lock.
                if let Some(what) = door.ground.lost() {
                    take_back(&door.engine, agent, id, attempt, "askd has lost its lock; the next one takes over");
                    door.give_way(&format!("{what}; the next worker takes over"));
                    continue;
                }
                if door.is_stopping() {
                    // The next one offers it: begun now, it might be cut off in its middle.
                    take_back(&door.engine, agent, id, attempt, "askd is just ending; the next one takes over");
                    continue;
                }
                let offer = Offer { id, attempt, kind, message, no_wrap };
                if !agents.task(&agent, Task::Offer(offer.clone())) {
                    let why = "it has not been started; start it with `ccb`".to_owned();
                    door.engine.tell(Input::Presence { agent, presence: Presence::Absent { why } });
                    let why = "the agent has no transport".to_owned();
                    door.engine.tell(Input::NotHandedOver { id: offer.id, attempt, why });
                }
            }
        }
    }
}

/// Takes an offer back of which nothing has gone out, so that the next worker knows that.
fn take_back(engine: &Engine, agent: AgentName, id: RequestId, attempt: u32, why: &str) {
    engine.tell(Input::Presence { agent, presence: Presence::Starting { why: why.to_owned() } });
    engine.tell(Input::NotHandedOver { id, attempt, why: why.to_owned() });
}

async fn listen_to_news(mut news: UnboundedReceiver<Request>, arm: UnboundedSender<Arm>, unsettled: Arc<Unsettled>) {
    while let Some(request) = news.recv().await {
        let before = unsettled.any();
        if request.is_settled() {
            unsettled.lock().remove(&request.id);
            let known = request.turn().is_some();
            arm.send(Arm::Over { id: request.id, known }).ok();
        } else {
            unsettled.lock().insert(request.id);
        }
        if before != unsettled.any() {
            unsettled.changed.notify_waiters();
        }
    }
}

/// How long a keeper may take to adopt a worker before it is looked for again.
const ADOPTION: Duration = Duration::from_secs(2);

/// Has this worker give way when the engine or somebody who wants to succeed it has found its ground lost.
async fn watch_ground(door: Arc<Door>, mut leaving: UnboundedReceiver<String>, claim: Claim) {
    loop {
        tokio::select! {
            Some(why) = leaving.recv() => door.give_way(&why),
            () = claim.knocked() => door.look_down(),
        }
    }
}

/// Starts a keeper when ours has died: it adopts this worker. It finds it by its socket, and so does everybody else:
/// without one, another worker has to serve.
async fn replace_keeper(door: Arc<Door>) {
    loop {
        door.keeper_lost.notified().await;
        while door.keeper.load(Ordering::SeqCst) == 0 {
            if door.is_stopping() {
                return;
            }
            if let Some(what) = door.ground.lost() {
                return door.give_way(what);
            }
            if !door.files.path(file::SOCKET).exists() {
                return door.give_way("askd's socket was deleted, and there is no keeper; the next worker takes over");
            }
            log("the keeper is gone; another one is started");
            match start_keeper(&door) {
                // Reaped when it ends; it is not ours to end.
                Ok(mut child) => drop(tokio::spawn(async move { child.wait().await })),
                Err(error) => log(&format!("no keeper could be started: {error}")),
            }
            tokio::time::sleep(ADOPTION).await;
        }
    }
}

/// Starts a keeper of this project. One that finds another at work ends at once.
fn start_keeper(door: &Door) -> std::io::Result<tokio::process::Child> {
    tokio::process::Command::new(crate::process::own_program()?)
        .arg("--project")
        .arg(door.files.home().work_dir())
        .env("CCB_RUN_DIR", door.files.home().root())
        .env_remove("CCB_PARENT_PID")
        .env_remove(crate::keeper::MEMORY[0])
        .env_remove(crate::keeper::MEMORY[1])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
}
