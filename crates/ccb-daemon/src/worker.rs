//! The worker: the daemon proper, put together.

use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use anyhow::Context as _;
use ccb_core::home::{Home, file};
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
use crate::life::{Unsettled, idle_exit};
use crate::lock::Lock;
use crate::mount::Mounts;
use crate::record::{Record, heartbeat, last_end};
use crate::store::Store;
use crate::tcp::{Address, LISTEN};
use crate::timers::{self, Arm};
use crate::transport::{Offer, Task};

/// Serves the project until it is told to stop.
pub(crate) fn run(home: Home) -> anyhow::Result<ExitCode> {
    // Whatever we or our libraries create is the user's alone (promise P9).
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let files = Arc::new(Files::open(home)?);
    write_panics(&files);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(ExitCode::from(runtime.block_on(serve(files))?))
}

/// Has a panic of any thread end the process, with its message kept for the keeper (promise P8).
fn write_panics(files: &Arc<Files>) {
    let files = files.clone();
    std::panic::set_hook(Box::new(move |panic| {
        log(&panic.to_string());
        files.write("run/panic", &panic.to_string().replace('\n', " ")).ok();
        std::process::abort();
    }));
}

/// Serves until the end, and returns the exit code for the keeper.
async fn serve(files: Arc<Files>) -> anyhow::Result<u8> {
    let budget = Budget::take();
    let lock = Arc::new(take_lock(&files).await?);
    let mut store = Store::open(&files.path(file::STORE))?;
    let last_end = last_end(&files);
    let generation = store.meta("generation")?.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) + 1;
    store.set_meta("generation", &generation.to_string())?;
    let clock = Clock::start(store.horizon()?.1);
    crate::files::remove_if_there(&files.path(file::SOCKET))?;
    let listener = UnixListener::bind(files.socket(file::SOCKET)).context("cannot open askd's socket")?;
    std::fs::set_permissions(files.path(file::SOCKET), std::fs::Permissions::from_mode(0o600))?;
    files.link_commands().context("cannot link the commands into the home")?;

    let (effects_in, effects) = unbounded_channel();
    let (news_in, news) = unbounded_channel();
    let engine = Engine::start(store, policy(), clock, Outlets { effects: effects_in, news: news_in })?;
    let agents = Agents::new(engine.clone());
    let mounts = Arc::new(Mounts::new(files.clone(), engine.clone(), agents.clone()));
    let tcp = open_tcp(&engine).await;
    let door = Arc::new(Door {
        notes: tcp.as_ref().err().map(|error| format!("{error:#}")).into_iter().collect(),
        files: files.clone(),
        engine: engine.clone(),
        agents: agents.clone(),
        mounts: mounts.clone(),
        clock,
        generation,
        started: clock.now(),
        last_end,
        keeper: AtomicU32::new(0),
        keeper_lost: Notify::new(),
        stop: Notify::new(),
        stopping: std::sync::Mutex::new(None),
        connections_changed: Notify::new(),
        connections: AtomicU64::new(0),
        guests: Arc::new(Guests::new(budget)),
        memory: Memory::new(),
    });
    mounts.recover().await;
    let (arm, orders) = unbounded_channel();
    let unsettled = Arc::new(Unsettled::default());
    unsettled.seed(&engine).await;
    tokio::spawn(timers::run(orders, engine.clone(), clock));
    tokio::spawn(perform(effects, agents.clone(), arm.clone(), lock.clone(), door.clone()));
    tokio::spawn(listen_to_news(news, arm, unsettled.clone()));
    let tcp = tcp.ok().flatten();
    let address = tcp.as_ref().map(|(_, address)| address.clone());
    let record = Record { files: files.clone(), generation, started: clock.now(), tcp: address };
    record.write("running", None)?;
    tokio::spawn(heartbeat(record.clone(), unsettled.clone()));
    tokio::spawn(replace_keeper(door.clone(), lock));
    tokio::spawn(idle_exit(door.clone(), unsettled));
    tokio::spawn(crate::door::serve(door.clone(), listener));
    if let Some((listener, address)) = tcp {
        tokio::spawn(crate::tcp::serve(door.clone(), listener, address.token));
    }
    ready();

    until_stopped(&door).await?;
    let stop = door.stopping.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let (why, code) = stop.unwrap_or_default();
    log(&format!("stopping: {why}"));
    engine.stop().await;
    if code == crate::keeper::GIVES_WAY {
        // What is in the home now may be the next worker's.
        return Ok(code);
    }
    crate::files::remove_if_there(&files.path(file::SOCKET))?;
    crate::files::remove_if_there(&files.path(file::STATE))?;
    crate::files::remove_if_there(&files.path(crate::keeper::SETTINGS))?;
    record.write("stopped", Some(&why))?;
    Ok(code)
}

/// Opens the TCP door if it is wanted. That it cannot be opened is no reason not to serve.
async fn open_tcp(engine: &Engine) -> anyhow::Result<Option<(TcpListener, Address)>> {
    let Some(setting) = std::env::var(LISTEN).ok().filter(|setting| !setting.trim().is_empty()) else {
        return Ok(None);
    };
    let opened = crate::tcp::open(&setting, engine).await;
    if let Err(error) = &opened {
        log(&format!("{error:#}"));
    }
    opened.map(Some)
}

/// Takes the worker's lock. A predecessor that is being killed may hold it for a moment yet.
async fn take_lock(files: &Files) -> anyhow::Result<Lock> {
    for _ in 0..400 {
        if let Some(lock) = Lock::take(&files.path(file::WORKER_LOCK))? {
            return Ok(lock);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    anyhow::bail!("another worker of this project holds `{}`", files.path(file::WORKER_LOCK).display())
}

/// Says on the standard output, which the keeper reads, that the socket is open.
fn ready() {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "ready").ok();
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
async fn perform(
    mut effects: UnboundedReceiver<Effect>,
    agents: Agents,
    arm: UnboundedSender<Arm>,
    lock: Arc<Lock>,
    door: Arc<Door>,
) {
    while let Some(effect) = effects.recv().await {
        match effect {
            Effect::Arm { id, timer, at } => drop(arm.send(Arm::At(id, timer, at))),
            Effect::Interrupt { agent, id, turn } => drop(agents.task(&agent, Task::Interrupt { id, turn })),
            Effect::Reconcile { agent, id, attempt, turn, last } => {
                let of = id.clone();
                let kind = door
                    .engine
                    .look(move |view| view.state.requests.get(&of).map(|request| request.kind.clone()))
                    .await;
                let Ok(Some(kind)) = kind else { continue };
                agents.task(&agent, Task::Reconcile { id, attempt, kind, turn, last });
            }
            Effect::Offer { agent, id, attempt, kind, message, no_wrap } => {
                // Fencing: a deleted lock file may have let another worker in. Nothing is offered without the lock.
                if !lock.is_ours() && !crate::failpoint::sabotaged("fencing") {
                    // Taken back, so that the next worker knows that nothing of it has gone out.
                    let why = "askd has lost its lock; the next one takes over".to_owned();
                    let presence = Presence::Starting { why: why.clone() };
                    door.engine.tell(Input::Presence { agent, presence });
                    door.engine.tell(Input::NotHandedOver { id, attempt, why });
                    door.give_way("its lock file was deleted; the next worker takes over");
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

/// Starts a keeper when ours has died: it adopts this worker.
async fn replace_keeper(door: Arc<Door>, lock: Arc<Lock>) {
    loop {
        door.keeper_lost.notified().await;
        if door.stopping.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some() {
            return;
        }
        if !lock.is_ours() {
            return door.give_way("its files were deleted");
        }
        log("the keeper is gone; another one is started");
        let Ok(program) = crate::process::own_program() else { continue };
        let started = tokio::process::Command::new(program)
            .arg("--project")
            .arg(door.files.home().work_dir())
            .env("CCB_RUN_DIR", door.files.home().root())
            .env_remove(crate::keeper::MEMORY[0])
            .env_remove(crate::keeper::MEMORY[1])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        match started {
            // Reaped when it ends; it is not ours to end.
            Ok(mut child) => drop(tokio::spawn(async move { child.wait().await })),
            Err(error) => log(&format!("no keeper could be started: {error}")),
        }
    }
}
