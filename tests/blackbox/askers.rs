//! Who asks: found from where the caller runs; its environment is a hint, and in no other project than its own.

use std::process::Stdio;

use crate::env::{Run, Setup, Stub, TestEnv, until};

#[test]
fn an_agent_is_known_by_its_pane_whatever_its_environment_says() {
    let env = TestEnv::start(Setup::of(vec![Stub::new("alice"), Stub::new("bob")]));
    let path = env.command("true").get_envs().find(|(name, _)| *name == "PATH").unwrap().1.unwrap().to_owned();
    let (path, home) = (path.to_str().unwrap(), env.home());
    // Without any of its environment it still does not wait, and a name that is not its own changes nothing.
    for foreign in ["", "CCB_CALLER=bob"] {
        let ask = format!("env -i PATH='{path}' HOME='{}' {foreign} ask bob 'ECHO: from bob'", home.display());
        let said = env.ask("alice", &format!("RUN: {ask}")).ok();
        assert!(said.starts_with("[CCB_ASYNC_SUBMITTED provider=bob]\n"), "{said}");
        until("its notice has come", || env.requests().is_empty().then_some(()));
    }
    let notices =
        |agent: &str| env.questions(agent).iter().filter(|text| text.contains("[CCB_TASK_COMPLETED]")).count();
    assert_eq!((notices("alice"), notices("bob")), (2, 0));
}

#[test]
fn with_another_projects_whole_environment_it_is_this_projects_agents_that_are_asked() {
    let here = TestEnv::start(Setup::of(vec![Stub::new("first")]));
    let elsewhere = here.dir().join("elsewhere");
    std::fs::create_dir_all(elsewhere.join(".ccb")).unwrap();
    // An agent of the same name is there too, and its own transcript.
    let config = std::fs::read_to_string(here.project().join(".ccb/ccb.config")).unwrap();
    std::fs::write(elsewhere.join(".ccb/ccb.config"), config.replace("first.", "other.")).unwrap();
    let with_environment = |program: &str, args: &[&str]| -> Run {
        let environment = [("CCB_RUN_DIR", here.state().display().to_string()), ("CCB_CALLER", "first".into())];
        let started = here.begin_with(program, args, "", |command| {
            command.current_dir(&elsewhere).envs(environment).stdin(Stdio::null())
        });
        started.end()
    };
    let _trusted = with_environment("ccb", &["trust", "--yes"]).ok();
    let _started = with_environment("ccb", &["--detach"]).ok();
    // It is nobody there, so it waits for the answer: no notice would reach it.
    assert_eq!(with_environment("ask", &["first", "ECHO: there"]).ok(), "there\n");
    // Also when its own daemon is dead; none is started for it.
    let (worker, keeper) = here.askd();
    here.kill(keeper);
    here.kill(worker);
    assert_eq!(with_environment("ask", &["first", "ECHO: there again"]).ok(), "there again\n");
    assert!(here.all_received("first").is_empty());
    let _ended = with_environment("ccb", &["kill"]).ok();
}
