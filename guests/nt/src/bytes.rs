//! Little-endian numbers in byte slices, checked.

/// `count` bytes at `offset`.
pub(crate) fn slice(bytes: &[u8], offset: usize, count: usize) -> Option<&[u8]> {
    bytes.get(offset..offset.checked_add(count)?)
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    slice(bytes, offset, 2)?.try_into().ok().map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    slice(bytes, offset, 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// Overwrites bytes at `offset`.
pub(crate) fn put(bytes: &mut [u8], offset: usize, new: &[u8]) -> Option<()> {
    bytes
        .get_mut(offset..offset.checked_add(new.len())?)?
        .copy_from_slice(new);
    Some(())
}

/// The text in front of the first NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// A usize from the 32-bit numbers of files.
pub(crate) fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
