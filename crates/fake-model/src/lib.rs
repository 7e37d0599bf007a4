//! A model server on loopback, so that real coding CLIs can be tested without a network or a key.
//!
//! What it answers is decided by a directive in the user's prompt (see [`directive`]), so a test
//! says in its prompt what the model shall do. It speaks the Responses API ([`responses`]), the
//! Messages API ([`messages`]), Gemini's API ([`gemini`]) and chat completions ([`chat`]). Another API is
//! one more file beside these and one more arm in [`server`]; the directives, the planned answers and
//! their pace ([`answer`]) are shared.
//!
//! Nothing here can bind or reach another address than loopback.

pub mod answer;
pub mod chat;
pub mod directive;
pub mod gemini;
pub mod http;
pub mod log;
pub mod messages;
pub mod responses;
pub mod server;
pub mod state;
pub mod tools;

/// Returns the elements of a JSON array; none of what is no array.
fn array(value: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    value.as_array().into_iter().flatten()
}
