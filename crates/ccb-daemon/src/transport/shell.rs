//! Command lines for the shells that agents run their hooks in.

use std::path::Path;

use crate::files::Files;

/// Returns the command line by which an agent's hook tells us.
pub(crate) fn hook(files: &Files, agent: &str) -> String {
    let program = quoted(&files.path("bin/ccb"));
    let (agent, project) = (quoted(Path::new(agent)), quoted(files.home().work_dir()));
    format!("{program} hook {agent} {project} || :")
}

/// Returns a path as one word of a shell: nothing in it means anything to `sh`, `bash`, `zsh` or `fish`, of which
/// the last reads a backslash also inside quotes. A dollar stands alone, so that a program which fills in `${…}` or
/// `$NAME` before it calls the shell (Gemini) finds none.
pub(crate) fn quoted(path: &Path) -> String {
    let mut word = String::from("'");
    for c in path.display().to_string().chars() {
        match c {
            '\'' => word.push_str(r"'\''"),
            '\\' => word.push_str(r"'\\'"),
            '$' => word.push_str(r"'\$'"),
            c => word.push(c),
        }
    }
    word + "'"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        for name in ["a b", "it's", "$(touch x)`y`\"z\"", "${HOME}$HOME", r"back\slash'", "ünï;&|*?~#!", "line\nend"]
        {
            let word = quoted(Path::new(name));
            assert!(!word.contains("${") && !word.contains("$H"), "{word}");
            for shell in ["sh", "bash"] {
                let script = format!("printf %s {word}");
                let output = std::process::Command::new(shell).args(["-c", &script]).output().unwrap();
                assert_eq!(String::from_utf8_lossy(&output.stdout), name, "{shell}: {word}");
            }
        }
    }
}
