//! Panes and pastes on a private tmux server, with shell lines in the place of agents.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ccb_core::home::Home;
use ccb_core::id::RequestId;
use ccb_core::screen::{Look, Sight};
use ccb_daemon::paste::{
    Delivery, Edge, Offer, Pressed, Target, composer_state, deliver, interrupt, is_lost, purge, retry_enter,
};
use ccb_daemon::process::{Identity, Signal, children};
use ccb_daemon::tmux::{Error, Key, Obstacle, Pane, Pins, Server, Side};
use tempfile::TempDir;

const RULE: &str = "────────────────────";

/// A collapsed paste, as it is shown.
const OURS: &str = "[Pasted text #1 +4 lines]";

/// What [`OURS`] stands for.
const TEXT: &str = "CCB_REQ_ID: r1\n\none\ntwo\nthree";

/// Shows `$1`, and `$2` once something comes in; everything that comes in goes to `$3`.
const DRAWN: &str = "stty raw -echo; printf '\\033[?2004h'; printf \"$1\"; dd bs=1 count=1 of=\"$3\" 2>/dev/null; \
     printf \"$2\"; exec cat >> \"$3\"";

/// A private server, a home, and whatever a test writes; all of it ends with the test.
struct Lab {
    dir: TempDir,
    server: Server,
    home: Home,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _gone = self.tmux(&["kill-server"]);
    }
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a private directory");
        let server = Server::own(dir.path().join("tmux.sock"), dir.path().to_owned());
        // `load-buffer` expands its path as a format: this one would leave a trace.
        let home = Home::new(
            &dir.path().join(format!("st#(touch {}/X) #{{pid}} $(touch X)", dir.path().display())),
            dir.path(),
        );
        Self { dir, server, home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tmux(&self, args: &[&str]) -> io::Result<String> {
        let out = Command::new("tmux").arg("-S").arg(self.server.socket()).args(args).output()?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    async fn start(&self, argv: &[&str]) -> Pane {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        self.server.start_session("t", (100, 30), &argv, &[]).await.expect("a session starts")
    }

    /// Starts a pane that keeps what it is given, byte for byte, and returns it as a blind target.
    async fn blind(&self) -> Target {
        let keep = "stty raw -echo; printf '\\033[?2004hready'; exec cat > \"$1\"";
        let pane = self.start(&["sh", "-c", keep, "sh", &self.keys()]).await;
        self.shows(&pane, "ready").await;
        Target { server: self.server.clone(), pins: pane.pins, agent: None, look: None }
    }

    /// Starts a pane that shows `first` until something comes in, then `then`.
    async fn drawn(&self, first: &str, then: &str) -> Target {
        let pane = self.start(&["sh", "-c", DRAWN, "sh", first, then, &self.keys()]).await;
        self.shows(&pane, first.rsplit("\\r\\n").nth(1).expect("a screen of lines")).await;
        Target { server: self.server.clone(), pins: pane.pins, agent: None, look: Some(Look::Boxed) }
    }

    fn keys(&self) -> String {
        self.path("keys").to_str().expect("a path of text").to_owned()
    }

    fn given(&self) -> Vec<u8> {
        fs::read(self.keys()).unwrap_or_default()
    }

    async fn shows(&self, pane: &Pane, what: &str) {
        until(&format!("the pane shows {what:?}"), async || {
            self.server.capture(&pane.pins.pane).await.is_ok_and(|(_, capture)| capture.text.contains(what))
        })
        .await;
    }

    async fn deliver(&self, target: &Target, text: &str) -> Delivery {
        self.deliver_through(target, text, |_| Ok(())).await
    }

    async fn deliver_through(
        &self,
        target: &Target,
        text: &str,
        gate: impl Fn(Edge) -> Result<(), String> + Send + Sync,
    ) -> Delivery {
        let id = RequestId::new("20261122-205301-123-4711-1").expect("an id");
        let delivery = deliver(target, &Offer { home: &self.home, id: &id, attempt: 1, text }, &gate).await;
        assert_eq!(self.left_behind(), Vec::<String>::new(), "{delivery:?}");
        delivery
    }

    /// Bodies and buffers.
    fn left_behind(&self) -> Vec<String> {
        let bodies = fs::read_dir(self.home.path("bodies")).into_iter().flatten();
        let bodies = bodies.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let buffers = self.tmux(&["list-buffers", "-F", "#{buffer_name}"]).expect("tmux runs");
        bodies.chain(buffers.lines().map(str::to_owned)).collect()
    }

    /// A key that is pressed now comes after everything that was pressed before; then nothing more is on its way.
    async fn ends_with(&self, target: &Target, expected: &[u8]) {
        self.tmux(&["send-keys", "-t", &target.pins.pane, "-l", "~end~"]).expect("tmux runs");
        let expected = [expected, b"~end~"].concat();
        until("the last key arrives", async || self.given().ends_with(b"~end~")).await;
        assert_eq!(String::from_utf8_lossy(&self.given()), String::from_utf8_lossy(&expected));
    }
}

/// Waits for a condition by asking again, and fails when it does not come true.
async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A screen with this in its composer, the cursor in it, and this below.
fn composer(text: &str, below: &str) -> String {
    format!("\\033[2J\\033[Hhello\\r\\n{RULE}\\r\\n❯ {text}\\0337\\r\\n{RULE}\\r\\n{below}\\r\\n\\0338")
}

fn pasted(text: &str, then: &str) -> Vec<u8> {
    format!("\u{1b}[200~{}\u{1b}[201~{then}", text.replace('\n', "\r")).into_bytes()
}

fn not_handed_over(delivery: &Delivery) -> (&str, bool) {
    match delivery {
        Delivery::NotHandedOver { why, wait } => (why, *wait),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn arguments_reach_a_program_without_a_shell() {
    let lab = Lab::new();
    let trace = lab.path("X");
    let hostile = format!("$(touch {0}) `touch {0}` #(touch {0}) #{{pid}} #[x]", trace.display());
    let told = [
        "a b",
        "q'\"\\",
        &hostile,
        ";",
        "x;",
        "x\\;",
        "\\;",
        ";;",
        "",
        "-d",
        "--",
        "two\nlines",
        "é漢",
        "{",
        "}",
        "%1",
    ];
    let tell = "for a do printf '%s\\0' \"$a\"; done > \"$0.new\"; mv \"$0.new\" \"$0\"; exec cat";
    let told_by = async |file: &Path| {
        until("the program has started", async || file.exists()).await;
        fs::read(file).expect("what it was told")
    };
    let expected: Vec<u8> = told.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();

    let (first, second) = (lab.path("first"), lab.path("second"));
    let words = |file: &Path| -> Vec<String> {
        let head = ["sh", "-c", tell, file.to_str().expect("a path of text")];
        head.iter().chain(&told).map(|word| (*word).to_owned()).collect()
    };
    let pane = lab.server.start_session("t", (100, 30), &words(&first), &[]).await.unwrap();
    assert_eq!(told_by(&first).await, expected);
    lab.server.split(&pane.pins.pane, Side::Right, &words(&second), &[]).await.unwrap();
    assert_eq!(told_by(&second).await, expected);

    // A single word would be a command line to tmux.
    let program = lab.path("a program; $(touch X) 'q;");
    fs::write(
        &program,
        format!("#!/bin/sh\necho \"$CCB_TEST\" > {0}.new; mv {0}.new {0}; exec cat\n", lab.path("third").display()),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let argv = [program.to_str().unwrap().to_owned()];
    lab.server.split(&pane.pins.pane, Side::Below, &argv, &[("CCB_TEST", "#(x) $(y) z;")]).await.unwrap();
    assert_eq!(told_by(&lab.path("third")).await, b"#(x) $(y) z;\n");
    assert!(!trace.exists());
    assert!(matches!(lab.server.start_session("a b", (9, 9), &argv, &[]).await, Err(Error::Word { .. })));
}

#[tokio::test]
async fn sessions_and_panes_come_and_go() {
    let lab = Lab::new();
    assert!(!lab.server.has_session("t").await.unwrap());
    assert_eq!(lab.server.purge_buffers("ccb-").await.unwrap(), 0);
    let pane = lab.start(&["cat", "-"]).await;
    assert!(lab.server.has_session("t").await.unwrap() && !lab.server.has_session("u").await.unwrap());
    assert_eq!((pane.width, pane.obstacle), (100, None));
    let other = lab.server.split(&pane.window, Side::Below, &["cat".into(), "-".into()], &[]).await.unwrap();
    lab.server.tiled(&pane.pins.pane).await.unwrap();
    lab.server.label(&other.pins.pane, "reviewer").await.unwrap();
    assert!(matches!(lab.server.label(&other.pins.pane, "#(x)").await, Err(Error::Word { .. })));
    assert_eq!(lab.tmux(&["display-message", "-p", "-t", &other.pins.pane, "#{@ccb}"]).unwrap(), "reviewer\n");
    let shown = || lab.tmux(&["display-message", "-p", "-t", &other.pins.pane, "#{E:pane-border-format}"]).unwrap();
    for (waits, border) in [(true, " reviewer ⚠ waiting for you \n"), (false, " reviewer \n"), (false, " reviewer \n")]
    {
        lab.server.mark(&other.pins.pane, waits).await.unwrap();
        assert_eq!(shown(), border);
    }
    let panes = lab.server.window_panes(&pane.window).await.unwrap();
    assert_eq!(panes.iter().map(|pane| &pane.pins).collect::<Vec<_>>(), [&pane.pins, &other.pins]);
    assert_eq!(lab.server.pane(&other.pins.pane).await.unwrap().pins, other.pins);
    for option in ["mouse on", "remain-on-exit off", "allow-rename off", "set-titles off", "history-limit 50000"] {
        let (name, value) = option.split_once(' ').unwrap();
        let found =
            lab.tmux(&["show-options", "-gqv", name]).unwrap() + &lab.tmux(&["show-options", "-gwqv", name]).unwrap();
        assert_eq!(found.lines().next(), Some(value), "{name}");
    }

    let stranger = Pins { process: pane.pins.process.clone(), ..other.pins.clone() };
    assert!(!lab.server.kill_pane(&stranger).await.unwrap());
    assert!(lab.server.kill_pane(&other.pins).await.unwrap());
    other.pins.process.ended().await.unwrap();
    assert!(!other.pins.process.is_alive());
    assert!(!lab.server.kill_pane(&other.pins).await.unwrap());
    assert!(matches!(lab.server.pane(&other.pins.pane).await, Err(Error::NoPane(_))));
    assert!(matches!(lab.server.capture(&other.pins.pane).await, Err(Error::NoPane(_))));

    let user = Server::of_user(lab.server.socket().to_owned(), lab.dir.path().to_owned());
    assert!(matches!(user.kill_server().await, Err(Error::NotOurs(_))));
    lab.server.kill_server().await.unwrap();
    lab.server.kill_server().await.unwrap();
    assert!(matches!(lab.server.pane(&pane.pins.pane).await, Err(Error::NoServer(_))));
}

#[tokio::test]
async fn a_paste_arrives_byte_for_byte_and_cannot_break_out() {
    let lab = Lab::new();
    let target = lab.blind().await;
    let line = "fn main() { println!(\"é漢🦀 $(touch X) `x` #(touch X) %1 ;\\\"); }\t// \\; ";
    let mut text = format!("{line}\r\n").repeat(3000);
    text.push_str("\u{1b}[201~\u{3}\u{9b}201~\u{1b}\rlast\n\n");
    assert!(text.len() > 200_000);
    assert!(matches!(lab.deliver(&target, &text).await, Delivery::Submitted { .. }));
    let safe = text.replace("\r\n", "\n").replace('\r', "\n").replace(['\u{1b}', '\u{3}', '\u{9b}'], "\u{fffd}");
    let expected = pasted(safe.trim_end_matches('\n'), "\r");
    until("everything has arrived", async || lab.given().len() >= expected.len()).await;
    assert!(lab.given() == expected);
    assert!(!lab.path("X").exists());
}

#[tokio::test]
async fn what_keeps_keys_from_the_agent_keeps_them_back() {
    let lab = Lab::new();
    let target = lab.blind().await;
    let pane = target.pins.pane.as_str();
    let cases: [(&[&str], &[&str], Obstacle); 3] = [
        (&["copy-mode", "-t", pane], &["send-keys", "-t", pane, "-X", "cancel"], Obstacle::Mode),
        (
            &["set-option", "-w", "-t", pane, "synchronize-panes", "on"],
            &["set-option", "-w", "-t", pane, "synchronize-panes", "off"],
            Obstacle::Synchronized,
        ),
        (&["select-pane", "-d", "-t", pane], &["select-pane", "-e", "-t", pane], Obstacle::InputOff),
    ];
    for (set, unset, obstacle) in cases {
        lab.tmux(set).unwrap();
        assert_eq!(lab.server.pane(pane).await.unwrap().obstacle, Some(obstacle));
        assert_eq!(not_handed_over(&lab.deliver(&target, "text").await), (obstacle.why(), true));
        assert_eq!(interrupt(&target, Key::Escape).await, Pressed::Refused { why: obstacle.why().to_owned() });
        lab.tmux(unset).unwrap();
    }
    lab.ends_with(&target, b"").await;
    assert_eq!(interrupt(&target, Key::Escape).await, Pressed::Done);
    until("the key arrives", async || lab.given() == b"~end~\x1b").await;
}

#[tokio::test]
async fn a_pane_of_another_process_gets_nothing() {
    let lab = Lab::new();
    let target = lab.blind().await;
    lab.tmux(&["respawn-pane", "-k", "-t", &target.pins.pane, &format!("stty raw -echo; exec cat > '{}'", lab.keys())])
        .unwrap();
    until("the pane's process has changed", async || {
        lab.server.pane(&target.pins.pane).await.is_ok_and(|pane| pane.pins != target.pins)
    })
    .await;
    assert_eq!(not_handed_over(&lab.deliver(&target, "text").await), ("its pane's process is gone", false));
    // The process lives, but not in this pane: tmux itself holds the keys back.
    let own = Pins { process: Identity::own().unwrap(), ..target.pins.clone() };
    for look in [None, Some(Look::Boxed)] {
        let moved = Target { pins: own.clone(), look, ..target.clone() };
        assert_eq!(
            not_handed_over(&lab.deliver(&moved, "text").await),
            ("its pane now belongs to another process", false)
        );
    }
    assert_eq!(composer_state(&Target { look: Some(Look::Boxed), ..target.clone() }).await, None);
    lab.ends_with(&target, b"").await;
}

#[tokio::test]
async fn the_agent_must_be_at_home_in_its_pane() {
    let lab = Lab::new();
    let run = "stty raw -echo; sleep 1000 & printf ready; exec cat > \"$1\"";
    let pane = lab.start(&["sh", "-c", run, "sh", &lab.keys()]).await;
    lab.shows(&pane, "ready").await;
    let agent = children(pane.pins.process.pid).pop().expect("the sleeping child");
    let target = |agent: &Identity| Target {
        server: lab.server.clone(),
        pins: pane.pins.clone(),
        agent: Some(agent.clone()),
        look: None,
    };
    let stranger = Identity::own().unwrap();
    let why = "the agent no longer belongs to its pane";
    assert_eq!(not_handed_over(&lab.deliver(&target(&stranger), "x").await), (why, false));
    agent.signal(Signal::STOP).unwrap();
    until("it is stopped", async || agent.is_stopped()).await;
    assert_eq!(not_handed_over(&lab.deliver(&target(&agent), "x").await), ("the agent is suspended", true));
    agent.signal(Signal::CONT).unwrap();
    until("it runs", async || !agent.is_stopped()).await;
    assert!(matches!(lab.deliver(&target(&agent), "text").await, Delivery::Submitted { .. }));
    assert!(agent.signal(Signal::KILL).unwrap());
    until("it is dead", async || !agent.is_alive()).await;
    assert_eq!(not_handed_over(&lab.deliver(&target(&agent), "x").await), ("the agent's process is gone", false));
    lab.ends_with(&target(&agent), b"text\r").await;
}

#[tokio::test]
async fn enter_follows_once_when_the_composer_shows_our_text_alone() {
    let lab = Lab::new();
    let target = lab.drawn(&composer("", "idle"), &composer(OURS, "idle")).await;
    assert_eq!(composer_state(&target).await, Some(Sight::Composer { text: String::new(), cursor: true }));
    assert!(matches!(lab.deliver(&target, TEXT).await, Delivery::Submitted { .. }));
    let once = pasted(TEXT, "\r");
    until("Enter arrives", async || lab.given() == once).await;
    assert_eq!(retry_enter(&target, TEXT).await, Pressed::Done);
    for other in ["another text", "1\n2\n3\n4\n5\n6\n7"] {
        let refused = Pressed::Refused { why: "its composer holds something else than our text alone".to_owned() };
        assert_eq!(retry_enter(&target, other).await, refused);
    }
    lab.ends_with(&target, &pasted(TEXT, "\r\r")).await;
}

#[tokio::test]
async fn a_screen_that_is_not_an_empty_composer_gets_nothing() {
    for (screen, expected) in [
        (composer("half a thou", "idle"), "a draft is in the composer"),
        (composer("", "Do you want to run it?"), "a dialog is open: Do you want"),
        ("a shell\\r\\n$ ls\\r\\n".to_owned(), "its screen is not understood"),
        (format!("{}\\033[20;1H", composer("", "idle")), "the cursor is not in its composer"),
    ] {
        let lab = Lab::new();
        let target = lab.drawn(&screen, &composer(OURS, "idle")).await;
        assert_eq!(not_handed_over(&lab.deliver(&target, TEXT).await), (expected, true));
        assert!(matches!(retry_enter(&target, TEXT).await, Pressed::Refused { .. }));
        lab.ends_with(&target, b"").await;
    }
}

#[tokio::test]
async fn no_enter_when_the_paste_shows_anything_but_our_text() {
    let stuck = |why: &str| Delivery::Stuck { why: why.to_owned() };
    let missing = |why: &str| Delivery::Missing { why: why.to_owned() };
    for (then, expected) in [
        (composer(OURS, "Allow this? [y/N]"), stuck("a dialog is open: [y/N]")),
        (composer(&format!("x{OURS}"), "idle"), stuck("its composer holds something else than our text alone")),
        ("\\033[2J\\033[Hdelete all? ".to_owned(), stuck("its screen is not understood")),
        (composer("", "idle"), missing("our text has not appeared in its composer")),
    ] {
        let lab = Lab::new();
        let target = lab.drawn(&composer("", "idle"), &then).await;
        assert_eq!(lab.deliver(&target, TEXT).await, expected);
        lab.ends_with(&target, &pasted(TEXT, "")).await;
    }
}

#[tokio::test]
async fn a_paste_is_lost_only_if_the_program_has_read_it() {
    for (program, lost) in
        [(DRAWN, true), ("stty raw -echo; printf '\\033[?2004h'; printf \"$1\"; exec sleep 1000", false)]
    {
        let lab = Lab::new();
        let screen = composer("", "idle");
        let pane = lab.start(&["sh", "-c", program, "sh", &screen, &screen, &lab.keys()]).await;
        lab.shows(&pane, "idle").await;
        let agent = Some(pane.pins.process.clone());
        let target = Target { server: lab.server.clone(), pins: pane.pins, agent, look: Some(Look::Boxed) };
        assert!(matches!(lab.deliver(&target, TEXT).await, Delivery::Missing { .. }));
        if lost {
            until("it has read the paste", async || is_lost(&target).await).await;
        } else {
            assert!(!is_lost(&target).await);
        }
    }
}

#[tokio::test]
async fn a_scroll_between_paste_and_enter_holds_enter_back() {
    let lab = Lab::new();
    let target = lab.drawn(&composer("", "idle"), &composer(OURS, "idle")).await;
    let scroll = |edge| {
        if edge == Edge::Enter {
            lab.tmux(&["copy-mode", "-t", &target.pins.pane]).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    assert_eq!(
        lab.deliver_through(&target, TEXT, scroll).await,
        Delivery::Stuck { why: Obstacle::Mode.why().to_owned() }
    );
    lab.tmux(&["send-keys", "-t", &target.pins.pane, "-X", "cancel"]).unwrap();
    lab.ends_with(&target, &pasted(TEXT, "")).await;
}

#[tokio::test]
async fn a_letter_typed_at_the_last_moment_is_not_mixed_with() {
    let lab = Lab::new();
    let target = lab.drawn(&composer("", "idle"), &composer("h", "idle")).await;
    let typed = AtomicBool::new(false);
    let type_a_letter = |_| {
        if !typed.swap(true, Ordering::Relaxed) {
            lab.tmux(&["send-keys", "-t", &target.pins.pane, "h"]).map_err(|error| error.to_string())?;
            let deadline = Instant::now() + Duration::from_secs(20);
            while !lab.tmux(&["capture-pane", "-p", "-t", &target.pins.pane]).is_ok_and(|text| text.contains("❯ h")) {
                assert!(Instant::now() < deadline, "the letter was not drawn");
            }
        }
        Ok(())
    };
    let delivery = lab.deliver_through(&target, TEXT, type_a_letter).await;
    assert_eq!(not_handed_over(&delivery), ("a draft is in the composer", true));
    lab.ends_with(&target, b"h").await;
}

#[tokio::test]
async fn the_gate_closes_before_the_paste_and_before_enter() {
    let closed = |at: Edge| move |edge| if edge == at { Err("the agent is busy".to_owned()) } else { Ok(()) };
    let lab = Lab::new();
    let target = lab.drawn(&composer("", "idle"), &composer(OURS, "idle")).await;
    let blind = Target { look: None, ..target.clone() };
    for target in [&target, &blind] {
        let delivery = lab.deliver_through(target, TEXT, closed(Edge::Paste)).await;
        assert_eq!(not_handed_over(&delivery), ("the agent is busy", true));
    }
    let delivery = lab.deliver_through(&target, TEXT, closed(Edge::Enter)).await;
    assert_eq!(delivery, Delivery::Stuck { why: "the agent is busy".to_owned() });
    lab.ends_with(&target, &pasted(TEXT, "")).await;
}

#[tokio::test]
async fn a_tmux_that_does_not_answer_leaves_it_unknown() {
    let lab = Lab::new();
    let target = lab.blind().await;
    target.pins.server.signal(Signal::STOP).unwrap();
    let id = RequestId::new("r1").unwrap();
    let offer = Offer { home: &lab.home, id: &id, attempt: 1, text: "text" };
    let blind = deliver(&target, &offer, &|_| Ok(())).await;
    let read = Target { look: Some(Look::Boxed), ..target.clone() };
    let drawn = deliver(&read, &offer, &|_| Ok(())).await;
    target.pins.server.signal(Signal::CONT).unwrap();
    assert!(matches!(&blind, Delivery::Unknown { why } if why.contains("does not answer")), "{blind:?}");
    assert!(not_handed_over(&drawn).1, "{drawn:?}");
    // The body that was not read is gone, so that nothing is pasted late.
    lab.ends_with(&target, b"").await;
}

/// Delivers in a process of its own, so that the process can die at a failpoint; does nothing by itself.
#[tokio::test]
async fn deliverer() {
    let Ok(told) = std::env::var("CCB_TEST_DELIVER") else {
        return;
    };
    let (pins, dir, state): (Pins, PathBuf, PathBuf) = serde_json::from_str(&told).unwrap();
    let server = Server::own(pins.socket.clone(), dir.clone());
    let (home, id) = (Home::new(&state, &dir), RequestId::new("r1").unwrap());
    let target = Target { server, pins, agent: None, look: None };
    let offer = Offer { home: &home, id: &id, attempt: 1, text: "text" };
    let delivery = deliver(&target, &offer, &|_| Ok(())).await;
    assert!(matches!(delivery, Delivery::Submitted { .. }), "{delivery:?}");
}

#[tokio::test]
async fn a_death_at_any_edge_never_leaves_half_a_text() {
    for (edge, arrived) in [
        ("paste.load", pasted("", "")[..0].to_vec()),
        ("paste.loaded", Vec::new()),
        ("paste.pasted", pasted("text", "")),
        ("paste.enter", pasted("text", "")),
        ("paste.entered", pasted("text", "\r")),
    ] {
        let lab = Lab::new();
        let target = lab.blind().await;
        let state = lab.path("state");
        let home = Home::new(&state, lab.dir.path());
        let told = serde_json::to_string(&(&target.pins, lab.dir.path(), &state)).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "deliverer"]).env("CCB_TEST_DELIVER", told);
        let status = child.env("CCB_FAILPOINT", format!("{edge}=abort")).output().unwrap().status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{edge}: {status:?}");
        lab.tmux(&["set-buffer", "-b", "ccb-00000000-r1-1", "another project's"]).unwrap();
        purge(&lab.server, &home).await.unwrap();
        assert_eq!(lab.left_behind(), ["ccb-00000000-r1-1"], "{edge}");
        assert_eq!(fs::read_dir(home.path("bodies")).unwrap().count(), 0, "{edge}");
        lab.ends_with(&target, &arrived).await;
    }
}

#[tokio::test]
async fn a_failpoint_waits_and_goes_on() {
    let lab = Lab::new();
    let target = lab.blind().await;
    let told = serde_json::to_string(&(&target.pins, lab.dir.path(), lab.path("state"))).unwrap();
    let go = lab.path("go");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "deliverer"])
        .env("CCB_TEST_DELIVER", told)
        .env("CCB_FAILPOINT", format!("paste.pasted=wait:{}", go.display()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the point is reached", async || lab.path("go.reached").exists()).await;
    until("the text is there", async || lab.given() == pasted("text", "")).await;
    fs::write(go, "").unwrap();
    assert!(child.wait().unwrap().success());
    lab.ends_with(&target, &pasted("text", "\r")).await;
}
