//! Lines out of a byte stream, with a bound on their length. No I/O: bytes go in, lines come out.

/// Collects bytes until a line is whole.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// How much of `bytes` was searched for a line's end already.
    searched: usize,
    limit: usize,
}

/// A line was longer than the bound; nothing more can be read from this stream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {limit} bytes")]
pub struct LineTooLong {
    /// The bound.
    pub limit: usize,
}

impl LineBuffer {
    /// Empty, for lines of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        LineBuffer {
            bytes: Vec::new(),
            searched: 0,
            limit,
        }
    }

    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether it holds as much as a line may have: nothing more need be read before a line is taken.
    pub fn is_full(&self) -> bool {
        self.bytes.len() > self.limit
    }

    /// The next whole line, without its end; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`LineTooLong`].
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        let end = self.bytes[self.searched..].iter().position(|b| *b == b'\n');
        let length = end.map_or(self.bytes.len(), |at| self.searched + at);
        if length > self.limit {
            return Err(LineTooLong { limit: self.limit });
        }
        if end.is_none() {
            self.searched = length;
            return Ok(None);
        }
        let rest = self.bytes.split_off(length + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        self.searched = 0;
        line.pop();
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_however_the_bytes_came_in() {
        let mut buffer = LineBuffer::new(8);
        buffer.push(b"ab");
        assert_eq!(buffer.next_line(), Ok(None));
        buffer.push(b"c\nde\n\nf");
        assert_eq!(buffer.next_line(), Ok(Some(b"abc".to_vec())));
        assert_eq!(buffer.next_line(), Ok(Some(b"de".to_vec())));
        assert_eq!(buffer.next_line(), Ok(Some(vec![])));
        assert_eq!(buffer.next_line(), Ok(None));
    }

    #[test]
    fn a_line_without_an_end_is_bounded() {
        let mut buffer = LineBuffer::new(4);
        buffer.push(b"1234");
        assert_eq!(buffer.next_line(), Ok(None));
        buffer.push(b"5");
        assert_eq!(buffer.next_line(), Err(LineTooLong { limit: 4 }));
    }
}
