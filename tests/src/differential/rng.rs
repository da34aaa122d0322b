//! A small seeded generator (SplitMix64) and values that find bugs.

/// Repeatable random numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n.max(1)
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An integer that is special at some width, or near to one, or random.
    pub fn interesting(&mut self) -> u64 {
        let width = self.pick(&[8u32, 16, 32, 64]);
        let ones = u64::MAX >> (64 - width);
        let value = match self.below(12) {
            0 => 0,
            1 => 1,
            2 => ones,
            3 => 1 << (width - 1),
            4 => ones >> 1,
            5 => self.below(130),
            6 => (self.below(130)).wrapping_neg() & ones,
            7 => 1 << self.below(width as u64),
            8 => self.bits() & self.bits() & ones,
            _ => self.bits(),
        };
        match self.below(8) {
            // Other bits above a narrow value.
            0 => value | (self.bits() & !ones),
            1 => value | !ones,
            _ => value,
        }
    }

    /// The bits of a double, or of two floats, that is special in some way.
    pub fn interesting_double(&mut self) -> u64 {
        const DOUBLES: [u64; 16] = [
            0,
            1 << 63,
            0x3ff0_0000_0000_0000,
            0xbff0_0000_0000_0000,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_0001,
            0x7ff0_0000_0000_0001,
            0xfff8_0000_0000_0000,
            0x0000_0000_0000_0001,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x41df_ffff_ffc0_0000,
            0x43e0_0000_0000_0000,
            0x3fe0_0000_0000_0000,
        ];
        const FLOATS: [u32; 14] = [
            0,
            1 << 31,
            0x3f80_0000,
            0xbf80_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0001,
            0x7f80_0001,
            0x0000_0001,
            0x007f_ffff,
            0x0080_0000,
            0x7f7f_ffff,
            0x4f00_0000,
            0x3f00_0000,
        ];
        match self.below(6) {
            0 | 1 => self.pick(&DOUBLES),
            2 => self.pick(&FLOATS) as u64 | (self.pick(&FLOATS) as u64) << 32,
            3 => ((self.below(2000) as f64 - 1000.0) / 8.0).to_bits(),
            4 => {
                let mut float = || ((self.below(2000) as f32 - 1000.0) / 8.0).to_bits() as u64;
                float() | float() << 32
            }
            _ => self.bits(),
        }
    }

    /// The bits of an 80-bit x87 value.
    pub fn interesting_extended(&mut self) -> u128 {
        const VALUES: [(u16, u64); 14] = [
            (0, 0),
            (0x8000, 0),
            (0x3fff, 1 << 63),
            (0xbfff, 1 << 63),
            (0x7fff, 1 << 63),
            (0xffff, 1 << 63),
            (0x7fff, 0xc000_0000_0000_0001),
            (0x7fff, 0x8000_0000_0000_0001),
            (0, 1),
            (0, 1 << 63),
            (1, 1 << 63),
            (0x7ffe, u64::MAX),
            (0x3fff, 1),
            (0x403e, u64::MAX),
        ];
        let (high, low) = match self.below(5) {
            0 => self.pick(&VALUES),
            1 => (self.bits() as u16, self.bits()),
            2 => (
                0x3fff + self.below(70) as u16,
                self.bits() << self.below(64) | 1 << 63,
            ),
            _ => (
                (0x3fff - 8 + self.below(16) as u16) | ((self.below(2) as u16) << 15),
                self.bits() | 1 << 63,
            ),
        };
        (high as u128) << 64 | low as u128
    }
}
