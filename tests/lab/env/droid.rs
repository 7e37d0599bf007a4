//! What is particular about a world with Droid: a model of the user's own, for which no login is needed, and what
//! it writes of itself; or a stand-in for its own interface, which wants one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Lab, Setup, anchor, files_below, json_lines, write_program};

/// Where the native program is.
pub(super) const PROGRAM: &str = "node_modules/@factory/cli-linux-x64/bin";

/// The name by which Droid knows the fake model.
pub(crate) const MODEL: &str = "custom:Fake-Model-0";

/// A program of Droid's name that plays its interface as it was recorded, and says of itself that it does.
const STAND_IN: &str = "#!/bin/sh\ncase \"$1\" in\n--version) echo 0.215.0-stand-in;;\n\
    --help) echo '--settings <path>';;\n*) exec stub-agent --provider droid -- \"$@\";;\nesac\n";

/// Writes the stand-in, and returns the directory that it is in.
pub(super) fn stand_in(world: &Path) -> PathBuf {
    let within = world.join("stand-in");
    write_program(&within.join("droid"), STAND_IN);
    within
}

impl Setup {
    /// A world in which Droid is asked, and its own interface is played by a stand-in.
    pub(crate) fn droid_stand_in() -> Self {
        Self { stand_in: true, ..Self::droid() }
    }
}

impl Lab {
    /// Returns the directory of Droid's own files.
    pub(crate) fn droid_home(&self) -> PathBuf {
        self.home().join(".factory")
    }

    /// Configures Droid as a user has it who has a model of their own.
    pub(super) fn furnish_droid(&self) {
        let model = json!({
            "model": "fake-model",
            "displayName": "Fake Model",
            "baseUrl": format!("{}/v1", self.model_address()),
            "apiKey": "sk-fake-0",
            "provider": "generic-chat-completion-api",
            "maxOutputTokens": 8192,
        });
        let settings = json!({"model": MODEL, "customModels": [model]});
        self.write(&self.droid_home().join("settings.json"), &self.configured("droid", settings));
        if self.setup.stand_in {
            self.write(&self.droid_home().join("auth.v2.file"), "a login");
        }
    }

    /// Returns the variables that keep Droid as it is.
    pub(super) fn droid_environment(_: &Self) -> Vec<(&'static str, String)> {
        vec![("FACTORY_DROID_AUTO_UPDATE_ENABLED", "false".to_owned())]
    }

    /// Returns the lines of all of Droid's transcripts.
    pub(crate) fn droid_records(&self) -> Vec<Value> {
        let files = files_below(&self.droid_home().join("sessions")).into_iter();
        json_lines(files.filter(|file| file.extension().is_some_and(|end| end == "jsonl")))
    }

    /// Returns what Droid has taken as prompts: not what it tells the model itself.
    pub(super) fn droid_prompts(&self) -> Vec<(Option<String>, String)> {
        let prompts = self.droid_records().into_iter().filter_map(|record| {
            let message = &record["message"];
            let own = !message["visibility"].is_null() || !record["visibility"].is_null();
            let context = record["id"].as_str().is_some_and(|id| id.starts_with("context-"));
            if record["type"] != "message" || message["role"] != "user" || own || context {
                return None;
            }
            let parts = message["content"].as_array().into_iter().flatten();
            let text: String = parts.filter_map(|part| part["text"].as_str()).collect();
            (!text.is_empty()).then_some(text)
        });
        prompts.map(|text| (anchor(&text), text)).collect()
    }
}
