//! What is particular about a world with Claude Code: its first-run answers, and what it writes of itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::Digest as _;

use super::{Lab, anchor, files_below, json_lines, until};

/// Where the native program is: what stands before it needs Node, and an install script.
pub(super) const PROGRAM: &str = "node_modules/@anthropic-ai/claude-code-linux-x64";

/// How texts in the user's role begin that are no prompt: what slash commands leave behind, and an interrupt.
const NO_PROMPT: [&str; 4] = ["<command-", "<local-command-", "<bash-", "[Request interrupted"];

impl Lab {
    /// Returns the directory of Claude's own files.
    pub(crate) fn claude_home(&self) -> PathBuf {
        self.home().join(".claude")
    }

    /// Answers what Claude asks in its first run.
    pub(super) fn furnish_claude(&self) {
        std::fs::create_dir_all(self.claude_home()).expect("a home");
        let project = self.project().display().to_string();
        let trust = if self.setup.trusted { json!({ project: { "hasTrustDialogAccepted": true } }) } else { json!({}) };
        let state = json!({
            "hasCompletedOnboarding": true,
            "hasSeenAutoDefaultNotice": true,
            "hasSeenAutoDefaultNudge": true,
            "officialMarketplaceAutoInstallAttempted": true,
            "projects": trust,
        });
        std::fs::write(self.home().join(".claude.json"), state.to_string()).expect("Claude's state");
        if self.setup.agent == "claude" && !self.setup.settings.is_empty() {
            let settings = self.placed(self.setup.settings);
            std::fs::write(self.claude_home().join("settings.json"), settings).expect("Claude's settings");
        }
    }

    /// Returns the variables that lead Claude to the fake model, and to nobody else.
    pub(super) fn claude_environment(&self) -> Vec<(&'static str, String)> {
        let fixed = [
            ("ANTHROPIC_AUTH_TOKEN", "sk-fake-0"),
            ("CLAUDE_CODE_MAX_RETRIES", "1"),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            // Without it root may not have everything allowed.
            ("IS_SANDBOX", "1"),
        ];
        let fixed = fixed.into_iter().map(|(name, value)| (name, value.to_owned()));
        fixed.chain([("ANTHROPIC_BASE_URL", self.model_address())]).collect()
    }

    /// Returns the lines of all transcripts of main conversations.
    pub(crate) fn transcript(&self) -> Vec<Value> {
        let files = files_below(&self.claude_home().join("projects"));
        let files = files.into_iter().filter(|file| {
            let inner = file.components().any(|part| part.as_os_str() == "subagents");
            !inner && file.extension().is_some_and(|end| end == "jsonl")
        });
        json_lines(files)
    }

    /// Returns what Claude has taken as prompts, in turns of their own or into a turn that ran, by its transcripts.
    pub(super) fn prompts(&self) -> Vec<(Option<String>, String)> {
        let texts = self.transcript().into_iter().filter_map(|line| {
            let content = match line["type"].as_str()? {
                "user" if line["isMeta"] != true && line["isCompactSummary"] != true => &line["message"]["content"],
                "attachment" if line["attachment"]["type"] == "queued_command" => &line["attachment"]["prompt"],
                _ => return None,
            };
            let text = match content {
                Value::String(text) => text.clone(),
                parts => parts.as_array()?.iter().filter_map(|part| part["text"].as_str()).collect(),
            };
            let real = !text.is_empty() && !NO_PROMPT.iter().any(|begin| text.starts_with(begin));
            real.then_some(text)
        });
        texts.map(|text| (anchor(&text), text)).collect()
    }

    /// Waits until Claude has taken exactly this as a prompt.
    #[track_caller]
    pub(crate) fn until_taken(&self, text: &str) {
        until(&format!("Claude has taken `{text}`"), || {
            self.prompts().iter().any(|(_, prompt)| prompt.trim() == text).then_some(())
        });
    }

    /// Returns what is in Claude's composer: what stands between the last two rules on its screen.
    pub(crate) fn composer(&self) -> String {
        let screen = self.screen();
        let lines: Vec<&str> = screen.lines().collect();
        let rules: Vec<usize> =
            lines.iter().enumerate().filter(|(_, line)| line.starts_with("────")).map(|(at, _)| at).collect();
        match rules[..] {
            [.., above, below] => lines[above + 1..below].join("\n").trim_start_matches('❯').trim().to_owned(),
            _ => String::new(),
        }
    }

    /// Waits until the composer holds this and nothing else.
    #[track_caller]
    pub(crate) fn until_composed(&self, text: &str) {
        until(&format!("the composer holds `{text}`"), || (self.composer() == text).then_some(()));
    }

    /// Types a line into Claude's composer and enters it, as a human does: not faster than it is shown.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        self.types(text);
        until(&format!("the composer shows `{text}`"), || self.composer().contains(text).then_some(()));
        self.presses("Enter");
    }

    /// Takes what a dialog offers first, as a human does: again if nothing has come of it after a second, as Claude
    /// overlooks keys of the first moment.
    #[track_caller]
    pub(crate) fn confirms(&self, dialog: &str) {
        let mut pressed: Option<Instant> = None;
        until(&format!("the dialog `{dialog}` is gone"), || {
            let open = self.screen().contains(dialog);
            if open && pressed.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                self.presses("Enter");
                pressed = Some(Instant::now());
            }
            (!open && pressed.is_some()).then_some(())
        });
    }

    /// Presses Escape until Claude says that it was interrupted.
    #[track_caller]
    pub(crate) fn escapes(&self) {
        let mut pressed: Option<Instant> = None;
        until("Claude is interrupted", || {
            let over = self.screen().contains("Interrupted");
            if !over && pressed.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                self.presses("Escape");
                pressed = Some(Instant::now());
            }
            over.then_some(())
        });
    }

    /// Waits until a request that is queued says that it waits for something with this word in it.
    #[track_caller]
    pub(crate) fn until_waits_for(&self, id: &str, word: &str) {
        until(&format!("request {id} waits for {word}"), || {
            let explanation = self.explain(id);
            let request = &explanation["request"];
            assert_ne!(request["state"], "settled", "{explanation}");
            let why = request["why"].as_str().unwrap_or_default();
            (request["state"] == "queued" && why.contains(word)).then_some(())
        });
    }

    /// Clears the composer line by line, as a human does.
    #[track_caller]
    pub(crate) fn clears(&self) {
        until("the composer is empty", || {
            let shown = self.composer();
            if !shown.is_empty() {
                self.presses("C-u");
            }
            shown.is_empty().then_some(())
        });
    }

    /// Pastes a text into the pane, as a human's terminal does.
    pub(crate) fn pastes(&self, text: &str) {
        let file = self.dir().join("pasted");
        std::fs::write(&file, text).expect("a file takes text");
        let _loaded = self.tmux(&["load-buffer", "-b", "human", &file.display().to_string()]).ok();
        let _pasted = self.tmux(&["paste-buffer", "-p", "-d", "-b", "human", "-t", "ccb:"]).ok();
    }

    /// Returns the process of Claude itself.
    pub(crate) fn claude_process(&self) -> u32 {
        self.process("/claude --")
    }
}

/// Returns how a request ended: the outcome's word, and after a slash its reason, if it has one.
pub(crate) fn outcome(answer: &Value) -> String {
    let outcome = &answer["settlement"]["outcome"];
    let word = outcome["word"].as_str().unwrap_or_default();
    outcome["reason"].as_str().map_or_else(|| word.to_owned(), |reason| format!("{word}/{reason}"))
}

/// Asserts that a request was completed with this reply.
#[track_caller]
pub(crate) fn completed(answer: &Value, reply: &str) {
    assert_eq!(outcome(answer), "completed", "{answer}");
    assert_eq!(answer["settlement"]["reply"], reply, "{answer}");
}

/// Asserts that a first prompt of 200 KB arrives to the letter, and that an answer of 200 KB does.
#[track_caller]
pub(crate) fn whole_both_ways(lab: &Lab) {
    let mut prompt = "SIZE of this, 你好\n".to_owned();
    prompt.extend((0..5000).map(|number| format!("{number:06} the quick brown fox jumps over the lazy dog\n")));
    let prompt = prompt.trim_end();
    assert!(prompt.len() > 200 * 1024, "{}", prompt.len());
    let answer = lab.ask_json(prompt);
    let whole = format!("CCB_REQ_ID: {}\n\n{prompt}", answer["id"].as_str().unwrap());
    let hash = sha2::Sha256::digest(whole.as_bytes());
    let hash = u64::from_be_bytes(hash[..8].try_into().unwrap());
    completed(&answer, &format!("SIZE {} chars {} bytes sha256={hash:016x}", whole.chars().count(), whole.len()));
    assert_eq!(lab.user_messages().len(), 1);
    let long = lab.ask("LONG 200").ok();
    assert_eq!(long.len(), 200 * 1024 + "\nEND-OF-LONG\n".len());
    assert!(long.starts_with("000000 0123456789 abc") && long.ends_with("\nEND-OF-LONG\n"));
}
