//! The crash matrix: every process, killed at every edge of a request's life, on every rung that a stub agent can be
//! driven on. In each cell the request ends in exactly one outcome, which is one of those that are true there; its
//! agent is given it at most once; its asker learns the outcome; and the next request is answered.
//!
//! A world is made for each edge, and its processes are killed in it one after the other, as what was killed is back
//! each time. The worlds of a test run side by side.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Mutex;

use rustix::process::Signal;
use serde_json::Value;

use crate::asks::evidence;
use crate::env::{Going, Setup, Stub, TestEnv, files_below, signal, until};
use crate::matrix::{Edge, Hold, PROCESSES, Process, Table};

/// How many worlds run at a time: they mostly wait.
const WORLDS: usize = 4;

/// The rungs, each with the agent that is driven on it: a stub's own program whose screen is read or not, and a stub of
/// Droid's, with its hooks or joined in its viewer.
const RUNGS: [&str; 4] = ["sighted", "blind", "hooked", JOINED];

/// The one that nothing is pasted into.
const JOINED: &str = "joined";

/// Droid as far as ccb sees it.
const DROID: &str = r#"#!/bin/sh
case "$1" in
--help) echo '--settings <path> --append-system-prompt <text>' ;;
--version) echo 0.215.0 ;;
exec)
  [ "$2" != --help ] || { echo '--input-format stream-jsonrpc'; exit; }
  exec 'STUB' --name joined --provider droid --events 'WORLD/joined.events' -- "$@" ;;
*) exec 'STUB' --name hooked --provider droid --events 'WORLD/hooked.events' --keys 'WORLD/hooked.keys' -- "$@" ;;
esac
"#;

/// The agent that answers where the rung's agent asks.
const HELPER: &str = "helper";

fn stub(rung: &'static str) -> Stub {
    if rung == "blind" { Stub::blind(rung) } else { Stub::new(rung) }
}

/// Returns the outcomes that are true in a cell; none if there is no such cell.
fn allowed(process: Process, edge: Edge, rung: &str) -> Option<&'static [&'static str]> {
    if rung == JOINED {
        return allowed_joined(process, edge);
    }
    let completed: &[&str] = &["completed"];
    let unknown: &[&str] = &["failed/unknown-delivery"];
    Some(match (process, edge) {
        // Whoever asked for what a notice answers does not wait for it.
        (Process::Client, edge) if edge.is_notice() => return None,
        (Process::Viewer, _) => return None,
        (Process::Client | Process::Keeper, _) => completed,
        // The successor of a worker that died with the hand-over on disk as begun cannot know how far it had come.
        (Process::Worker | Process::Both, edge) => match edge {
            Edge::Accepted
            | Edge::Load
            | Edge::Loaded
            | Edge::Pasted
            | Edge::Enter
            | Edge::NoticeMade
            | Edge::NoticeLoad
            | Edge::NoticePasted => unknown,
            Edge::Accepting
            | Edge::Entered
            | Edge::Working
            | Edge::Ended
            | Edge::Settled
            | Edge::Acknowledged
            | Edge::NoticeEntered => completed,
        },
        (Process::Runner | Process::Agent | Process::Tmux, edge) => match edge {
            // Before the first byte: offered again to the agent that is back.
            Edge::Accepting | Edge::Accepted | Edge::Load | Edge::Loaded | Edge::NoticeMade | Edge::NoticeLoad => {
                completed
            }
            Edge::Pasted | Edge::Enter | Edge::NoticePasted => unknown,
            // According to whether its record was read before its end was told.
            Edge::Entered => &["failed/agent-gone", "failed/unknown-delivery"],
            Edge::NoticeEntered => &["completed", "failed/agent-gone", "failed/unknown-delivery"],
            Edge::Working => &["failed/agent-gone"],
            Edge::Ended | Edge::Settled | Edge::Acknowledged => completed,
        },
    })
}

/// Returns the outcomes that are true in a cell of the joined rung: whoever comes back asks the viewer and Droid's own
/// records, so that nothing stays unknown but where the pane itself is gone.
fn allowed_joined(process: Process, edge: Edge) -> Option<&'static [&'static str]> {
    let completed: &[&str] = &["completed"];
    match (process, edge) {
        (_, Edge::Loaded | Edge::Pasted | Edge::Enter | Edge::NoticePasted) => None,
        (Process::Client, edge) if edge.is_notice() => None,
        (Process::Client | Process::Worker | Process::Keeper | Process::Both, _) => Some(completed),
        (Process::Runner | Process::Tmux, edge) => Some(match edge {
            // According to whether the viewer, which ends a moment later, was given it: what it knew is gone with it.
            Edge::Accepting | Edge::Accepted | Edge::Load | Edge::NoticeMade | Edge::NoticeLoad => {
                &["completed", "failed/unknown-delivery"]
            }
            Edge::Entered | Edge::NoticeEntered => &["completed", "failed/agent-gone", "failed/unknown-delivery"],
            Edge::Working => &["failed/agent-gone"],
            _ => completed,
        }),
        (Process::Viewer | Process::Agent, edge) => Some(match edge {
            // According to whether Droid has written it down before it died.
            Edge::Entered | Edge::NoticeEntered => &["completed", "failed/agent-gone"],
            Edge::Working => &["failed/agent-gone"],
            _ => completed,
        }),
    }
}

/// A world that is held at one edge, again and again.
struct Ground {
    env: TestEnv,
    edge: Edge,
    rungs: &'static [&'static str],
    hold: Hold,
    /// The deliveries that came in pieces, of which each may hold the id.
    pieces: RefCell<BTreeSet<String>>,
}

/// What is killed in a cell, found while everything is at peace.
struct Doomed {
    pids: Vec<u32>,
}

impl Ground {
    fn new(edge: Edge, joined: bool) -> Self {
        let rungs: &[&str] = if joined { &RUNGS[3..] } else { &RUNGS[..3] };
        let stubs = rungs.iter().filter(|rung| **rung == "sighted" || **rung == "blind");
        let mut agents: Vec<Stub> = stubs.map(|rung| stub(rung)).collect();
        if edge.is_notice() {
            agents.push(Stub::new(HELPER));
        }
        let programs = std::path::Path::new(env!("CARGO_BIN_EXE_ccb")).parent().expect("a directory").display();
        let setup = Setup::of(agents)
            .with("CCB_FAILPOINT", &Hold::point(edge, joined))
            .with("CCB_PROOF_GRACE_S", "1")
            .with("PATH", &format!("{{world}}/bin:{programs}:/usr/local/bin:/usr/bin:/bin"));
        let env = TestEnv::new(setup);
        let script = DROID.replace("STUB", &format!("{programs}/stub-agent"));
        env.install("droid", &script.replace("WORLD", &env.dir().display().to_string()));
        std::fs::create_dir_all(env.home().join(".factory/sessions")).expect("a directory");
        std::fs::write(env.home().join(".factory/auth.v2.file"), "secret").expect("a file");
        let rung = rungs[rungs.len() - 1];
        env.configure_also(&format!("[agents.{rung}]\nprovider = \"droid\"\nrung = \"{rung}\"\n"));
        let hold = Hold::new(env.dir());
        mount(&env, rungs);
        Self { env, edge, rungs, hold, pieces: RefCell::default() }
    }

    /// Finds the processes to be killed; the client is not there yet.
    fn doom(&self, process: Process, agent: &str) -> Doomed {
        let env = &self.env;
        let pids = match process {
            Process::Client => Vec::new(),
            Process::Worker => vec![env.askd().0],
            Process::Keeper => vec![env.askd().1],
            Process::Both => {
                let (worker, keeper) = env.askd();
                vec![keeper, worker]
            }
            Process::Runner => vec![env.process(&format!("/ccb run {agent}"))],
            Process::Viewer => vec![env.process(&format!("/ccb view {agent}"))],
            Process::Agent => vec![env.process(&program_of(agent))],
            Process::Tmux => {
                let pid = env.tmux(&["display-message", "-p", "#{pid}"]).ok();
                vec![pid.trim().parse().expect("a process id")]
            }
        };
        Doomed { pids }
    }

    /// Kills what is to be killed, while the world is held, and lets the world go on.
    fn kill(&self, doomed: &Doomed, client: &mut Option<Going>) {
        if doomed.pids.is_empty()
            && let Some(client) = client.take()
        {
            self.env.kill_child(client);
        }
        // All at once: nobody may start another one in between.
        doomed.pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
        doomed.pids.iter().for_each(|pid| self.env.kill(*pid));
        self.hold.release();
    }

    fn until_held(&self) {
        until("the edge is reached", || self.hold.is_reached().then_some(()));
    }

    /// A human clears what was left in a composer, all agents are there again, and this one answers.
    /// All that it was given came once, but for what came in pieces: so did this delivery, if there is more rubbish than
    /// before. Returns the outcome in the words of the table.
    fn peace(&self, agent: &str, id: &str, outcome: &str, rubbish: usize) -> String {
        let clears = outcome != "completed";
        for name in self.rungs {
            until(&format!("{name} is idle"), || {
                let state = self.env.agent(name)["state"].clone();
                if state == "waiting for you" && clears {
                    self.env.presses(agent, &["C-u"]);
                }
                (state == "idle").then_some(())
            });
        }
        if clears {
            // In a composer that is not read nobody but the human sees it.
            self.env.presses(agent, &["C-u"]);
        }
        assert_eq!(self.env.ask(agent, "ECHO: and on it goes").ok(), "and on it goes\n");
        let came = self.rubbish(agent) > rubbish;
        if came {
            self.pieces.borrow_mut().insert(id.to_owned());
        }
        let given = self.env.all_received(agent);
        let twice = given.iter().any(|(id, count)| *count != 1 && !self.pieces.borrow().contains(id));
        assert!(!twice, "{given:?}");
        if came { format!("{outcome}, in pieces") } else { outcome.to_owned() }
    }

    /// Returns how often an agent was given what is no request, or something while it was busy.
    fn rubbish(&self, agent: &str) -> usize {
        self.env.events_of(agent, "junk").len() + self.env.events_of(agent, "queued_while_busy").len()
    }

    /// One cell of a request's life.
    fn request(&self, process: Process, rung: &'static str, rubbish: usize) -> String {
        let (env, edge) = (&self.env, self.edge);
        let (word, gate) = self.task(process, rung);
        let message = format!("RUN: until [ -e '{}' ]; do sleep 0.02; done; echo {word}", gate.display());
        let doomed = self.doom(process, rung);
        let agent = env.process(&program_of(rung));
        let begins_held = !edge.is_late();
        if begins_held {
            self.hold.arm();
        }
        let going = env.begin("ask", &[rung, "-t", "60", "--json"], &message);
        let pid = going.pid();
        let mut client = Some(going);
        if begins_held {
            self.until_held();
        } else {
            let id = self.id_of(rung, pid);
            env.until_request(&id, "working");
            self.hold_at_the_end(&id, pid, &gate);
        }
        self.kill(&doomed, &mut client);
        if process.takes_agent() {
            // What has it in its hands must not answer before it is gone with its pane.
            env.until_gone(agent);
        }
        if !(edge == Edge::Working && process.takes_agent()) {
            open(&gate);
        }
        let told = client.map(|client| client.end().json());
        let id = told.as_ref().and_then(|told| told["id"].as_str().map(str::to_owned));
        let id = id.unwrap_or_else(|| self.id_of(rung, pid));
        let stored = env.settled(&id);
        let outcome = word_of(&stored);
        let shown = self.peace(rung, &id, &outcome, rubbish);
        self.one_outcome(&id, &outcome, &word);
        if let Some(told) = told {
            assert_eq!(word_of(&told), outcome, "the asker was told something else: {told:#}");
        }
        shown
    }

    /// Holds the world at an edge that comes after the agent has begun to work.
    fn hold_at_the_end(&self, id: &str, client: u32, gate: &std::path::Path) {
        match self.edge {
            Edge::Working => return,
            Edge::Acknowledged => {
                signal(client, Signal::STOP);
                open(gate);
                self.env.settled(id);
                self.hold.arm();
                signal(client, Signal::CONT);
            }
            _ => {
                self.hold.arm();
                open(gate);
            }
        }
        self.until_held();
    }

    /// One cell of a notice's life: the rung's agent has asked, and the reply comes to it as a notice.
    fn notice(&self, process: Process, rung: &'static str, rubbish: usize) -> String {
        let env = &self.env;
        let (word, gate) = self.task(process, rung);
        let message = format!("RUN: until [ -e '{}' ]; do sleep 0.02; done; echo {word}", gate.display());
        let doomed = self.doom(process, rung);
        let args = [HELPER, "--async", "--json"];
        let said = env.begin_with("ask", &args, &message, |command| command.env("CCB_CALLER", rung)).end();
        let id = said.json()["id"].as_str().expect("an id").to_owned();
        env.until_request(&id, "working");
        self.hold.arm();
        open(&gate);
        self.until_held();
        self.kill(&doomed, &mut None);
        let stored = env.settled(&id);
        let notice = format!("{id}-r1");
        let outcome = word_of(&env.settled(&notice));
        let shown = self.peace(rung, &notice, &outcome, rubbish);
        env.until_state(HELPER, "idle");
        assert_eq!(word_of(&stored), "completed");
        self.one_outcome(&id, "completed", &word);
        env.ccb(&["explain", &format!("{id}-r2")]).says(1, &["no request"]);
        let questions = env.questions(rung).into_iter().chain(self.droid_questions());
        let given = questions.filter(|text| text.contains(&format!("Task: {id}\n"))).count();
        assert!(given <= 1, "{given} notices of {id}");
        assert!(given == 1 || outcome != "completed", "{id}: no notice came");
        shown
    }

    /// Returns what Droid has written down as its users' messages.
    fn droid_questions(&self) -> Vec<String> {
        let files = files_below(&self.env.home().join(".factory/sessions"));
        let texts: Vec<String> = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        let records =
            texts.iter().flat_map(|text| text.lines()).filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let users = records.filter(|record| record["message"]["role"] == "user");
        users.filter_map(|record| record["message"]["content"][0]["text"].as_str().map(str::to_owned)).collect()
    }

    /// Returns the word that answers a cell's request, and the file that the agent waits for.
    fn task(&self, process: Process, rung: &str) -> (String, std::path::PathBuf) {
        let word = format!("word-{:?}-{process:?}-{rung}", self.edge);
        let gate = self.env.dir().join(format!("go-{word}"));
        (word, gate)
    }

    /// Waits for the request that a client has made: its id names the client.
    fn id_of(&self, agent: &str, client: u32) -> String {
        let of = format!("-{client}-");
        until("the agent is given the request", || {
            let given = self.env.events_of(agent, "recv");
            given.iter().filter_map(|event| event["req"].as_str()).find(|id| id.contains(&of)).map(str::to_owned)
        })
    }

    /// Asserts that a request has this one outcome and keeps it, and that its asker can learn it.
    fn one_outcome(&self, id: &str, outcome: &str, word: &str) {
        let now = self.env.explain(id);
        assert_eq!(word_of(&now["request"]), outcome, "{now:#}");
        let ends = evidence(&now).iter().filter(|fact| fact.starts_with("settled:")).count();
        assert_eq!(ends, 1, "{now:#}");
        let learnt = self.env.ccb(&["pend", id]);
        if outcome == "completed" {
            assert_eq!(learnt.ok(), format!("{word}\n"));
        } else {
            assert!(learnt.code.is_some_and(|code| code == 1 || code == 2), "{learnt:?}");
            assert!(!learnt.err.is_empty(), "{learnt:?}");
        }
    }

    fn cell(&self, process: Process, rung: &'static str) -> String {
        let rubbish = self.rubbish(rung);
        if self.edge.is_notice() { self.notice(process, rung, rubbish) } else { self.request(process, rung, rubbish) }
    }
}

/// Starts the agents and waits until they are idle.
fn mount(env: &TestEnv, rungs: &[&str]) {
    env.mount();
    for rung in rungs {
        let _why = env.until_state(rung, "idle");
    }
}

/// What is in the command line of an agent's program alone.
fn program_of(agent: &str) -> String {
    format!("stub-agent --name {agent}")
}

/// Lets an agent answer.
fn open(gate: &std::path::Path) {
    std::fs::write(gate, "").expect("a file");
}

/// Returns how a request ended, with its class.
fn word_of(request: &Value) -> String {
    let outcome = &request["settlement"]["outcome"];
    let word = outcome["word"].as_str().unwrap_or_else(|| panic!("not settled: {request:#}"));
    outcome["reason"].as_str().map_or_else(|| word.to_owned(), |reason| format!("{word}/{reason}"))
}

/// Kills everything at these edges, prints the table and asserts each cell.
#[expect(clippy::print_stdout, reason = "a table is for reading")]
fn matrix(edges: &[Edge]) {
    let table = Mutex::new(Table::default());
    let wrong = Mutex::new(Vec::new());
    let left = Mutex::new(edges.iter().flat_map(|edge| [(*edge, false), (*edge, true)]).collect::<Vec<_>>());
    let next = || left.lock().expect("a list").pop();
    std::thread::scope(|scope| {
        for _ in 0..WORLDS {
            scope.spawn(|| {
                while let Some((edge, joined)) = next() {
                    let ground = Ground::new(edge, joined);
                    let cells =
                        PROCESSES.into_iter().flat_map(|process| ground.rungs.iter().map(move |rung| (process, *rung)));
                    for (process, rung) in cells {
                        let Some(allowed) = allowed(process, edge, rung) else {
                            table.lock().expect("a table").put(process, edge, rung, "–".into());
                            continue;
                        };
                        let outcome = ground.cell(process, rung);
                        println!("{process:?} killed at {edge:?} on {rung}: {outcome}");
                        if !allowed.contains(&outcome.as_str()) {
                            let what = format!("{process:?} killed at {edge:?} on {rung}: {outcome}, not {allowed:?}");
                            wrong.lock().expect("a list").push(what);
                        }
                        table.lock().expect("a table").put(process, edge, rung, outcome);
                    }
                }
            });
        }
    });
    let (table, wrong) = (table.into_inner().expect("a table"), wrong.into_inner().expect("a list"));
    println!("{}", table.text(&RUNGS));
    assert!(table.missing(edges, &RUNGS).is_empty(), "not run: {:?}", table.missing(edges, &RUNGS));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_crash_matrix_from_acceptance_to_the_paste() {
    matrix(&[Edge::Accepting, Edge::Accepted, Edge::Load, Edge::Loaded]);
}

#[test]
fn the_crash_matrix_from_the_paste_to_work() {
    matrix(&[Edge::Pasted, Edge::Enter, Edge::Entered, Edge::Working]);
}

#[test]
fn the_crash_matrix_from_the_end_to_the_receipt() {
    matrix(&[Edge::Ended, Edge::Settled, Edge::Acknowledged]);
}

#[test]
fn the_crash_matrix_of_notices() {
    matrix(&[Edge::NoticeMade, Edge::NoticeLoad, Edge::NoticePasted, Edge::NoticeEntered]);
}
