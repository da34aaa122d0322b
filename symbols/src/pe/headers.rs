//! The headers of an image: what its first page says.

use super::{PeError, u16_at, u32_at, u64_at};

/// Bytes in which all headers of an image must lie.
const FIRST_PAGE: usize = 0x1000;
/// The largest image, in bytes.
const MAX_IMAGE: u32 = 1 << 30;
/// The most sections an image may have (PE Format: the loader's limit).
const MAX_SECTIONS: u16 = 96;

/// What is used of an image's headers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Headers {
    /// IMAGE_FILE_HEADER.Machine.
    pub machine: u16,
    /// TimeDateStamp; a hash in reproducible builds.
    pub time_date_stamp: u32,
    /// PE32+ (magic 0x20b) and not PE32 (0x10b).
    pub is_64_bit: bool,
    /// AddressOfEntryPoint.
    pub entry_point: u32,
    /// The preferred base.
    pub image_base: u64,
    /// MajorOperatingSystemVersion, MinorOperatingSystemVersion.
    pub os_version: (u16, u16),
    /// SizeOfImage.
    pub size_of_image: u32,
    /// SizeOfHeaders.
    pub size_of_headers: u32,
    /// CheckSum.
    pub check_sum: u32,
    /// Subsystem; 1 is native.
    pub subsystem: u16,
    /// Data directories that are there, in order.
    pub directories: Vec<DataDirectory>,
    /// Sections.
    pub sections: Vec<Section>,
}

/// A data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DataDirectory {
    /// Where.
    pub rva: u32,
    /// How long, in bytes.
    pub size: u32,
}

/// A section's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// Its name, NUL-padded.
    pub name: [u8; 8],
    /// VirtualSize.
    pub virtual_size: u32,
    /// VirtualAddress.
    pub rva: u32,
    /// Characteristics.
    pub characteristics: u32,
}

impl Section {
    /// IMAGE_SCN_MEM_DISCARDABLE.
    const DISCARDABLE: u32 = 0x0200_0000;
    /// IMAGE_SCN_MEM_EXECUTE.
    const EXECUTE: u32 = 0x2000_0000;
    /// IMAGE_SCN_MEM_WRITE.
    const WRITE: u32 = 0x8000_0000;

    /// Writable data that stays in memory.
    pub fn is_data(&self) -> bool {
        self.characteristics & Self::WRITE != 0
            && self.characteristics & (Self::DISCARDABLE | Self::EXECUTE) == 0
    }

    /// Code.
    pub fn is_code(&self) -> bool {
        self.characteristics & Self::EXECUTE != 0
    }

    /// The name without its padding.
    pub fn name(&self) -> &[u8] {
        let end = self.name.iter().position(|&byte| byte == 0).unwrap_or(8);
        &self.name[..end]
    }

    /// Whether an RVA lies in it.
    pub fn contains(&self, rva: u32) -> bool {
        rva >= self.rva && rva - self.rva < self.virtual_size
    }
}

impl Headers {
    /// Data directory 0: exports.
    pub const EXPORT: usize = 0;
    /// Data directory 3: RUNTIME_FUNCTIONs on x64.
    pub const EXCEPTION: usize = 3;
    /// Data directory 6: debug entries.
    pub const DEBUG: usize = 6;

    /// From the image's first bytes, at most a page of them.
    ///
    /// # Errors
    /// [`PeError`] if they are no image's headers.
    pub fn parse(page: &[u8]) -> Result<Headers, PeError> {
        let page = &page[..page.len().min(FIRST_PAGE)];
        let short = PeError::Implausible("header size");
        if page.get(..2) != Some(b"MZ") {
            return Err(PeError::NotMz);
        }
        let nt = u32_at(page, 0x3c).ok_or(short)?;
        let nt_offset = nt as usize;
        if !(0x40..=FIRST_PAGE - 0x108).contains(&nt_offset) || !nt_offset.is_multiple_of(4) {
            return Err(PeError::FarHeaders(nt));
        }
        let nt = page.get(nt_offset..).ok_or(PeError::FarHeaders(nt))?;
        if nt.get(..4) != Some(b"PE\0\0") {
            return Err(PeError::NotPe);
        }
        let section_count = u16_at(nt, 6).ok_or(short)?;
        let optional_size = usize::from(u16_at(nt, 0x14).ok_or(short)?);
        let optional = nt.get(0x18..).ok_or(short)?;
        let magic = u16_at(optional, 0).ok_or(short)?;
        let is_64_bit = match magic {
            0x20b => true,
            0x10b => false,
            other => return Err(PeError::Magic(other)),
        };
        let size_of_image = u32_at(optional, 0x38).ok_or(short)?;
        if !(0x1000..=MAX_IMAGE).contains(&size_of_image) {
            return Err(PeError::Implausible("SizeOfImage"));
        }
        if section_count == 0 || section_count > MAX_SECTIONS {
            return Err(PeError::Implausible("number of sections"));
        }
        let count_at = if is_64_bit { 0x6c } else { 0x5c };
        let directory_count = u32_at(optional, count_at).ok_or(short)?.min(16) as usize;
        if optional_size < count_at + 4 + directory_count * 8 {
            return Err(PeError::Implausible("SizeOfOptionalHeader"));
        }
        let directories = (0..directory_count)
            .map_while(|index| {
                let at = count_at + 4 + index * 8;
                Some(DataDirectory {
                    rva: u32_at(optional, at)?,
                    size: u32_at(optional, at + 4)?,
                })
            })
            .collect();
        // Sections that reach beyond the first page are left out.
        let sections = (0..usize::from(section_count))
            .map_while(|index| {
                let header = optional.get(optional_size + index * 40..)?;
                Some(Section {
                    name: header.get(..8)?.try_into().ok()?,
                    virtual_size: u32_at(header, 8)?,
                    rva: u32_at(header, 12)?,
                    characteristics: u32_at(header, 36)?,
                })
            })
            .filter(|section| {
                section
                    .rva
                    .checked_add(section.virtual_size)
                    .is_some_and(|end| end <= size_of_image)
            })
            .collect();
        Ok(Headers {
            machine: u16_at(nt, 4).ok_or(short)?,
            time_date_stamp: u32_at(nt, 8).ok_or(short)?,
            is_64_bit,
            entry_point: u32_at(optional, 0x10).ok_or(short)?,
            image_base: if is_64_bit {
                u64_at(optional, 0x18).ok_or(short)?
            } else {
                u64::from(u32_at(optional, 0x1c).ok_or(short)?)
            },
            os_version: (
                u16_at(optional, 0x28).ok_or(short)?,
                u16_at(optional, 0x2a).ok_or(short)?,
            ),
            size_of_image,
            size_of_headers: u32_at(optional, 0x3c).ok_or(short)?,
            check_sum: u32_at(optional, 0x40).ok_or(short)?,
            subsystem: u16_at(optional, 0x44).ok_or(short)?,
            directories,
            sections,
        })
    }

    /// A data directory, if it is there, not empty, and inside the image.
    pub fn directory(&self, index: usize) -> Option<DataDirectory> {
        let directory = *self.directories.get(index)?;
        let end = directory.rva.checked_add(directory.size)?;
        (directory.rva != 0 && directory.size != 0 && end <= self.size_of_image).then_some(directory)
    }

    /// The section that an RVA lies in.
    pub fn section_of(&self, rva: u32) -> Option<&Section> {
        self.sections.iter().find(|section| section.contains(rva))
    }
}
