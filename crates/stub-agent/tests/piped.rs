//! The program itself, driven through pipes: it answers what it was given and ends with its input.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Gives the stub its input, and returns what came of it.
fn stub(arguments: &[&str], input: &[u8]) -> io::Result<Output> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stub-agent"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A stub that crashes does not read everything.
        stdin.write_all(input).ok();
    }
    child.wait_with_output()
}

/// Returns the path of a file of one test, which does not exist.
fn fresh(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::remove_file(&path).ok();
    path
}

#[test]
fn a_large_paste_arrives_whole() {
    let transcript = fresh("piped.jsonl");
    let message = format!("ECHO: got it\n{}", "漢字 and a long line of text\n".repeat(8000));
    let input = format!("\x1b[200~CCB_REQ_ID: r1\r\r{}\x1b[201~\r", message.replace('\n', "\r"));
    let output = stub(&["--ui", "plain", "--transcript", &transcript.to_string_lossy()], input.as_bytes()).unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("recv anchored=true len=0 req=\"r1\"") && shown.contains("done req=\"r1\""), "{shown}");
    let records = std::fs::read_to_string(&transcript).unwrap();
    let said: Vec<serde_json::Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said[1]["payload"]["message"], format!("CCB_REQ_ID: r1\n\n{message}"));
    assert_eq!(said[2]["payload"]["message"], "got it");
}

#[test]
fn an_answer_under_way_is_given_before_it_ends() {
    let output = stub(&["--provider", "none"], b"RUN: echo one; echo two\r").unwrap();
    assert!(output.status.success());
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("● one") && shown.contains("  two") && shown.ends_with("\x1b[24;1H\r\n"), "{shown}");
}

#[test]
fn crashes_and_mistakes_have_their_status() {
    assert_eq!(stub(&["--provider", "none"], b"CRASH\r").unwrap().status.code(), Some(3));
    let unset = stub(&["--provider", "gemini"], b"").unwrap();
    assert_eq!(unset.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unset.stderr).contains("GEMINI_SESSION_PATH"));
    assert_eq!(stub(&["--colour"], b"").unwrap().status.code(), Some(2));
    let help = stub(&["--help"], b"").unwrap();
    assert!(help.status.success() && help.stdout.starts_with(b"A stand-in"));
}
