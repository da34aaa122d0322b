//! How single pages are compressed.

use super::lzo;
use crate::pages::{PAGE_SIZE, Page};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use std::io::Read;

/// How the pages of a file are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Compression {
    /// Not at all; zeros still take no space.
    None,
    /// What every reader has.
    #[default]
    Zlib,
    /// Faster, and larger. Debian's makedumpfile can't filter such a file again.
    Snappy,
    /// Faster, and no larger. Needs crash 8.0, and makedumpfile built with it, which Debian's isn't.
    Zstd,
}

/// `DUMP_DH_COMPRESSED_…` in descriptors and in the header's status.
pub(super) const ZLIB: u32 = 1;
pub(super) const LZO: u32 = 2;
pub(super) const SNAPPY: u32 = 4;
pub(super) const ZSTD: u32 = 0x20;
pub(super) const ALL: u32 = ZLIB | LZO | SNAPPY | ZSTD;

/// Speed counts while a guest stands still; level 1 of each takes most of what there is to gain on one page.
const LEVEL: u32 = 1;

impl Compression {
    /// For people and command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Zlib => "zlib",
            Compression::Snappy => "snappy",
            Compression::Zstd => "zstd",
        }
    }

    pub(super) const fn flag(self) -> u32 {
        match self {
            Compression::None => 0,
            Compression::Zlib => ZLIB,
            Compression::Snappy => SNAPPY,
            Compression::Zstd => ZSTD,
        }
    }
}

/// The name of a descriptor's flag.
pub(super) const fn flag_name(flag: u32) -> &'static str {
    match flag & ALL {
        0 => "none",
        ZLIB => "zlib",
        LZO => "lzo",
        SNAPPY => "snappy",
        ZSTD => "zstd",
        _ => "several",
    }
}

/// Compresses pages, one by one. Each thread has its own.
pub(super) enum Encoder {
    None,
    Zlib(Box<Compress>),
    Snappy(Box<snap::raw::Encoder>),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Encoder {
    pub(super) fn new(compression: Compression) -> std::io::Result<Encoder> {
        Ok(match compression {
            Compression::None => Encoder::None,
            Compression::Zlib => {
                Encoder::Zlib(Box::new(Compress::new(flate2::Compression::new(LEVEL), true)))
            }
            Compression::Snappy => Encoder::Snappy(Box::new(snap::raw::Encoder::new())),
            Compression::Zstd => Encoder::Zstd(Box::new(zstd::bulk::Compressor::new(LEVEL.cast_signed())?)),
        })
    }

    /// Compresses into `room`: the length, or `None` where it isn't shorter than the page.
    pub(super) fn encode(&mut self, page: &[u8], room: &mut Room) -> Option<usize> {
        let length = match self {
            Encoder::None => None,
            Encoder::Zlib(zlib) => {
                zlib.reset();
                let end = zlib.compress(page, &mut room[..], FlushCompress::Finish).ok()?;
                (end == Status::StreamEnd).then(|| zlib.total_out() as usize)
            }
            Encoder::Snappy(snappy) => snappy.compress(page, &mut room[..]).ok(),
            Encoder::Zstd(zstd) => zstd.compress_to_buffer(page, &mut room[..]).ok(),
        };
        length.filter(|&length| length < PAGE_SIZE)
    }
}

/// Room for a page that can't be compressed, with what each format adds.
pub(super) type Room = [u8; 2 * PAGE_SIZE];

/// Restores pages.
pub(super) struct Decoder {
    zlib: Decompress,
    snappy: snap::raw::Decoder,
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder {
            zlib: Decompress::new(true),
            snappy: snap::raw::Decoder::new(),
        }
    }

    /// Restores a page.
    ///
    /// # Errors
    /// What is wrong with the bytes, in words.
    pub(super) fn decode(&mut self, flags: u32, bytes: &[u8], page: &mut Page) -> Result<(), String> {
        let length = match flags & ALL {
            0 => {
                if bytes.len() == PAGE_SIZE {
                    page.copy_from_slice(bytes);
                }
                bytes.len()
            }
            ZLIB => {
                self.zlib.reset(true);
                let end = self.zlib.decompress(bytes, page, FlushDecompress::Finish);
                let end = end.map_err(|error| format!("zlib: {error}"))?;
                let whole = end == Status::StreamEnd;
                if whole { self.zlib.total_out() as usize } else { 0 }
            }
            LZO => lzo::decode(bytes, page).ok_or("lzo: the stream is damaged")?,
            SNAPPY => {
                let length = snap::raw::decompress_len(bytes).map_err(|error| format!("snappy: {error}"))?;
                if length != PAGE_SIZE {
                    return Err(format!("snappy: the page has {length} bytes"));
                }
                let done = self.snappy.decompress(bytes, page);
                done.map_err(|error| format!("snappy: {error}"))?
            }
            ZSTD => unzstd(bytes, page)?,
            several => return Err(format!("compressed in an unknown way ({several:#x})")),
        };
        if length != PAGE_SIZE {
            return Err(format!("the page has {length} bytes"));
        }
        Ok(())
    }
}

/// Bytes of strangers are given to a decoder in Rust, not to the C library that compresses.
fn unzstd(bytes: &[u8], page: &mut Page) -> Result<usize, String> {
    let mut stream =
        ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|error| format!("zstd: {error}"))?;
    let mut done = 0;
    while done < PAGE_SIZE {
        match stream.read(&mut page[done..]) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(error) => return Err(format!("zstd: {error}")),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Page {
        std::array::from_fn(|n| b"a page of guest memory, "[n * n % 23])
    }

    #[test]
    fn each_page_comes_back_as_it_was() {
        for compression in [Compression::Zlib, Compression::Snappy, Compression::Zstd] {
            let (mut encoder, mut decoder) = (Encoder::new(compression).unwrap(), Decoder::new());
            let mut room = [0; 2 * PAGE_SIZE];
            for round in 0..3 {
                let mut page = text();
                page[round] = 0xff;
                let length = encoder.encode(&page, &mut room).unwrap();
                let mut back = [0; PAGE_SIZE];
                decoder
                    .decode(compression.flag(), &room[..length], &mut back)
                    .unwrap();
                assert!(back == page, "{}", compression.name());
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_as_it_is() {
        let mut state = 1_u64;
        let noise: Page = std::array::from_fn(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        for compression in [
            Compression::None,
            Compression::Zlib,
            Compression::Snappy,
            Compression::Zstd,
        ] {
            let mut encoder = Encoder::new(compression).unwrap();
            assert_eq!(
                encoder.encode(&noise, &mut [0; 2 * PAGE_SIZE]),
                None,
                "{}",
                compression.name()
            );
        }
    }

    #[test]
    fn streams_that_are_cut_changed_or_too_long_are_errors() {
        for compression in [Compression::Zlib, Compression::Snappy, Compression::Zstd] {
            let (mut encoder, mut decoder) = (Encoder::new(compression).unwrap(), Decoder::new());
            let mut room = [0; 2 * PAGE_SIZE];
            let length = encoder.encode(&text(), &mut room).unwrap();
            let mut page = [0; PAGE_SIZE];
            for cut in 0..length - 5 {
                let cut = decoder.decode(compression.flag(), &room[..cut], &mut page);
                assert!(cut.is_err(), "{}", compression.name());
            }
            for at in 0..length {
                let mut changed = room;
                changed[at] ^= 0x41;
                // Right or wrong, it must end.
                let _ = decoder.decode(compression.flag(), &changed[..length], &mut page);
            }
        }
        assert!(
            Decoder::new()
                .decode(0x40 | ZLIB | LZO, &[0; 8], &mut [0; PAGE_SIZE])
                .is_err()
        );
    }
}
