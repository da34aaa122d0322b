//! The compressed kernel in a bzImage: the methods that Linux's build offers, told apart by their magic numbers.
//!
//! Linux, arch/x86/boot/compressed/Makefile: the build appends the unpacked size, in 32 bits, to each payload.

use super::LoadError;
use std::io::Read;

const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// The most that one block of an LZ4 legacy frame unpacks to.
const LZ4_BLOCK: usize = 8 << 20;
/// The largest window that Linux's build uses with zstd and xz.
const WINDOW: u64 = 128 << 20;
const SIZE_LENGTH: usize = 4;

/// Unpacks a payload to at most `limit` bytes. `None` for a method that isn't known here (bzip2, lzma, lzo): the
/// guest's own decompressor does those.
pub(super) fn unpack(payload: &[u8], limit: usize) -> Result<Option<Vec<u8>>, LoadError> {
    let (packed, _size) = payload.split_at(payload.len().saturating_sub(SIZE_LENGTH));
    let unpacked = if packed.starts_with(&LZ4_LEGACY_MAGIC) {
        lz4_legacy(packed, limit).map_err(|why| failed("LZ4", why))?
    } else if packed.starts_with(&[0x1f, 0x8b]) {
        // gzip keeps the size itself: nothing was appended.
        read_all(flate2::read::GzDecoder::new(payload), limit).map_err(|why| failed("gzip", why))?
    } else if packed.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        zstd(packed, limit).map_err(|why| failed("zstd", why))?
    } else if packed.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        // The limit is in KiB and includes the decoder's own tables.
        let limit_kib = (WINDOW >> 10) as u32 + 1024;
        let reader = lzma_rust2::XzReader::new_mem_limit(packed, false, limit_kib);
        read_all(reader, limit).map_err(|why| failed("xz", why))?
    } else {
        return Ok(None);
    };
    Ok(Some(unpacked))
}

fn failed(method: &'static str, why: String) -> LoadError {
    LoadError::Unpack { method, why }
}

fn too_large(limit: usize) -> String {
    format!("it unpacks to more than the {limit} bytes that its header allows")
}

fn read_all(reader: impl Read, limit: usize) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    reader
        .take(limit as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| error.to_string())?;
    if unpacked.len() > limit {
        return Err(too_large(limit));
    }
    Ok(unpacked)
}

fn zstd(packed: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let reader = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, WINDOW)
        .map_err(|error| error.to_string())?;
    read_all(reader, limit)
}

/// The legacy frame: the magic, then blocks of a 32-bit size and as many bytes, each packed by itself.
fn lz4_legacy(packed: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    let mut block_buffer = vec![0; LZ4_BLOCK.min(limit)];
    let mut rest = packed.get(LZ4_LEGACY_MAGIC.len()..).unwrap_or_default();
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        if *size == LZ4_LEGACY_MAGIC {
            rest = after; // Frames may follow one another.
            continue;
        }
        let size = u32::from_le_bytes(*size) as usize;
        let (block, after) = after
            .split_at_checked(size)
            .ok_or_else(|| format!("a block of {size} bytes passes its end"))?;
        let length = lz4_flex::block::decompress_into(block, &mut block_buffer).map_err(|e| e.to_string())?;
        if unpacked.len() + length > limit {
            return Err(too_large(limit));
        }
        unpacked.extend_from_slice(&block_buffer[..length]);
        rest = after;
    }
    Ok(unpacked)
}
