//! xorshift64*: small, and the same everywhere.

/// A generator.
pub struct Random(u64);

impl Random {
    /// The generator of case `index` under `seed`.
    pub fn new(seed: u64, index: u64) -> Random {
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index.wrapping_mul(0xd129_0c5a_6a3b_9d15);
        let mut random = Random((mixed ^ mixed >> 29) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    /// 64 bits.
    #[allow(clippy::should_implement_trait)] // nobody iterates over it
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`; 0 for a limit of 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit.max(1)
    }

    /// One of them.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
