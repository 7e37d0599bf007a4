//! A CLI that is updated under us: what runs goes on as it was started, and who restarts it has the new one probed.

use std::path::{Path, PathBuf};

use crate::codex_rungs::start_older;
use crate::env::claude::outcome;
use crate::env::{Lab, Setup, kill, lab, older, until, write_program};

/// A directory first on the PATH with a program that leads to one of two versions.
struct Led {
    dir: tempfile::TempDir,
    old: PathBuf,
    new: PathBuf,
}

impl Led {
    /// By a link that bears the agent's name.
    fn by_link(agent: &str, package: &str, new: &str) -> Option<Self> {
        let lab = PathBuf::from(std::env::var_os("CCB_LAB")?);
        let led = Self { dir: tempfile::tempdir().unwrap(), old: older(package)?, new: lab.join(new).join(agent) };
        led.leads(agent, &led.old);
        Some(led)
    }

    /// By a script that stays as it is when what it leads to is replaced.
    fn by_script(agent: &str, package: &str, new: &str) -> Option<Self> {
        let lab = PathBuf::from(std::env::var_os("CCB_LAB")?);
        let led = Self { dir: tempfile::tempdir().unwrap(), old: older(package)?, new: lab.join(new).join(agent) };
        let text = format!("#!/bin/sh\nexec '{}/current' \"$@\"\n", led.dir.path().display());
        write_program(&led.dir.path().join(agent), &text);
        led.leads("current", &led.old);
        Some(led)
    }

    /// Puts a link in the place of another at once, as installers do.
    fn leads(&self, name: &str, to: &Path) {
        let beside = self.dir.path().join("next");
        std::os::unix::fs::symlink(to, &beside).unwrap();
        std::fs::rename(beside, self.dir.path().join(name)).unwrap();
    }

    fn setup(&self, setup: Setup) -> Setup {
        Setup { first_on_path: Some(self.dir.path().to_owned()), ..setup }
    }
}

const CODEX: &str = "node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin";
const CLAUDE: &str = "node_modules/@anthropic-ai/claude-code-linux-x64";

fn rung(lab: &Lab) -> (String, String) {
    let agent = lab.agent();
    (agent["rung"].as_str().unwrap().to_owned(), agent["rung_why"].as_str().unwrap().to_owned())
}

#[track_caller]
fn says(answer: &serde_json::Value, text: &str) {
    assert_eq!(outcome(answer), "completed", "{answer}");
    assert_eq!(answer["settlement"]["reply"].as_str().map(str::trim), Some(text), "{answer}");
}

/// Replaces the program while a turn is in progress; with or without askd's death at that.
#[track_caller]
fn updated_at_work(lab: &Lab, update: impl FnOnce(), askd_dies: bool) {
    let before = rung(lab);
    let (id, going) = lab.ask_meanwhile("SLEEP 5: asked of what ran before");
    until("the model is asked", || (lab.model_saw(&id) == 1).then_some(()));
    update();
    if askd_dies {
        kill(u32::try_from(lab.status()["pid"].as_u64().unwrap()).unwrap());
    } else {
        assert_eq!(rung(lab), before);
    }
    says(&going.end().json(), "asked of what ran before");
    let after = rung(lab);
    assert_eq!(after.0, before.0, "{after:?}");
    if !askd_dies {
        assert_eq!(after, before);
    }
    says(&lab.ask_json("ECHO: and once more"), "and once more");
    assert_eq!((lab.model_saw(&id), rung(lab)), (1, after));
}

#[track_caller]
fn restarts(lab: &Lab) {
    let _restarted = lab.ccb(&["restart", lab.agent()["name"].as_str().unwrap()]).ok();
    lab.until_idle();
}

#[track_caller]
fn codex_is_updated(askd_dies: bool) {
    let Some(led) = Led::by_script("codex", "codex-older", CODEX) else { return };
    let Some(lab) = lab(led.setup(Setup::default())) else { return };
    start_older(&lab);
    let (before, why) = rung(&lab);
    assert!(before == "watched" && why.contains("its app-server cannot listen"), "{before}: {why}");
    updated_at_work(&lab, || led.leads("current", &led.new), askd_dies);
    restarts(&lab);
    assert_eq!(rung(&lab), ("joined".to_owned(), "the best one for Codex 0.169.0".to_owned()));
    says(&lab.ask_json("ECHO: of the new one"), "of the new one");
    let _shown = lab.until_shown("of the new one");
}

#[test]
fn a_codex_that_is_updated_at_work_goes_on_and_is_joined_when_it_is_restarted() {
    codex_is_updated(false);
}

#[test]
fn a_codex_that_is_updated_at_work_goes_on_though_askd_dies_then() {
    codex_is_updated(true);
}

#[track_caller]
fn codex_is_set_back(askd_dies: bool) {
    let Some(led) = Led::by_link("codex", "codex-older", CODEX) else { return };
    led.leads("codex", &led.new);
    let Some(lab) = lab(led.setup(Setup::default())) else { return };
    lab.start();
    assert_eq!(rung(&lab).0, "joined");
    updated_at_work(&lab, || led.leads("codex", &led.old), askd_dies);
    let _restarted = lab.ccb(&["restart", "codex"]).ok();
    until("it is driven by what the older one can", || (rung(&lab).0 == "watched").then_some(()));
    let why = rung(&lab).1;
    assert!(why.contains("not joined: its app-server cannot listen"), "{why}");
}

#[test]
fn a_codex_that_is_set_back_at_work_goes_on_and_is_watched_when_it_is_restarted() {
    codex_is_set_back(false);
}

#[test]
fn a_codex_that_is_set_back_at_work_goes_on_though_askd_dies_then() {
    codex_is_set_back(true);
}

#[track_caller]
fn claude_is_updated(askd_dies: bool) {
    let Some(led) = Led::by_link("claude", "claude-older", CLAUDE) else { return };
    let Some(lab) = lab(led.setup(Setup::claude())) else { return };
    lab.start();
    let before = rung(&lab);
    assert!(before.0 == "hooked" && before.1.ends_with(" 2.1.288"), "{before:?}");
    updated_at_work(&lab, || led.leads("claude", &led.new), askd_dies);
    restarts(&lab);
    let after = rung(&lab);
    assert!(after.0 == "hooked" && after.1.ends_with(" 2.1.330"), "{after:?}");
    says(&lab.ask_json("ECHO: of the new one"), "of the new one");
}

#[test]
fn a_claude_that_is_updated_at_work_goes_on_and_is_the_new_one_when_it_is_restarted() {
    claude_is_updated(false);
}

#[test]
fn a_claude_that_is_updated_at_work_goes_on_though_askd_dies_then() {
    claude_is_updated(true);
}
