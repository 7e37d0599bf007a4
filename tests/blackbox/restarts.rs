//! `ccb restart`: an agent's program is ended and started again in its pane, whatever has become of it, and nothing
//! that it was asked is asked twice.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;

use crate::asks::outcome;
use crate::deaths::goes_on;
use crate::env::{Setup, Stub, TestEnv, signal, until};

/// Waits until the agent's program has been started so many times and is idle.
#[track_caller]
fn started(env: &TestEnv, agent: &str, times: usize) {
    until("it is started again", || (env.events_of(agent, "start").len() == times).then_some(()));
    env.until_state(agent, "idle");
}

#[test]
fn an_agent_is_started_again_in_its_own_pane() {
    let env = TestEnv::start(Setup::default());
    assert_eq!(env.ask("stub", "ECHO: before").ok(), "before\n");
    let (pane, runner, program) = (env.pane("stub"), env.process("/ccb run stub"), env.process("stub-agent --name"));
    assert_eq!(env.ccb(&["restart", "stub"]).ok(), "stub has been started again\n");
    started(&env, "stub", 2);
    assert_eq!((env.pane("stub"), env.process("/ccb run stub")), (pane, runner));
    assert_ne!(env.process("stub-agent --name"), program);
    assert!(env.agent("stub")["last_error"].is_null(), "{}", env.agent("stub"));
    goes_on(&env, "stub");
    let said = env.ccb(&["restart", "stub", "--json"]);
    assert_eq!((&said.json()["ran"], &said.json()["cut_off"]), (&true.into(), &serde_json::Value::Null), "{said:?}");
    started(&env, "stub", 3);
    goes_on(&env, "stub");
    env.ccb(&["restart", "stab"]).says(1, &["error: no agent `stab`", "did you mean `stub`?"]);
}

#[test]
fn an_agent_at_work_is_restarted_by_force_alone_and_is_not_asked_again() {
    let env = TestEnv::start(Setup::default());
    let (first, going) = env.ask_meanwhile("stub", "SLEEP 60: never");
    env.until_request(&first, "working");
    let second = env.submit("stub", &[], "ECHO: what waits goes on");
    let refused = env.ccb(&["restart", "stub"]);
    refused.says(1, &[&format!("error: `stub` works on request {first}"), "ccb restart --force stub"]);
    assert_eq!(env.events_of("stub", "start").len(), 1);
    let said = env.ccb(&["restart", "-f", "stub"]).ok();
    assert!(said.contains("has been started again") && said.contains(&format!("ccb explain {first}")), "{said}");
    assert_eq!(outcome(&going.end().json(), "failed"), "agent-gone");
    assert_eq!(env.settled(&second)["settlement"]["reply"], "what waits goes on");
    assert_eq!((env.received("stub", &first), env.received("stub", &second)), (1, 1));
    goes_on(&env, "stub");
}

#[test]
fn a_draft_is_not_thrown_away_by_a_restart_without_force() {
    let env = TestEnv::new(Setup::of(vec![Stub::new("stub")]));
    let _started = env.ccb(&["--detach"]).ok();
    env.until_state("stub", "idle");
    // Nothing waits for the agent, so nobody has looked at its screen since.
    env.presses("stub", &["half a thought"]);
    until("the draft is shown", || env.screen("stub").contains("half a thought").then_some(()));
    env.ccb(&["restart", "stub"]).says(1, &["error: `stub` waits for you: there is text in its composer"]);
    assert!(env.screen("stub").contains("half a thought"));
    let _restarted = env.ccb(&["restart", "stub", "-f"]).ok();
    until("it is started again", || (env.events_of("stub", "start").len() == 2).then_some(()));
}

#[test]
fn what_was_typed_to_a_dead_program_does_not_reach_its_successor() {
    let env = TestEnv::start(Setup::default());
    let (runner, program) = (env.process("/ccb run stub"), env.process("stub-agent --name stub"));
    // It dies with this unread. (Its runner cannot be held: tmux has the first process of a pane go on.)
    signal(program, Signal::STOP);
    // Line by line it would take it for prompts.
    env.presses("stub", &["-l", "ECHO: a prompt"]);
    env.presses("stub", &["Enter"]);
    let terminal = std::fs::File::open(format!("/proc/{runner}/fd/0")).unwrap();
    until("its terminal holds it", || (rustix::io::ioctl_fionread(&terminal).unwrap() == 15).then_some(()));
    drop(terminal);
    signal(program, Signal::KILL);
    until("it is started again", || (env.events_of("stub", "start").len() == 2).then_some(()));
    goes_on(&env, "stub");
    assert_eq!(env.events_of("stub", "junk").len(), 0);
}

/// Has a program end again and again, and be started once its cause is seen to: by `ccb`, or by hand in its pane.
fn left_alone_until_started(by_hand: bool) {
    let env = TestEnv::new(Setup::default());
    let config = env.project().join(".ccb/ccb.config");
    let text = std::fs::read_to_string(&config).unwrap();
    let stub = text.lines().find_map(|line| line.strip_prefix("command = ")).unwrap().to_owned();
    let script = env.dir().join("agent");
    let write = |body: &str| {
        std::fs::write(&script, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("exit 3");
    env.configure(&text.replace(&stub, &format!("{:?}", script.display().to_string())));
    let _trusted = env.ccb(&["trust", "--yes"]).ok();
    let _started = env.ccb(&["--detach"]).ok();
    let id = env.submit("stub", &[], "ECHO: at last");
    until("it is left alone", || env.screen("stub").contains("press Enter to start it once more").then_some(()));
    let agent = env.agent("stub");
    assert_eq!(agent["state"], "not running", "{agent:#}");
    for cause in [&agent["why"], &agent["last_error"]] {
        assert!(cause.as_str().unwrap_or_default().contains("exited with status 3"), "{agent:#}");
    }
    let shown = env.ccb(&["ps"]).ok();
    assert!(shown.contains("stub: last error: its TUI ended: exited with status 3"), "{shown}");
    assert_eq!(env.explain(&id)["request"]["state"], "queued");
    // Its cause is seen to.
    write(&format!("exec {stub} \"$@\""));
    if by_hand {
        env.presses("stub", &["Enter"]);
    } else {
        let started = env.ccb(&["--detach"]).ok();
        assert!(started.contains("started: stub"), "{started}");
    }
    assert_eq!(env.settled(&id)["settlement"]["reply"], "at last");
    // Somebody wants it again.
    env.kill(env.process("/ccb run stub"));
    goes_on(&env, "stub");
}

#[test]
fn a_program_that_cannot_live_is_left_alone_with_its_cause_until_it_is_started() {
    left_alone_until_started(false);
}

#[test]
fn a_program_that_cannot_live_is_left_alone_with_its_cause_until_somebody_enters() {
    left_alone_until_started(true);
}

#[test]
fn a_pane_that_dies_again_and_again_is_left_closed_with_its_cause_until_a_restart() {
    let env = TestEnv::start(Setup::default());
    let why = until("it is left closed", || {
        let agent = env.agent("stub");
        if agent["state"] == "not running" && agent["why"].as_str()?.contains("died 5 times") {
            return agent["why"].as_str().map(str::to_owned);
        }
        let runner = env.processes().into_iter().find(|(_, line)| {
            line.contains("/ccb run stub") && !line.contains(" guard ") && !line.starts_with("tmux ")
        });
        if let Some((runner, _)) = runner {
            crate::env::signal(runner, rustix::process::Signal::KILL);
        }
        None
    });
    assert!(why.contains("its pane died 5 times within 10 s") && why.contains("start it with `ccb`"), "{why}");
    assert_eq!(env.ccb(&["restart", "stub"]).ok(), "stub was not running, and has been started\n");
    env.until_state("stub", "idle");
    goes_on(&env, "stub");
}

/// Waits until it is known that the pane was closed: its program may be seen to end first.
fn until_closed(env: &TestEnv) {
    until("its pane is known to be closed", || {
        let agent = env.agent("stub");
        let closed = agent["why"].as_str()?.contains("its pane was closed");
        (closed && agent["state"] == "not running").then_some(())
    });
}

#[test]
fn an_agent_that_was_closed_is_started() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("stub"), Stub::new("other")]));
    let _closed = env.tmux(&["kill-pane", "-t", &env.pane("stub")]).ok();
    until_closed(&env);
    assert_eq!(env.ccb(&["restart", "stub"]).ok(), "stub was not running, and has been started\n");
    env.until_state("stub", "idle");
    goes_on(&env, "stub");
    goes_on(&env, "other");
    assert_eq!(env.events_of("other", "start").len(), 1);
}

#[test]
fn a_second_pane_that_was_refused_takes_nothing_with_it() {
    let env = TestEnv::start(Setup::default());
    let (ccb, project) = (env!("CARGO_BIN_EXE_ccb"), env.project().display().to_string());
    let second = ["split-window", "-d", "-P", "-F", "#{pane_id}", ccb, "run", "stub", "--project", &project];
    let second = env.tmux(&second).ok();
    until("it is refused", || {
        let screen = env.tmux(&["capture-pane", "-p", "-t", second.trim()]).ok();
        screen.contains("already runs in another pane").then_some(())
    });
    let _closed = env.tmux(&["kill-pane", "-t", second.trim()]).ok();
    until("it has ended", || {
        let run =
            |line: &str| line.contains("/ccb run stub") && !line.starts_with("tmux ") && !line.contains(" guard ");
        (env.processes().iter().filter(|(_, line)| run(line)).count() == 1).then_some(())
    });
    goes_on(&env, "stub");
    let tmux = env.tmux(&["display-message", "-p", "#{pid}"]).ok();
    env.kill(tmux.trim().parse().unwrap());
    goes_on(&env, "stub");
}

#[test]
fn agents_whose_last_pane_was_closed_do_not_come_back_by_themselves() {
    let env = TestEnv::start(Setup::default());
    for order in ["kill-pane", "kill-session", "kill-server"] {
        for by_an_earlier_worker in [false, true] {
            if by_an_earlier_worker {
                env.kill(env.askd().0);
                goes_on(&env, "stub");
            }
            let _closed = env.tmux(&[order]).ok();
            until_closed(&env);
            let started = env.ccb(&["--detach"]).ok();
            assert!(started.contains("started: stub"), "{order}: {started}");
            goes_on(&env, "stub");
        }
    }
    assert_eq!(env.events_of("stub", "start").len(), 7);
}

#[test]
fn a_pane_that_cannot_be_seen_for_once_is_looked_at_again() {
    let programs = Path::new(env!("CARGO_BIN_EXE_ccb")).parent().unwrap().display();
    let path = format!("{{world}}/bin:{programs}:/usr/local/bin:/usr/bin:/bin");
    let env = TestEnv::new(Setup::default().with("PATH", &path));
    // It refuses to say once, when it is to, whose pane it is.
    let tmux = "#!/bin/sh\ncase \"$*\" in\n*capture-pane*) ;;\n\
        *'display-message -p -t'*pane_pid*) if rm WORLD/deaf; then exit 1; fi;;\nesac 2>/dev/null\n\
        PATH=/usr/local/bin:/usr/bin:/bin exec tmux \"$@\"\n";
    env.install("tmux", &tmux.replace("WORLD", &env.dir().display().to_string()));
    let _started = env.ccb(&["--detach"]).ok();
    env.until_state("stub", "idle");
    std::fs::write(env.dir().join("deaf"), "").unwrap();
    env.kill(env.askd().0);
    until("the next askd has looked in vain", || (!env.dir().join("deaf").exists()).then_some(()));
    env.until_state("stub", "idle");
    assert_eq!(env.ask("stub", "ECHO: still here").ok(), "still here\n");
}
