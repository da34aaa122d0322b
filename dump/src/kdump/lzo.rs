//! LZO1X, decompression alone: what `makedumpfile -l` writes. After the description of the stream in the Linux
//! documentation (`Documentation/staging/lzo.rst`).
//!
//! A stream is a row of instructions: literals are copied from the stream, matches from what was decoded before. The
//! low two bits of a match give up to three literals that follow it; whether there were any changes what the next
//! instruction means if it is below 16.

/// Reads the stream.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Option<usize> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte.into())
    }

    fn word(&mut self) -> Option<usize> {
        Some(self.byte()? | self.byte()? << 8)
    }

    /// A length that didn't fit its field: each zero byte is 255 more.
    fn long(&mut self, base: usize) -> Option<usize> {
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length = length.checked_add(255)?,
                last => return length.checked_add(last),
            }
        }
    }
}

/// Writes what was decoded.
struct Output<'a> {
    bytes: &'a mut [u8],
    done: usize,
}

impl Output<'_> {
    fn literals(&mut self, input: &mut Input<'_>, length: usize) -> Option<()> {
        let from = input.bytes.get(input.at..input.at.checked_add(length)?)?;
        self.bytes
            .get_mut(self.done..self.done + length)?
            .copy_from_slice(from);
        (self.done, input.at) = (self.done + length, input.at + length);
        Some(())
    }

    fn copy(&mut self, distance: usize, length: usize) -> Option<()> {
        let from = self.done.checked_sub(distance)?;
        let end = self
            .done
            .checked_add(length)
            .filter(|&end| end <= self.bytes.len())?;
        // The two may overlap: what was just written repeats.
        for at in self.done..end {
            self.bytes[at] = self.bytes[from + at - self.done];
        }
        self.done = end;
        Some(())
    }
}

/// Decompresses a stream: the length, or `None` where it is damaged or doesn't fit.
pub(super) fn decode(bytes: &[u8], output: &mut [u8]) -> Option<usize> {
    let mut input = Input { bytes, at: 0 };
    let mut output = Output {
        bytes: output,
        done: 0,
    };
    // Literals just before: 0, 1 to 3, or 4 for more.
    let mut before = 0;
    if let first @ 18.. = usize::from(*bytes.first()?) {
        input.at = 1;
        let length = first - 17;
        output.literals(&mut input, length)?;
        before = length.min(4);
    }
    loop {
        let instruction = input.byte()?;
        let (distance, length, after) = match instruction {
            0..16 if before == 0 => {
                let length = if instruction == 0 {
                    input.long(18)?
                } else {
                    instruction + 3
                };
                output.literals(&mut input, length)?;
                before = 4;
                continue;
            }
            0..16 => {
                let high = input.byte()? << 2;
                let (base, length) = if before == 4 { (2049, 3) } else { (1, 2) };
                (base + high + (instruction >> 2), length, instruction & 3)
            }
            16..32 => {
                let short = instruction & 7;
                let length = if short == 0 { input.long(9)? } else { short + 2 };
                let word = input.word()?;
                let distance = ((instruction & 8) << 11) + (word >> 2);
                if distance == 0 {
                    // The end of the stream.
                    return (length == 3 && input.at == bytes.len()).then_some(output.done);
                }
                (distance + 16384, length, word & 3)
            }
            32..64 => {
                let short = instruction & 31;
                let length = if short == 0 { input.long(33)? } else { short + 2 };
                let word = input.word()?;
                (1 + (word >> 2), length, word & 3)
            }
            64..128 => {
                let distance = (input.byte()? << 3) + (instruction >> 2 & 7) + 1;
                (distance, 3 + (instruction >> 5 & 1), instruction & 3)
            }
            _ => {
                let distance = (input.byte()? << 3) + (instruction >> 2 & 7) + 1;
                (distance, 5 + (instruction >> 5 & 3), instruction & 3)
            }
        };
        output.copy(distance, length)?;
        output.literals(&mut input, after)?;
        before = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: [u8; 3] = [0x11, 0, 0];

    fn decoded(stream: &[u8]) -> Option<Vec<u8>> {
        let mut output = [0; 4096];
        decode(&[stream, &END].concat(), &mut output).map(|length| output[..length].to_vec())
    }

    #[test]
    fn literals_and_matches_of_each_kind() {
        // 4 literals; 3 bytes from 2 before; 1 literal.
        assert_eq!(decoded(b"\x15abcd\x45\0X").unwrap(), b"abcdcdcX");
        // 33 + 2 bytes from 1 before.
        assert_eq!(
            decoded(b"\x15abcd\x20\x02\0\0").unwrap(),
            [b"abcd".as_slice(), &[b'd'; 35]].concat()
        );
        // After 1 literal, 2 bytes from 1 + 2 before; then 4 literals.
        assert_eq!(
            decoded(b"\x15abcd\x45\0X\x08\0\x01efgh").unwrap(),
            b"abcdcdcXdcefgh"
        );
        // A run of 18 + 1 literals.
        let long: Vec<u8> = (0..19).collect();
        assert_eq!(decoded(&[&[0, 1], &long[..]].concat()).unwrap(), long);
    }

    #[test]
    fn streams_that_reach_outside_are_refused() {
        assert_eq!(decoded(b"\x15abcd\x20\x02\xff\xff"), None, "before the start");
        assert_eq!(decoded(b"\x15abc"), None, "past the end of the stream");
        assert_eq!(
            decoded(&[b"\x15abcd\x20".as_slice(), &[0; 20], b"\x01\0\0"].concat()),
            None,
            "too long"
        );
        assert_eq!(decode(b"\x15abcd", &mut [0; 64]), None, "no end");
        assert_eq!(decode(&[], &mut [0; 64]), None);
    }
}
