//! Chance, from a seed: the same seed gives the same run on every machine.

/// A splitmix64 generator: small, quick, and good enough to stir a simulation.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03);
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number in `from..to`.
    pub(crate) fn range(&mut self, from: i64, to: i64) -> i64 {
        let span = to.abs_diff(from);
        from + i64::try_from(self.next() % span).expect("a small span")
    }

    /// Returns an index below `len`.
    pub(crate) fn below(&mut self, len: usize) -> usize {
        usize::try_from(self.next() % len as u64).expect("below a length")
    }

    /// Returns true in so many cases out of a hundred.
    pub(crate) fn chance(&mut self, percent: i64) -> bool {
        self.range(0, 100) < percent
    }
}
