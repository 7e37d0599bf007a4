//! What `ccb view` and askd say to each other: one JSON object a line, over a socket in the home.
//!
//! The viewer owns an agent that has no interface of its own, and is the only one who writes to it. It knows nothing of
//! requests but their ids; an id is given to the agent at most once, however often it is offered.

use serde::{Deserialize, Serialize};

use crate::id::RequestId;
use crate::outcome::{EndedBy, TurnEnd};
use crate::state::Presence;

/// The number of this protocol: viewer and askd of other numbers do not understand each other.
pub const PROTOCOL: u32 = 1;

/// What askd says to a viewer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "say")]
pub enum Said {
    /// Give this to the agent, now or not at all.
    Offer {
        /// Which delivery.
        id: RequestId,
        /// The text.
        text: String,
    },
    /// Stop the turn that works on this.
    Interrupt {
        /// Which delivery.
        id: RequestId,
    },
    /// Where does this stand?
    Look {
        /// Which delivery.
        id: RequestId,
    },
    /// What would be lost if it were ended now?
    Glance,
}

/// What a viewer tells askd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "tell")]
pub enum Told {
    /// Who is speaking: the first line of a connection.
    Hello {
        /// The viewer's protocol number.
        protocol: u32,
    },
    /// What the agent is doing.
    Presence {
        /// What.
        presence: Presence,
    },
    /// The agent's session, new or loaded.
    Session {
        /// Its id.
        session: String,
    },
    /// Where a delivery stands: the answer to an offer or a look, and news of its turn.
    Stands {
        /// Which delivery.
        id: RequestId,
        /// Where.
        at: Standing,
    },
    /// The answer to a glance: what the agent is doing, or that a draft waits for its human.
    Seen {
        /// What.
        presence: Presence,
    },
    /// Something went wrong that people should see.
    Trouble {
        /// What.
        error: String,
    },
}

/// Why the place of a delivery is unclear for now: it is told once more when that is over.
pub const STARTING: &str = "its program is starting";

/// Where a delivery stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "at")]
pub enum Standing {
    /// Neither the viewer nor the agent's records have ever had it, and nobody is left who could still take it.
    Absent,
    /// Nobody can say.
    Unclear {
        /// Why.
        why: String,
    },
    /// It was not given to the agent, which cannot take anything now.
    Back {
        /// Why.
        why: String,
    },
    /// The agent refused it: it has not taken it.
    Refused {
        /// Its words.
        why: String,
    },
    /// It was written to the agent.
    Sent,
    /// The agent has taken it into a turn.
    Taken {
        /// The turn.
        turn: String,
    },
    /// Its turn is over.
    Ended {
        /// The turn.
        turn: String,
        /// How.
        end: TurnEnd,
        /// What has told.
        #[serde(default = "protocol", skip_serializing_if = "is_protocol")]
        by: EndedBy,
    },
}

fn protocol() -> EndedBy {
    EndedBy::Protocol
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_protocol(by: &EndedBy) -> bool {
    *by == EndedBy::Protocol
}

/// Returns the line of a message, with its newline.
pub fn line<T: Serialize>(message: &T) -> String {
    let mut line = serde_json::to_string(message).expect("our own messages serialize");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_sides() {
        let id = RequestId::new("r1").unwrap();
        let offer = Said::Offer { id: id.clone(), text: "a\nb".into() };
        insta::assert_snapshot!(line(&offer), @r#"{"say":"offer","id":"r1","text":"a\nb"}"#);
        insta::assert_snapshot!(line(&Said::Interrupt { id: id.clone() }), @r#"{"say":"interrupt","id":"r1"}"#);
        insta::assert_snapshot!(line(&Said::Look { id: id.clone() }), @r#"{"say":"look","id":"r1"}"#);
        insta::assert_snapshot!(line(&Told::Hello { protocol: PROTOCOL }), @r#"{"tell":"hello","protocol":1}"#);
        let presence = Told::Presence { presence: Presence::Busy { why: "w".into() } };
        insta::assert_snapshot!(line(&presence), @r#"{"tell":"presence","presence":{"state":"busy","why":"w"}}"#);
        insta::assert_snapshot!(line(&Told::Session { session: "s".into() }), @r#"{"tell":"session","session":"s"}"#);
        insta::assert_snapshot!(line(&Told::Stands { id: id.clone(), at: Standing::Absent }), @r#"{"tell":"stands","id":"r1","at":{"at":"absent"}}"#);
        let end = TurnEnd::Completed { reply: "yes".into() };
        insta::assert_snapshot!(line(&Said::Glance), @r#"{"say":"glance"}"#);
        insta::assert_snapshot!(line(&Told::Seen { presence: Presence::Idle }), @r#"{"tell":"seen","presence":{"state":"idle"}}"#);
        let ended = Told::Stands { id, at: Standing::Ended { turn: "r1".into(), end, by: EndedBy::Protocol } };
        insta::assert_snapshot!(line(&ended), @r#"{"tell":"stands","id":"r1","at":{"at":"ended","turn":"r1","end":{"end":"completed","reply":"yes"}}}"#);
        assert_eq!(serde_json::from_str::<Told>(&line(&ended)).unwrap(), ended);
        assert_eq!(serde_json::from_str::<Said>(&line(&offer)).unwrap(), offer);
    }
}
