//! What is particular about a world with Gemini CLI: its settings, and what it writes of itself.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Lab, anchor, files_below, json_lines};

/// Where the program is: a script of Node, which npm has linked beside those of all others.
pub(super) const PROGRAM: &str = "node_modules/.bin";

/// How a text in the user's role begins that Gemini itself has put there.
const CONTEXT: &str = "<session_context>";

/// Returns the directory of a program for the PATH: for Gemini's one in which nothing else is.
pub(super) fn alone(world: &Path, within: &Path) -> PathBuf {
    if !within.ends_with(PROGRAM) {
        return within.to_owned();
    }
    let dir = world.join("programs");
    std::fs::create_dir_all(&dir).expect("a directory");
    std::os::unix::fs::symlink(within.join("gemini"), dir.join("gemini")).expect("a link");
    dir
}

impl Lab {
    /// Returns the directory of Gemini's own files.
    pub(crate) fn gemini_home(&self) -> PathBuf {
        self.home().join(".gemini")
    }

    /// Configures Gemini as a user has it who has a key, and answers what it asks in its first run.
    pub(super) fn furnish_gemini(&self) {
        let settings = json!({
            "general": {"enableAutoUpdate": false, "enableAutoUpdateNotification": false},
            "privacy": {"usageStatisticsEnabled": false},
            "security": {"auth": {"selectedType": "gemini-api-key"}},
        });
        self.write(&self.gemini_home().join("settings.json"), &self.configured("gemini", settings));
        if self.setup.trusted {
            let trust = json!({self.project().display().to_string(): "TRUST_FOLDER"});
            self.write(&self.gemini_home().join("trustedFolders.json"), &trust.to_string());
        }
    }

    /// Returns the variables that lead Gemini to the fake model, and to nobody else.
    pub(super) fn gemini_environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("GEMINI_API_KEY", "sk-fake-0".to_owned()),
            ("GOOGLE_GEMINI_BASE_URL", self.model_address()),
            // Without it Gemini warns of the terminal's colours.
            ("COLORTERM", "truecolor".to_owned()),
        ]
    }

    /// Returns the lines of all of Gemini's transcripts, wherever in the user's home they are.
    pub(crate) fn gemini_records(&self) -> Vec<Value> {
        json_lines(files_below(&self.home()).into_iter().filter(|file| {
            let chats = file.parent().is_some_and(|dir| dir.ends_with("chats"));
            chats && file.extension().is_some_and(|end| end == "jsonl")
        }))
    }

    /// Returns what Gemini has taken as prompts; a record that is written again counts once.
    pub(super) fn gemini_prompts(&self) -> Vec<(Option<String>, String)> {
        let mut known: Vec<Value> = Vec::new();
        let mut prompts = Vec::new();
        for record in self.gemini_records().into_iter().filter(|record| record["type"] == "user") {
            let parts = record["content"].as_array().into_iter().flatten();
            let text: String = parts.filter_map(|part| part["text"].as_str()).collect();
            if !text.is_empty() && !text.starts_with(CONTEXT) && !known.contains(&record["id"]) {
                prompts.push((anchor(&text), text));
            }
            known.push(record["id"].clone());
        }
        prompts
    }
}
