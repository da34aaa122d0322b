//! The export directory.

use super::{Headers, PeError, ReadImage, read_name, u16_at, u32_at};

/// The most exports of one image.
const MAX_EXPORTS: u32 = 0x1_0000;
/// The longest name.
const MAX_NAME: usize = 512;

/// An image's exports: looked up one by one, nothing is copied.
pub struct Exports<'a> {
    image: &'a dyn ReadImage,
    size_of_image: u32,
    /// The directory's extent: an export inside it is a forwarder.
    directory: (u32, u32),
    name: u32,
    functions: (u32, u32),
    names: (u32, u32),
    ordinals: u32,
}

/// An export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub rva: u32,
}

impl<'a> Exports<'a> {
    /// The export directory of an image.
    ///
    /// # Errors
    /// [`PeError`] if there is none, or it can't be read (it may be paged out).
    pub fn open(headers: &Headers, image: &'a dyn ReadImage) -> Result<Exports<'a>, PeError> {
        let directory = headers
            .directory(Headers::EXPORT)
            .ok_or(PeError::Implausible("export directory"))?;
        let mut bytes = [0; 0x28];
        if !image.read(directory.rva, &mut bytes) {
            return Err(PeError::Unreadable {
                what: "the export directory",
                rva: directory.rva,
            });
        }
        let field = |offset| u32_at(&bytes, offset).unwrap_or_default();
        let (function_count, name_count) = (field(0x14), field(0x18));
        if function_count > MAX_EXPORTS || name_count > MAX_EXPORTS {
            return Err(PeError::Implausible("number of exports"));
        }
        Ok(Exports {
            image,
            size_of_image: headers.size_of_image,
            directory: (directory.rva, directory.size),
            name: field(0xc),
            functions: (field(0x1c), function_count),
            names: (field(0x20), name_count),
            ordinals: field(0x24),
        })
    }

    /// The image's own name, such as `ntoskrnl.exe`.
    pub fn image_name(&self) -> Option<String> {
        read_name(self.image, self.name, 64)
    }

    /// The RVA of an exported name, by binary search. `None` for a forwarder, or if the answer leaves the image.
    pub fn find(&self, name: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.names.1);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name_at(middle)?.as_str().cmp(name) {
                std::cmp::Ordering::Equal => return self.function_of(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// All named exports that can be read, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = Export> + '_ {
        (0..self.names.1).filter_map(|index| {
            Some(Export {
                name: self.name_at(index)?,
                rva: self.function_of(index)?,
            })
        })
    }

    fn name_at(&self, index: u32) -> Option<String> {
        let name = self.u32(self.names.0.checked_add(index * 4)?)?;
        (name < self.size_of_image).then(|| read_name(self.image, name, MAX_NAME))?
    }

    fn function_of(&self, index: u32) -> Option<u32> {
        let mut bytes = [0; 2];
        if !self.image.read(self.ordinals.checked_add(index * 2)?, &mut bytes) {
            return None;
        }
        let ordinal = u32::from(u16_at(&bytes, 0)?);
        if ordinal >= self.functions.1 {
            return None;
        }
        let rva = self.u32(self.functions.0.checked_add(ordinal * 4)?)?;
        let forwarder = rva >= self.directory.0 && rva - self.directory.0 < self.directory.1;
        (rva != 0 && rva < self.size_of_image && !forwarder).then_some(rva)
    }

    fn u32(&self, rva: u32) -> Option<u32> {
        let mut bytes = [0; 4];
        self.image
            .read(rva, &mut bytes)
            .then(|| u32::from_le_bytes(bytes))
    }
}
