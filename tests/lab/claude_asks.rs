//! Claude's answers arrive, whole and each at its own asker.

use crate::env::{Setup, lab};

#[test]
fn claude_answers_twenty_asks_in_a_row() {
    let Some(lab) = lab(Setup::claude()) else { return };
    lab.start();
    for number in 0..20 {
        let token = format!("token-{number}-of-twenty");
        assert_eq!(lab.ask(&format!("ECHO: {token}")).ok(), format!("{token}\n"));
    }
    assert_eq!(lab.user_messages().len(), 20);
}
