//! What is particular about a world with OpenCode: its configuration, and what it writes of itself.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Lab, anchor};

/// Where the native program is.
pub(super) const PROGRAM: &str = "node_modules/opencode-linux-x64/bin";

/// All messages with their parts, in the order of their making.
const MESSAGES: &str = "SELECT m.id, m.session_id, m.data, \
    (SELECT json_group_array(json(p.data)) FROM (SELECT data FROM part WHERE message_id = m.id ORDER BY id) p) \
    FROM message m ORDER BY m.time_created, m.id";

impl Lab {
    /// Returns the path of OpenCode's database.
    pub(crate) fn opencode_database(&self) -> PathBuf {
        self.home().join(".local/share/opencode/opencode.db")
    }

    /// Configures OpenCode as a user has it who has a model of their own.
    pub(super) fn furnish_opencode(&self) {
        let model = json!({"tool_call": true, "limit": {"context": 200_000, "output": 32_000}});
        let provider = json!({
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": format!("{}/v1", self.model_address()), "apiKey": "sk-fake-0"},
            "models": {"fake-model": model},
        });
        let config = json!({
            "model": "fake/fake-model",
            "small_model": "fake/fake-model",
            "autoupdate": false,
            "share": "disabled",
            "enabled_providers": ["fake"],
            "provider": {"fake": provider},
        });
        let path = self.home().join(".config/opencode/opencode.json");
        self.write(&path, &self.configured("opencode", config));
    }

    /// Returns the variables that keep OpenCode from asking the network, which is not there.
    pub(super) fn opencode_environment(_: &Self) -> Vec<(&'static str, String)> {
        let fixed = ["OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_LSP_DOWNLOAD"];
        let fixed = fixed.into_iter().map(|name| (name, "1".to_owned()));
        fixed.chain([("npm_config_offline", "true".to_owned())]).collect()
    }

    /// Returns OpenCode's messages, each with its id, its session, its own data and its parts.
    pub(crate) fn opencode_messages(&self) -> Vec<Value> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let Ok(database) = rusqlite::Connection::open_with_flags(self.opencode_database(), flags) else {
            return Vec::new();
        };
        // It may only just be in the making: then there are no messages either.
        let Ok(mut messages) = database.prepare(MESSAGES) else { return Vec::new() };
        let json = |text: String| serde_json::from_str::<Value>(&text).unwrap_or_default();
        let rows = messages.query_map([], |row| {
            let (id, session): (String, String) = (row.get(0)?, row.get(1)?);
            Ok(json!({"id": id, "session": session, "data": json(row.get(2)?), "parts": json(row.get(3)?)}))
        });
        rows.map(|rows| rows.filter_map(Result::ok).collect()).unwrap_or_default()
    }

    /// Returns the texts of a message that somebody wrote.
    pub(crate) fn opencode_text(message: &Value) -> String {
        let parts = message["parts"].as_array().into_iter().flatten();
        let texts = parts.filter(|part| part["type"] == "text" && part["synthetic"] != true);
        texts.filter_map(|part| part["text"].as_str()).collect()
    }

    /// Returns what OpenCode has taken as prompts.
    pub(super) fn opencode_prompts(&self) -> Vec<(Option<String>, String)> {
        let users = self.opencode_messages().into_iter().filter(|message| message["data"]["role"] == "user");
        let texts = users.map(|message| Self::opencode_text(&message)).filter(|text| !text.is_empty());
        texts.map(|text| (anchor(&text), text)).collect()
    }
}
