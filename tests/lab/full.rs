//! The whole table: every CLI on every rung that ccb drives it on, through everything that can become of a turn.
//!
//! `make lab-full` runs it and writes the table of docs/agents.md from what passed: each cell leaves a file in the
//! directory that `CCB_LAB_TABLE` names. A CLI is a row here, and nothing else of this file knows it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::codex_rungs::start_older;
use crate::deaths::pid;
use crate::env::claude::outcome;
use crate::env::{Lab, Setup, lab, until};

/// Where passed cells are noted.
const TABLE: &str = "CCB_LAB_TABLE";

/// How much goes each way in the cell of large texts.
const LARGE: usize = 200 * 1024;

/// How soon the request after a death is answered: all that died is started again by then.
const NORMAL: Duration = Duration::from_secs(40);

/// A CLI on a rung.
struct Row {
    /// The agent, which is also the provider.
    agent: &'static str,
    /// The rung, which is forced.
    rung: &'static str,
    /// Its world, in which it acts without asking for nothing that the cells want.
    setup: fn() -> Setup,
    /// Its world where it asks before a tool runs, and what makes it ask.
    asks: (fn() -> Setup, &'static str),
    /// What is in the command line of the process that is the CLI.
    process: &'static str,
    /// What becomes of a prompt that the provider answers with this error, at once or after the CLI's own retries.
    errors: [(&'static str, &'static str); 3],
    /// Whether what a human has half typed keeps requests waiting.
    draft_holds: bool,
    /// The key by which the human allows what is asked for.
    allow: &'static str,
    /// The lab's package of an older version, which is driven in the usual one's place.
    older: Option<&'static str>,
    /// How it is started, to where it can be asked.
    start: fn(&Lab),
}

/// What providers are told of errors at once.
const CLASSES: [(&str, &str); 3] = [("429", "failed/rate-limit"), ("401", "failed/auth"), ("500", "failed/overloaded")];

const CODEX_JOINED: Row = Row {
    agent: "codex",
    rung: "joined",
    setup: Setup::default,
    asks: (
        || Setup {
            config: ("approval_policy = \"on-request\"\nsandbox_mode = \"read-only\"\n", ""),
            ..Setup::default()
        },
        r#"RAWTOOL: exec_command {"cmd":"touch made","sandbox_permissions":"require_escalated","justification":"a test"}"#,
    ),
    process: "app-server --listen",
    errors: CLASSES,
    draft_holds: false,
    allow: "Enter",
    older: None,
    start: Lab::start,
};

/// What Codex keeps when its user has reviewed our hooks.
pub(crate) const REVIEWED: &str = r#"
[hooks.state."/<session-flags>/config.toml:session_start:0:0"]
trusted_hash = "sha256:1ac0bb106cea1466e13567736b4198a72640ada89fca6d80b0b8e807fba02162"
[hooks.state."/<session-flags>/config.toml:user_prompt_submit:0:0"]
trusted_hash = "sha256:f904f2cb22ce88489ee4681940482b5536eda1cdcd84e9edcd183b69918d2e20"
[hooks.state."/<session-flags>/config.toml:stop:0:0"]
trusted_hash = "sha256:a833d8dedc974aa61319271dca442b20ca48832a40722cbb554036d0baa50802"
[hooks.state."/<session-flags>/config.toml:permission_request:0:0"]
trusted_hash = "sha256:85966c57e20e0996adfbfaa85407bda931f3689573cd93615456cd5aed11e021"
"#;

const CODEX_HOOKED: Row = Row {
    rung: "hooked",
    setup: || Setup { config: ("", REVIEWED), ..Setup::default() },
    asks: (
        || Setup {
            config: ("approval_policy = \"on-request\"\nsandbox_mode = \"read-only\"\n", REVIEWED),
            ..Setup::default()
        },
        CODEX_JOINED.asks.1,
    ),
    process: "bin/codex ",
    draft_holds: true,
    ..CODEX_JOINED
};

const CODEX_WATCHED: Row =
    Row { rung: "watched", setup: Setup::default, asks: CODEX_JOINED.asks, process: "codex ", ..CODEX_HOOKED };

const CODEX_OLDER: Row = Row {
    // It keeps no word of an error: its pane alone has it, and that is what is told.
    errors: [("429", "failed/provider"), ("401", "failed/provider"), ("500", "failed/provider")],
    older: Some("codex-older"),
    start: start_older,
    ..CODEX_WATCHED
};

const CLAUDE_HOOKED: Row = Row {
    agent: "claude",
    rung: "hooked",
    setup: Setup::claude,
    asks: (
        || Setup { settings: r#"{"permissions":{"defaultMode":"default"}}"#, ..Setup::claude() },
        "TOOL: touch made",
    ),
    process: "/claude --",
    errors: CLASSES,
    draft_holds: true,
    allow: "Enter",
    older: None,
    start: Lab::start,
};

const CLAUDE_WATCHED: Row = Row { rung: "watched", ..CLAUDE_HOOKED };

const CLAUDE_OLDER: Row = Row { older: Some("claude-older"), ..CLAUDE_HOOKED };

const OPENCODE_JOINED: Row = Row {
    agent: "opencode",
    rung: "joined",
    setup: Setup::opencode,
    asks: (|| Setup { settings: r#"{"permission":{"bash":"ask"}}"#, ..Setup::opencode() }, "TOOL: touch made"),
    process: "/opencode --hostname",
    // On 429 and 5xx it tries again for ever, which is shown while it does; after a 413 it compacts and goes on.
    errors: [("401", "failed/auth"), ("402", "failed/quota"), ("400", "failed/provider")],
    draft_holds: false,
    allow: "Enter",
    older: None,
    start: Lab::start,
};

const OPENCODE_WATCHED: Row = Row { rung: "watched", process: "bin/opencode", draft_holds: true, ..OPENCODE_JOINED };

const GEMINI_HOOKED: Row = Row {
    agent: "gemini",
    rung: "hooked",
    setup: Setup::gemini,
    asks: (Setup::gemini, "TOOL: touch made"),
    process: "/programs/gemini",
    // 429 and 500 it tries again without a word, for minutes: only a deadline ends them.
    errors: [("401", "failed/auth"), ("403", "failed/auth"), ("400", "failed/provider")],
    draft_holds: true,
    allow: "Enter",
    older: None,
    start: Lab::start,
};

const GEMINI_WATCHED: Row = Row { rung: "watched", ..GEMINI_HOOKED };

const DROID_JOINED: Row = Row {
    agent: "droid",
    rung: "joined",
    setup: Setup::droid,
    asks: (Setup::droid, "TOOL: touch made"),
    process: "droid exec",
    errors: [("401", "failed/auth"), ("402", "failed/quota"), ("400", "failed/provider")],
    draft_holds: false,
    allow: "y",
    older: None,
    start: Lab::start,
};

/// Its own interface wants a login, which the lab has none of: a stand-in plays it as it was recorded, and says so in its
/// version.
const DROID_HOOKED: Row = Row {
    rung: "hooked",
    setup: Setup::droid_stand_in,
    asks: (Setup::droid_stand_in, DROID_JOINED.asks.1),
    process: "stub-agent --provider droid",
    draft_holds: true,
    allow: "Enter",
    ..DROID_JOINED
};

const DROID_WATCHED: Row = Row { rung: "watched", ..DROID_HOOKED };

/// Starts the agent on its rung.
fn stage(row: &Row, setup: Setup) -> Option<Lab> {
    assert_eq!(setup.agent, row.agent);
    let lab = lab(Setup { older: row.older, ..setup })?;
    lab.forces(row.rung);
    (row.start)(&lab);
    assert_eq!(lab.agent()["rung"], row.rung, "{}", lab.agent());
    Some(lab)
}

/// Notes that a cell has passed.
fn passed(row: &Row, lab: &Lab, cell: &str) {
    let Some(dir) = std::env::var_os(TABLE) else { return };
    let version = lab.run(row.agent, &["--version"], "").ok();
    let number = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    let version = version.split_whitespace().find(number).unwrap_or("unknown").to_owned();
    let file = std::path::Path::new(&dir).join(format!("{} {version} {} {cell}", row.agent, row.rung));
    std::fs::write(file, "").unwrap();
}

/// Asserts that the next request is answered soon, and that the one before was given to the agent once.
#[track_caller]
fn goes_on(lab: &Lab, id: &str) {
    let began = Instant::now();
    // Where a text is pasted, a blank at its end may be ours.
    assert_eq!(lab.ask("ECHO: and on it goes").ok().trim_end(), "and on it goes");
    assert!(began.elapsed() < NORMAL, "{:?}", began.elapsed());
    assert!(lab.model_saw(id) <= 1, "{id} was sent twice");
}

/// Begins a slow answer, and returns when the model is at it.
#[track_caller]
fn in_mid_turn(lab: &Lab, message: &str) -> (String, crate::env::Going) {
    let (id, going) = lab.ask_meanwhile(message);
    let _working = lab.until_request(&id, "working");
    until("the model answers", || (lab.model_saw(&id) >= 1).then_some(()));
    (id, going)
}

/// Presses a key, as a human does who sees nothing come of it: again after two seconds.
#[track_caller]
pub(crate) fn press_until(lab: &Lab, key: &str, done: impl Fn() -> bool) {
    let mut pressed: Option<Instant> = None;
    until(&format!("{key} has done its work"), || {
        let over = done();
        if !over && pressed.is_none_or(|at| at.elapsed() > Duration::from_secs(2)) {
            if key.len() == 1 {
                // What it has come to meanwhile is text in an input line.
                lab.presses("C-u");
            }
            lab.presses(key);
            pressed = Some(Instant::now());
        }
        over.then_some(())
    });
}

#[track_caller]
fn completed(answer: &Value, reply: &str) {
    assert_eq!(outcome(answer), "completed", "{answer}");
    assert_eq!(answer["settlement"]["reply"].as_str().map(str::trim), Some(reply), "{answer}");
}

/// A question is answered, to the letter, and the next one too; the pane shows both.
fn story(row: &Row) {
    let Some(lab) = stage(row, (row.setup)()) else { return };
    completed(&lab.ask_json("ECHO: the first answer"), "the first answer");
    let _shown = lab.until_shown("the first answer");
    let lines = "two lines of text:\n- one, with ünïcödé and 你好\n- two `$(false)` \"quoted\" \\n";
    completed(&lab.ask_json(&format!("ECHOALL: {lines}")), lines);
    let id = lab.submit("ECHO: the third answer");
    completed(&lab.settled(&id), "the third answer");
    assert_eq!(lab.model_saw(&id), 1);
    passed(row, &lab, "story");
}

/// A turn is stopped by us and by the human; both are told as what they are.
fn interrupt(row: &Row) {
    let Some(lab) = stage(row, (row.setup)()) else { return };
    let words = "never whole ".repeat(40);
    let (id, going) = in_mid_turn(&lab, &format!("SLEEP 60: {words}"));
    let _cancelled = lab.ccb(&["cancel", &id]).ok();
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "cancelled", "{answer}");
    goes_on(&lab, &id);
    let (id, going) = in_mid_turn(&lab, &format!("SLEEP 60: {words}"));
    let _shown = lab.until_shown("never whole");
    press_until(&lab, "Escape", || lab.explain(&id)["request"]["state"] == "settled");
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "incomplete/interrupted", "{answer}");
    goes_on(&lab, &id);
    passed(row, &lab, "interrupt");
}

/// Three classes of errors are told as such.
fn errors(row: &Row) {
    let Some(lab) = stage(row, (row.setup)()) else { return };
    for (code, want) in row.errors {
        let answer = lab.ask_json(&format!("ERR {code}: broken by {code}"));
        assert_eq!(outcome(&answer), want, "{code}: {answer}");
        // The CLI itself may have asked the model again.
        assert_eq!(lab.ask("ECHO: and on it goes").ok().trim_end(), "and on it goes");
    }
    passed(row, &lab, "errors");
}

/// A tool that wants a permission is shown as waiting for the human, and nothing of ours answers.
fn permission(row: &Row) {
    let Some(lab) = stage(row, (row.asks.0)()) else { return };
    let (id, going) = lab.ask_meanwhile(row.asks.1);
    let why = lab.until_state("waiting for you");
    assert!(!why.is_empty());
    let _shown = lab.until_shown("touch made");
    // A transcript may tell a moment later than the screen.
    let _working = lab.until_request(&id, "working");
    let next = lab.submit("ECHO: must wait");
    assert!(!lab.project().join("made").exists(), "nobody has allowed it");
    assert_eq!(lab.explain(&next)["request"]["state"], "queued");
    // A dialog may overlook a key of its first moment.
    press_until(&lab, row.allow, || lab.project().join("made").exists());
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "completed", "{answer}");
    completed(&lab.settled(&next), "must wait");
    passed(row, &lab, "permission");
}

/// Large texts arrive whole, both ways.
fn large(row: &Row) {
    let Some(lab) = stage(row, (row.setup)()) else { return };
    let line = "a line of a large message, with ünïcödé in it\n";
    let message = format!("SIZE\n{}", line.repeat(LARGE / line.len() + 1));
    let answer = lab.ask_json(&message);
    assert_eq!(outcome(&answer), "completed", "{answer}");
    let reply = answer["settlement"]["reply"].as_str().unwrap();
    let bytes: usize = reply.split(' ').nth(3).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{reply}"));
    assert!((message.trim().len()..message.len() + 4000).contains(&bytes), "{bytes} of {}", message.len());
    let answer = lab.ask_json("LONG 200");
    assert_eq!(outcome(&answer), "completed");
    assert!(answer["settlement"]["reply"].as_str().unwrap().len() >= LARGE - 1);
    passed(row, &lab, "large");
}

/// askd dies whole in mid-turn; the answer comes all the same.
fn askd_killed(row: &Row) {
    let Some(lab) = stage(row, (row.setup)()) else { return };
    completed(&lab.ask_json("ECHO: a turn before"), "a turn before");
    let (id, going) = in_mid_turn(&lab, "SLEEP 5: a slow answer");
    let status = lab.status();
    lab.kill(pid(&status["keeper"]));
    lab.kill(pid(&status["pid"]));
    completed(&going.end().json(), "a slow answer");
    goes_on(&lab, &id);
    passed(row, &lab, "askd-killed");
}

/// The CLI dies in mid-turn; that is told, and the next one answers.
fn cli_killed(row: &Row) {
    let Some(lab) = stage(row, (row.setup)()) else { return };
    completed(&lab.ask_json("ECHO: a turn before"), "a turn before");
    let (id, going) = in_mid_turn(&lab, "SLEEP 60: never whole");
    lab.kill(lab.process(row.process));
    let answer = going.end().json();
    assert_eq!(outcome(&answer), "failed/agent-gone", "{answer}");
    goes_on(&lab, &id);
    passed(row, &lab, "cli-killed");
}

/// What a human types in mid-turn stays as it is, and is submitted by nobody.
fn typing(row: &Row) {
    let Some(lab) = stage(row, (row.setup)()) else { return };
    let (_, going) = in_mid_turn(&lab, "SLEEP 5: ours, and nothing else");
    lab.types("half a thought");
    let _shown = lab.until_shown("half a thought");
    completed(&going.end().json(), "ours, and nothing else");
    let id = lab.submit("ECHO: after the draft");
    if row.draft_holds {
        until("the request waits for the human", || {
            let request = &lab.explain(&id)["request"];
            assert_ne!(request["state"], "settled", "{request}");
            request["why"].as_str().unwrap_or_default().contains("composer").then_some(())
        });
        let _shown = lab.until_shown("half a thought");
        "half a thought".chars().for_each(|_| lab.presses("BSpace"));
    }
    completed(&lab.settled(&id), "after the draft");
    if !row.draft_holds {
        let _shown = lab.until_shown("half a thought");
    }
    assert_eq!(lab.model_saw("half a thought"), 0);
    passed(row, &lab, "typing");
}

/// Makes a test of each cell of a row. `make lab-full` runs them; `make test` has stories of its own.
macro_rules! row {
    ($name:ident, $row:ident: $($cell:ident)+) => {
        mod $name {
            $(
                #[test]
                #[ignore = "a cell of the whole table: make lab-full"]
                fn $cell() {
                    super::$cell(&super::$row);
                }
            )+
        }
    };
    ($name:ident, $row:ident) => {
        row!($name, $row: story interrupt errors permission large askd_killed cli_killed typing);
    };
}

row!(codex_joined, CODEX_JOINED);
row!(codex_hooked, CODEX_HOOKED);
row!(codex_watched, CODEX_WATCHED);
row!(codex_older, CODEX_OLDER);
row!(claude_hooked, CLAUDE_HOOKED);
row!(claude_watched, CLAUDE_WATCHED);
row!(claude_older, CLAUDE_OLDER);
row!(droid_joined, DROID_JOINED);
row!(droid_hooked, DROID_HOOKED);
row!(droid_watched, DROID_WATCHED);
row!(gemini_hooked, GEMINI_HOOKED);
row!(gemini_watched, GEMINI_WATCHED);
row!(opencode_joined, OPENCODE_JOINED);
row!(opencode_watched, OPENCODE_WATCHED);
