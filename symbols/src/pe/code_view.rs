//! The CodeView record: which PDB belongs to an image.

use super::{Headers, ReadImage, read_name, u32_at};
use crate::id::{Guid, PdbId};

/// The most debug entries that are looked at.
const MAX_ENTRIES: u32 = 64;
/// IMAGE_DEBUG_TYPE_CODEVIEW.
const CODE_VIEW: u32 = 2;

/// The PDB that an image names. Newer images have several debug entries; all are looked at.
pub fn code_view(headers: &Headers, image: &dyn ReadImage) -> Option<PdbId> {
    let directory = headers.directory(Headers::DEBUG)?;
    (0..(directory.size / 0x1c).min(MAX_ENTRIES)).find_map(|index| {
        let mut entry = [0; 0x1c];
        if !image.read(directory.rva.checked_add(index * 0x1c)?, &mut entry)
            || u32_at(&entry, 0xc)? != CODE_VIEW
        {
            return None;
        }
        record(u32_at(&entry, 0x14)?, headers.size_of_image, image)
    })
}

/// An RSDS record: signature, GUID, age, path.
fn record(rva: u32, size_of_image: u32, image: &dyn ReadImage) -> Option<PdbId> {
    let mut fixed = [0; 0x18];
    if rva == 0 || rva > size_of_image || !image.read(rva, &mut fixed) || &fixed[..4] != b"RSDS" {
        return None;
    }
    let path = read_name(image, rva.checked_add(0x18)?, 260)?;
    Some(PdbId {
        // A path of the machine that built it, or the bare name.
        name: path.rsplit(['\\', '/']).next().unwrap_or_default().to_owned(),
        guid: Guid::from_bytes(fixed[4..20].try_into().ok()?),
        age: u32_at(&fixed, 20)?,
    })
}
