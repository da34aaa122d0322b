//! How x64 kernels from Windows 8 on encode KDDEBUGGER_DATA64 while they run without a debugger.
//!
//! ```text
//! decode:  P = bswap(rol(E ^ N, r) ^ A) ^ W      N KiWaitNever, W KiWaitAlways, A address of KdpDataBlockEncoded
//!            = bswap(rol(E, r)) ^ K              r = N mod 64, K = bswap(rol(N, r) ^ A) ^ W
//! ```
//!
//! Rotation and byte swap distribute over XOR, so all keys collapse into `r` and one word `K`: a known plain word
//! gives `K` for each of the 64 rotations, and further known words tell which is right.

/// What decodes a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    rotation: u32,
    mask: u64,
}

impl Key {
    /// From the kernel's own variables. `flag` is the address of KdpDataBlockEncoded.
    pub(crate) fn of_kernel(wait_never: u64, wait_always: u64, flag: u64) -> Key {
        let rotation = (wait_never & 0x3f) as u32;
        Key {
            rotation,
            mask: (wait_never.rotate_left(rotation) ^ flag).swap_bytes() ^ wait_always,
        }
    }

    /// All keys under which `encoded` means `plain`.
    pub(crate) fn by_known_word(encoded: u64, plain: u64) -> impl Iterator<Item = Key> {
        (0..64).map(move |rotation| Key {
            rotation,
            mask: encoded.rotate_left(rotation).swap_bytes() ^ plain,
        })
    }

    /// A plain word.
    pub(crate) fn decode(self, encoded: u64) -> u64 {
        encoded.rotate_left(self.rotation).swap_bytes() ^ self.mask
    }

    /// An encoded word.
    #[cfg(test)]
    pub(crate) fn encode(self, plain: u64) -> u64 {
        (plain ^ self.mask).swap_bytes().rotate_right(self.rotation)
    }

    /// Decodes a block in place; its length is a multiple of 8.
    pub(crate) fn decode_block(self, block: &mut [u8]) {
        for word in block.as_chunks_mut().0 {
            *word = self.decode(u64::from_le_bytes(*word)).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys that a real machine had; addresses by the RVAs of 10.0.18362.30 at a base of 0xfffff8002ca00000.
    const NEVER: u64 = 0x6aaf_2a00_34c5_5443;
    const ALWAYS: u64 = 0x0069_8a9f_15d5_e840;
    const FLAG: u64 = 0xffff_f800_2ce6_50a8;
    const WORDS: [(u64, u64); 3] = [
        (0xffff_f800_2ce5_91b0, 0x8b5f_f307_02b7_cc89),
        (0x0000_0380_4742_444b, 0x7425_47ea_72a8_b376),
        (0xffff_f800_2ca0_0000, 0x9d4d_dba7_02b7_cc89),
    ];

    #[test]
    fn the_kernels_keys_decode_its_block() {
        let key = Key::of_kernel(NEVER, ALWAYS, FLAG);
        assert_eq!(key.mask, 0xb39b_4615_147d_6eea);
        for (plain, encoded) in WORDS {
            assert_eq!(key.decode(encoded), plain);
            assert_eq!(key.encode(plain), encoded);
        }
    }

    #[test]
    fn the_keys_are_found_from_one_known_word_and_proved_by_another() {
        let [links, tag, base] = WORDS;
        let right: Vec<Key> = Key::by_known_word(base.1, base.0)
            .filter(|key| key.decode(tag.1) == tag.0)
            .collect();
        assert_eq!(right, [Key::of_kernel(NEVER, ALWAYS, FLAG)]);
        assert_eq!(right[0].decode(links.1), links.0);
    }

    proptest! {
        #[test]
        fn encoding_and_decoding_are_inverse(never: u64, always: u64, flag: u64, word: u64) {
            let key = Key::of_kernel(never, always, flag);
            prop_assert_eq!(key.decode(key.encode(word)), word);
            // The formula as the kernel computes it.
            let r = (never & 0x3f) as u32;
            let kernel = ((word ^ never).rotate_left(r) ^ flag).swap_bytes() ^ always;
            prop_assert_eq!(key.decode(word), kernel);
        }
    }
}
