//! Bytes that come in pieces, as lines; what never ends is not kept for ever.

/// The longest line, in bytes, that is taken.
const LIMIT: usize = 64 << 20;

/// What has come of a line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// Whether the rest of a line that was too long is passed over.
    skips: bool,
}

impl Lines {
    /// Takes what was read, and returns the lines that are whole now; or else that one has become too long.
    pub(crate) fn take(&mut self, mut new: &[u8]) -> Result<Vec<String>, usize> {
        if self.skips {
            let Some(end) = new.iter().position(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
            (self.skips, new) = (false, &new[end + 1..]);
        }
        // Only what is new is searched: a long line comes in many pieces.
        let Some(end) = new.iter().rposition(|byte| *byte == b'\n') else {
            self.bytes.extend_from_slice(new);
            if self.bytes.len() > LIMIT {
                (self.bytes, self.skips) = (Vec::new(), true);
                return Err(LIMIT);
            }
            return Ok(Vec::new());
        };
        self.bytes.extend_from_slice(&new[..end]);
        let whole = std::mem::replace(&mut self.bytes, new[end + 1..].to_vec());
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come_and_one_without_an_end_is_not_kept() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"a"), Ok(vec![]));
        assert_eq!(lines.take(b"b\nc\nd"), Ok(vec!["ab".to_owned(), "c".to_owned()]));
        let piece = vec![b'x'; 1 << 20];
        let lost = (0..=LIMIT >> 20).filter(|_| lines.take(&piece).is_err()).count();
        assert_eq!((lost, lines.bytes.len()), (1, 0));
        assert_eq!(lines.take(b"its rest\nnext\n"), Ok(vec!["next".to_owned()]));
    }
}
