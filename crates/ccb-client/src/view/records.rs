//! Droid's own records of its sessions, read only to say what became of a delivery that nobody else knows of.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use ccb_core::id::RequestId;
use ccb_core::outcome::TurnEnd;
use ccb_core::provider::droid::transcript::Turns;
use ccb_core::view::Standing;

use super::ledger;

/// How near its end a turn's end is looked for in a file, in bytes.
const NEAR: u64 = 64 << 10;

/// Looks for a delivery in all sessions: a human may have gone on to another one since.
pub(crate) fn find(sessions: &Path, id: &RequestId) -> io::Result<Option<Standing>> {
    let mark = format!("\"id\":\"{id}\"");
    for dir in entries(sessions)? {
        for file in entries(&dir)?.into_iter().filter(|file| file.extension().is_some_and(|end| end == "jsonl")) {
            let text = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
            if !text.contains(&mark) {
                continue;
            }
            let mut turns = Turns::default();
            for line in text.lines() {
                turns.take(line);
            }
            match ledger::recorded(&turns, id) {
                Standing::Absent => {}
                at => return Ok(Some(at)),
            }
        }
    }
    Ok(None)
}

/// Returns how a turn of a session has ended, if its records say so. Only their end is looked at first: this is asked often.
pub(crate) fn end(sessions: &Path, session: &str, turn: &str) -> Option<TurnEnd> {
    let file =
        entries(sessions).ok()?.into_iter().map(|dir| dir.join(format!("{session}.jsonl"))).find(|f| f.is_file())?;
    let mut last = Vec::new();
    let mut open = File::open(&file).ok()?;
    open.seek(SeekFrom::Start(open.metadata().ok()?.len().saturating_sub(NEAR))).ok()?;
    open.read_to_end(&mut last).ok()?;
    let is_it = |line: &str| line.contains("agent_turn_outcome") && line.contains(&format!("\"{turn}\""));
    if !String::from_utf8_lossy(&last).lines().any(is_it) {
        return None;
    }
    let mut turns = Turns::default();
    for line in String::from_utf8_lossy(&std::fs::read(&file).ok()?).lines() {
        turns.take(line);
    }
    turns.end(turn).flatten()
}

/// Returns what is in a directory. One that is missing proves nothing: it may have been taken away.
fn entries(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccb_core::outcome::EndedBy;

    #[test]
    fn a_delivery_is_found_in_whatever_session_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let id = RequestId::new("r1").unwrap();
        let sessions = dir.path().join("sessions");
        assert!(find(&sessions, &id).is_err(), "sessions that are missing prove nothing");
        for (name, word) in [("a", "r0"), ("b", "r1")] {
            let at = sessions.join(format!("-p-{name}"));
            std::fs::create_dir_all(&at).unwrap();
            let user = format!(r#"{{"type":"message","id":"{word}","message":{{"role":"user","content":"x"}}}}"#);
            let end = format!(r#"{{"type":"agent_turn_outcome","turnId":"{word}","reason":"completed"}}"#);
            std::fs::write(at.join(format!("{name}.jsonl")), format!("{user}\n{end}\n")).unwrap();
        }
        let end = TurnEnd::Completed { reply: String::new() };
        assert_eq!(
            find(&sessions, &id).unwrap(),
            Some(Standing::Ended { turn: "r1".into(), end, by: EndedBy::Record })
        );
        assert_eq!(find(&sessions, &RequestId::new("r2").unwrap()).unwrap(), None);
        assert!(super::end(&sessions, "b", "r1").is_some() && super::end(&sessions, "a", "r1").is_none());
        std::fs::create_dir(sessions.join("-p-c")).unwrap();
        std::fs::create_dir(sessions.join("-p-c/odd.jsonl")).unwrap();
        assert!(find(&sessions, &RequestId::new("r2").unwrap()).is_err(), "what cannot be read proves nothing");
    }
}
