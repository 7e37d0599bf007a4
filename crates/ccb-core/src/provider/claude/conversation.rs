//! What a transcript says of one delivery: whether it was taken, in which turn, and how that ended.
//!
//! Lines are taken as they are written. Whatever order they come in, a record belongs to the turn that it names,
//! or else to that of the record that it follows.

use std::collections::HashMap;

use super::{Record, Says};
use crate::id::RequestId;
use crate::outcome::{Failure, TurnEnd};
use crate::{paste, prompt};

/// What opens and closes a pasted text that Claude had collapsed, up to the id in it.
const PASTED: [&str; 2] = ["<pasted_content id=\"", "</pasted_content id=\""];

/// One delivery in a transcript.
#[derive(Debug)]
pub struct Conversation {
    id: RequestId,
    /// Our text as it is kept, if we know it.
    ours: Option<String>,
    /// The turn of each record.
    turns: HashMap<String, String>,
    /// Records whose parent has not come yet, by that parent.
    orphans: HashMap<String, Vec<Record>>,
    seen: HashMap<String, Seen>,
    bound: Option<Bound>,
    rejected: Option<Rejection>,
    /// Whether what was written before the delivery is read, too.
    reads_all: bool,
    count: usize,
}

/// What was seen of one turn.
#[derive(Debug, Default)]
struct Seen {
    said: Vec<Part>,
    end: Option<Mark>,
    /// Whether its agents in the background ran on at its end.
    pending: bool,
}

#[derive(Debug)]
struct Part {
    number: usize,
    message: String,
    text: String,
    last: bool,
    cut: bool,
}

/// How a turn ended, by its own record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It was completed. Tasks in the background may bring more.
    Completed,
    /// A human stopped it.
    Interrupted,
    /// The provider's error ended it.
    Failed(Failure, String),
}

/// That a user's own hook refused the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The record that says so.
    pub record: String,
    /// What the hook said.
    pub reason: String,
}

#[derive(Debug)]
struct Bound {
    /// The turn that took the delivery, and those that its own tasks in the background brought about.
    turns: Vec<String>,
    mixed: bool,
    followed: bool,
}

/// How a text compares with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Ours,
    WithOthers,
    Foreign,
}

impl Conversation {
    /// Returns the delivery of that id, of which nothing was seen. `text` is what was pasted, if that is known.
    pub fn new(id: RequestId, text: Option<&str>) -> Self {
        Self {
            id,
            ours: text.map(dense),
            turns: HashMap::new(),
            orphans: HashMap::new(),
            seen: HashMap::new(),
            bound: None,
            rejected: None,
            reads_all: false,
            count: 0,
        }
    }

    /// The whole transcript is read for it: a refusal without words may be of anything that was ever sent.
    pub fn reads_all(&mut self) {
        self.reads_all = true;
    }

    /// Takes the next line.
    pub fn take(&mut self, line: &str) {
        let Some(record) = super::record(line) else { return };
        if let Says::Rejected { reason, text } = &record.says
            && text.as_ref().map_or(!self.reads_all, |text| self.fit(text) != Fit::Foreign)
        {
            self.rejected = Some(Rejection { record: record.uuid.clone(), reason: reason.clone() });
        }
        let mut ready = vec![record];
        while let Some(record) = ready.pop() {
            let known = |parent: &String| self.turns.get(parent).cloned();
            let Some(turn) = record.turn.clone().or_else(|| record.parent.as_ref().and_then(known)) else {
                if let Some(parent) = record.parent.clone() {
                    self.orphans.entry(parent).or_default().push(record);
                }
                continue;
            };
            self.turns.insert(record.uuid.clone(), turn.clone());
            ready.extend(self.orphans.remove(&record.uuid).unwrap_or_default());
            self.see(turn, record.says);
        }
    }

    fn see(&mut self, turn: String, says: Says) {
        self.count += 1;
        let number = self.count;
        let seen = self.seen.entry(turn.clone()).or_default();
        match says {
            Says::Prompt { text, by_task } => self.prompt(turn, &text, by_task),
            Says::Absorbed { text, by_task: false } => self.absorbed(turn, &text),
            Says::Said { message, text, last, cut } => {
                // What is said after an end was said because a hook let the turn go on.
                seen.end = None;
                seen.said.push(Part { number, message, text, last, cut });
            }
            Says::Failed { reason, message } => seen.end = Some(Mark::Failed(reason, message)),
            Says::Interrupted => seen.end = Some(Mark::Interrupted),
            Says::Completed { pending } => {
                // How long it took is told of a turn that failed, too (2.1.288).
                seen.end.get_or_insert(Mark::Completed);
                seen.pending = pending;
            }
            Says::Absorbed { by_task: true, .. } | Says::Rejected { .. } | Says::Link => {}
        }
    }

    fn prompt(&mut self, turn: String, text: &str, by_task: bool) {
        let fit = self.fit(text);
        match &mut self.bound {
            None if by_task || fit == Fit::Foreign => {}
            None => {
                let mixed = fit == Fit::WithOthers;
                self.bound = Some(Bound { turns: vec![turn], mixed, followed: false });
            }
            Some(bound) if bound.turns.contains(&turn) => bound.mixed |= fit != Fit::Ours && !by_task,
            // What another turn had started may end at any time, and is none of ours.
            Some(bound) if by_task => {
                let last = bound.turns.last().and_then(|turn| self.seen.get(turn));
                if !bound.followed && last.is_some_and(|seen| seen.pending) {
                    bound.turns.push(turn);
                }
            }
            Some(bound) => bound.followed = true,
        }
    }

    fn absorbed(&mut self, turn: String, text: &str) {
        let fit = self.fit(text);
        match &mut self.bound {
            None if fit == Fit::Foreign => {}
            // It was taken into a turn that somebody else had begun.
            None => self.bound = Some(Bound { turns: vec![turn], mixed: true, followed: false }),
            Some(bound) => bound.mixed |= fit == Fit::Foreign && bound.turns.contains(&turn),
        }
    }

    /// Compares a text with ours, as far as Claude keeps it.
    fn fit(&self, text: &str) -> Fit {
        let anchored = prompt::anchored(&unwrapped(text), &self.id);
        match &self.ours {
            Some(ours) => {
                let text = dense(text);
                if text == *ours {
                    Fit::Ours
                } else if anchored || text.contains(ours.as_str()) {
                    Fit::WithOthers
                } else {
                    Fit::Foreign
                }
            }
            None if anchored => Fit::Ours,
            None => Fit::Foreign,
        }
    }

    /// Returns the turn that took the delivery, once it was seen.
    pub fn turn(&self) -> Option<&str> {
        self.bound.as_ref().and_then(|bound| bound.turns.first()).map(String::as_str)
    }

    /// Returns whether something that is not ours was seen in the turn.
    pub fn is_mixed(&self) -> bool {
        self.bound.as_ref().is_some_and(|bound| bound.mixed)
    }

    /// Returns whether another prompt has begun a turn of its own since: ours is over then, whatever else is seen.
    pub fn is_followed(&self) -> bool {
        self.bound.as_ref().is_some_and(|bound| bound.followed)
    }

    /// Returns how the last turn of the delivery ended, once its record says so.
    pub fn mark(&self) -> Option<&Mark> {
        let last = self.bound.as_ref()?.turns.last()?;
        self.seen.get(last)?.end.as_ref()
    }

    /// Returns whether the last turn of the delivery left agents in the background, which will bring about another.
    pub fn is_pending(&self) -> bool {
        let last = self.bound.as_ref().and_then(|bound| bound.turns.last());
        last.and_then(|turn| self.seen.get(turn)).is_some_and(|seen| seen.pending)
    }

    /// Returns whether the model has said a whole final message, with or without the turn's own end.
    pub fn is_whole(&self) -> bool {
        self.parts().last().is_some_and(|part| part.last)
    }

    /// Returns that a user's own hook refused the delivery.
    pub fn rejection(&self) -> Option<&Rejection> {
        self.rejected.as_ref().filter(|_| self.bound.is_none())
    }

    /// Returns how the delivery's turn has ended, given that it has. Without a mark it was stopped, unless a whole
    /// message had been said.
    pub fn end(&self) -> TurnEnd {
        let cut = self.parts().last().is_some_and(|part| part.cut);
        match self.mark() {
            Some(Mark::Completed) if cut => {
                let message = "the limit of output has cut its answer off".to_owned();
                TurnEnd::Failed { reason: Failure::Provider, message, partial: self.partial() }
            }
            Some(Mark::Completed) => TurnEnd::Completed { reply: self.reply() },
            Some(Mark::Failed(reason, message)) => {
                TurnEnd::Failed { reason: *reason, message: message.clone(), partial: self.partial() }
            }
            None if self.is_whole() => TurnEnd::Completed { reply: self.reply() },
            Some(Mark::Interrupted) | None => TurnEnd::Interrupted { partial: self.partial() },
        }
    }

    /// Returns the whole final message: all its blocks, however many lines they came in.
    fn reply(&self) -> String {
        let parts = self.parts();
        let last = parts.last().map(|part| part.message.as_str());
        let reply = last.map(|message| whole(&parts, message)).unwrap_or_default();
        // What a task in the background brought about may be nothing to say.
        let several = self.bound.as_ref().is_some_and(|bound| bound.turns.len() > 1);
        if reply.is_empty() && several { self.partial() } else { reply }
    }

    /// Returns the last message that has a text.
    fn partial(&self) -> String {
        let parts = self.parts();
        let last = parts.iter().rev().find(|part| !part.text.trim().is_empty());
        last.map(|part| whole(&parts, &part.message)).unwrap_or_default()
    }

    fn parts(&self) -> Vec<&Part> {
        let turns = self.bound.iter().flat_map(|bound| &bound.turns);
        let mut parts: Vec<&Part> = turns.filter_map(|turn| self.seen.get(turn)).flat_map(|seen| &seen.said).collect();
        parts.sort_by_key(|part| part.number);
        parts
    }
}

/// Returns a whole message, after those that it goes on with as they were cut off: these are one text.
fn whole(parts: &[&Part], message: &str) -> String {
    let at = parts.iter().position(|part| part.message == message).unwrap_or_default();
    let before = parts[..at].iter().rev().take_while(|part| part.cut).map(|part| part.text.as_str());
    let text = before.collect::<Vec<_>>().into_iter().rev().collect::<String>() + &text_of(parts, message);
    text.trim().to_owned()
}

/// Returns all blocks of a message, however many lines they came in.
fn text_of(parts: &[&Part], message: &str) -> String {
    if let [part] = parts.iter().filter(|part| part.message == message).collect::<Vec<_>>()[..] {
        return part.text.clone();
    }
    let texts = parts.iter().filter(|part| part.message == message).map(|part| part.text.trim());
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// Returns the text without the tags that Claude puts around a paste that it had collapsed.
fn unwrapped(text: &str) -> String {
    let mut left = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        left.push_str(before);
        let after = PASTED.iter().find_map(|open| tag.strip_prefix(open));
        // The id is a short one; anything else is text.
        if let Some((_, after)) = after.and_then(|after| after.split_once("\">")).filter(|(id, _)| id.len() <= 64) {
            rest = after;
        } else {
            left.push('<');
            rest = &tag[1..];
        }
    }
    left.push_str(rest);
    left
}

fn dense(text: &str) -> String {
    paste::kept(&unwrapped(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const OURS: &str = "CCB_REQ_ID: r1\n\nhello\tyou";

    fn conversation(lines: &[Value]) -> Conversation {
        let mut conversation = Conversation::new(RequestId::new("r1").unwrap(), Some(OURS));
        for line in lines {
            conversation.take(&line.to_string());
        }
        conversation
    }
    fn prompt(uuid: &str, turn: &str, text: &str) -> Value {
        json!({"type": "user", "uuid": uuid, "promptId": turn, "message": {"content": text}})
    }
    fn said(uuid: &str, parent: &str, message: &str, text: &str) -> Value {
        let content = json!([{"type": "text", "text": text}]);
        json!({"type": "assistant", "uuid": uuid, "parentUuid": parent, "message": {"id": message, "content": content}})
    }
    fn stopped(mut line: Value, why: &str) -> Value {
        line["message"]["stop_reason"] = json!(why);
        line
    }
    #[test]
    fn what_the_limit_cuts_off_is_no_whole_answer_and_what_goes_on_is_one_text_with_it() {
        let cut = |uuid, parent, message, text| stopped(said(uuid, parent, message, text), "max_tokens");
        let mut lines =
            vec![prompt("a", "t1", OURS), cut("b", "a", "m1", "one sen"), cut("c", "b", "m2", "tence and ")];
        let short = conversation(&lines);
        assert!(!short.is_whole());
        assert_eq!(short.end(), TurnEnd::Interrupted { partial: "one sentence and".into() });
        let ended = conversation(&[&lines[..], &[completed("d", "c")]].concat());
        assert!(
            matches!(ended.end(), TurnEnd::Failed { reason: Failure::Provider, partial, .. } if partial == "one sentence and")
        );
        lines.extend([stopped(said("d", "c", "m3", "another"), "end_turn"), completed("e", "d")]);
        assert_eq!(conversation(&lines).end(), TurnEnd::Completed { reply: "one sentence and another".into() });
    }
    fn completed(uuid: &str, parent: &str) -> Value {
        json!({"type": "system", "subtype": "turn_duration", "uuid": uuid, "parentUuid": parent})
    }
    fn pending(uuid: &str, parent: &str) -> Value {
        let mut line = completed(uuid, parent);
        line["pendingBackgroundAgentCount"] = 1.into();
        line
    }
    fn reply(text: &str) -> TurnEnd {
        TurnEnd::Completed { reply: text.into() }
    }

    #[test]
    fn lines_may_come_in_any_order() {
        let lines = [
            prompt("u", "t", "CCB_REQ_ID: r1\n\nhello    you"),
            said("a", "u", "m1", "one"),
            said("b", "a", "m2", "two"),
            said("c", "b", "m2", "three"),
            completed("d", "c"),
        ];
        assert_eq!(conversation(&lines).end(), reply("two\n\nthree"));
        let backwards: Vec<Value> = lines.iter().rev().cloned().collect();
        let conversation = conversation(&backwards);
        assert_eq!((conversation.turn(), conversation.is_mixed()), (Some("t"), false));
        assert_eq!(conversation.end(), reply("two\n\nthree"));
    }

    #[test]
    fn what_claude_does_to_a_text_is_not_mixing() {
        let pasted =
            "\n\n<pasted_content id=\"0a2b\">\nCCB_REQ_ID: r1\n\nhello    you\n</pasted_content id=\"0a2b\">\n";
        assert!(!conversation(&[prompt("u", "t", pasted)]).is_mixed());
        let table =
            ["draft CCB_REQ_ID: r1\n\nhello you", "CCB_REQ_ID: r1\n\nhello you and me", "CCB_REQ_ID: r1\nhello"];
        for text in table {
            let conversation = conversation(&[prompt("u", "t", text)]);
            assert_eq!((conversation.turn(), conversation.is_mixed()), (Some("t"), true), "{text}");
        }
        for text in ["hello you", "CCB_REQ_ID: r2\n\nhello you", "see CCB_REQ_ID: r1"] {
            assert_eq!(conversation(&[prompt("u", "t", text)]).turn(), None, "{text}");
        }
    }

    #[test]
    fn a_text_that_joins_ours_is_told_and_one_that_ours_joins_too() {
        let queued = |text: &str| {
            let mode = if text == "task" { "task-notification" } else { "prompt" };
            let attachment = json!({"type": "queued_command", "prompt": text, "commandMode": mode});
            json!({"type": "attachment", "uuid": "q", "parentUuid": "u", "attachment": attachment})
        };
        assert!(conversation(&[prompt("u", "t", OURS), queued("mine")]).is_mixed());
        assert!(!conversation(&[prompt("u", "t", OURS), queued("task")]).is_mixed());
        assert!(conversation(&[prompt("u", "t", OURS), prompt("v", "t", "mine")]).is_mixed());
        let joined = conversation(&[prompt("u", "t", "mine"), queued(OURS)]);
        assert_eq!((joined.turn(), joined.is_mixed()), (Some("t"), true));
        let other = conversation(&[prompt("u", "t", OURS), prompt("v", "t2", "mine")]);
        assert_eq!((other.is_mixed(), other.is_followed()), (false, true));
    }

    #[test]
    fn a_tasks_end_goes_on_with_the_turn_and_a_humans_prompt_does_not() {
        let mut task = prompt("v", "t2", "<task-notification>x");
        task["parentUuid"] = "c".into();
        let lines = [
            prompt("u", "t", OURS),
            said("a", "u", "m1", "started"),
            pending("c", "a"),
            task.clone(),
            said("e", "v", "m2", "found it"),
        ];
        let going_on = conversation(&lines);
        assert_eq!((going_on.mark(), going_on.is_followed()), (None, false));
        let mut lines = lines.to_vec();
        lines.push(completed("f", "e"));
        assert_eq!(conversation(&lines).end(), reply("found it"));
        assert!(!conversation(&lines).is_pending());
        lines.insert(3, prompt("h", "t1", "mine"));
        assert_eq!(conversation(&lines).end(), reply("started"));
        // A task that our turn did not leave behind is somebody else's.
        let foreign = [&lines[..2], &[completed("c", "a"), task], &lines[5..]].concat();
        assert_eq!(conversation(&foreign).end(), reply("started"));
    }

    #[test]
    fn a_turn_that_failed_stays_so_though_its_time_is_told() {
        let error = json!({"type": "assistant", "uuid": "a", "parentUuid": "u", "isApiErrorMessage": true,
            "error": "rate_limit", "message": {"id": "m", "content": [{"type": "text", "text": "API Error: 429"}]}});
        let mut lines = vec![prompt("u", "t", OURS), error, completed("b", "a")];
        let failed =
            TurnEnd::Failed { reason: Failure::RateLimit, message: "API Error: 429".into(), partial: String::new() };
        assert_eq!(conversation(&lines).end(), failed);
        lines.insert(2, said("c", "a", "m2", "after all"));
        assert_eq!(conversation(&lines).end(), reply("after all"));
    }

    #[test]
    fn a_rejection_is_no_turn() {
        let line = |content: &str, kind: &str| {
            let ending = json!({"ending": {"kind": kind, "reason": "no"}});
            json!({"type": "system", "subtype": "informational", "uuid": "i", "parentUuid": "u", "content": content,
                "promptSubmitEnding": ending})
        };
        let told = format!("UserPromptSubmit operation blocked by hook:\n[x]: no\n\n\nOriginal prompt: {OURS}");
        // Also where the hook suppresses the prompt, which is ours: nothing else was submitted since.
        for content in [told.as_str(), "UserPromptSubmit operation blocked by hook:\nno"] {
            let rejected = conversation(&[line(content, "blocked_by_hook")]);
            assert_eq!(rejected.rejection(), Some(&Rejection { record: "i".into(), reason: "no".into() }));
            assert_eq!(rejected.turn(), None);
        }
        let foreign = conversation(&[line(&told.replace("r1", "r2"), "blocked_by_hook")]);
        assert_eq!(foreign.rejection(), None);
        // Without its words, one that was written before the delivery may be of anything.
        let mut anew = Conversation::new(RequestId::new("r1").unwrap(), Some(OURS));
        anew.reads_all();
        anew.take(&line("UserPromptSubmit operation blocked by hook:\nno", "blocked_by_hook").to_string());
        assert_eq!(anew.rejection(), None);
        anew.take(&line(&told, "blocked_by_hook").to_string());
        assert!(anew.rejection().is_some());
        let stopped = conversation(&[prompt("u", "t", OURS), line("", "stopped_by_hook")]);
        assert!(matches!(stopped.mark(), Some(Mark::Failed(Failure::Provider, _))), "{stopped:?}");
    }
}
