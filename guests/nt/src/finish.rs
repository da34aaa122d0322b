//! What an image and its PDB get after the linker: identity, names of sections, versions, a place in the symbol store.

use crate::NtError;
use crate::builder::{Build, read, write};
use crate::images::ImagePlan;
use crate::manifest::ImageEntry;
use crate::msf::Msf;
use crate::pe::{self, Finish};
use crate::place::{Plan, decorated};

impl Build<'_> {
    /// Writes what the linker can't into image and PDB, checks the symbols' places, and files the PDB.
    pub(crate) fn finish(&self, image: &ImagePlan, plan: Option<&Plan>) -> Result<ImageEntry, NtError> {
        let (image_path, pdb_path) = (self.work.join(&image.file), self.work.join(&image.pdb));
        let bad_pdb = || self.broken(&image.pdb, "isn't the PDB that was expected of the linker");
        let bad_image = || self.broken(&image.file, "isn't the image that was expected of the linker");
        let mut bytes = read(&image_path)?;
        let mut msf = Msf::new(read(&pdb_path)?).ok_or_else(bad_pdb)?;
        let mut identity = None;
        if let Some(plan) = plan {
            let guid =
                guid_bytes(&self.profile.guid()).ok_or_else(|| self.profile.error("the GUID isn't one"))?;
            identity = Some((guid, self.profile.age));
            msf.set_identity(guid, self.profile.age).ok_or_else(bad_pdb)?;
            msf.name_sections(plan).ok_or_else(bad_pdb)?;
            self.check_places(&bytes, &msf)?;
        }
        let number = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let version = (number(self.profile.major()), number(self.profile.minor()));
        pe::finish(
            &mut bytes,
            &Finish {
                plan,
                identity,
                version,
            },
        )
        .ok_or_else(bad_image)?;
        let (guid, age) = pe::identity(&bytes).ok_or_else(bad_image)?;
        if msf.identity() != Some((guid, age)) {
            return Err(bad_pdb());
        }
        write(&image_path, &bytes)?;
        let pdb = msf.into_bytes();
        write(&pdb_path, &pdb)?;
        let digits = guid_digits(&guid);
        let store = self
            .work
            .join("symbols")
            .join(&image.pdb)
            .join(format!("{digits}{age:X}"));
        write(&store.join(&image.pdb), &pdb)?;
        Ok(ImageEntry {
            role: image.role,
            boot: image.is_boot(),
            file: image.file.clone(),
            path: image.path(),
            pdb: image.pdb.clone(),
            guid: digits,
            age,
        })
    }

    /// Whether every symbol that the profile places is where it says.
    fn check_places(&self, image: &[u8], msf: &Msf) -> Result<(), NtError> {
        let sections = pe::sections(image).unwrap_or_default();
        let publics = msf.publics().unwrap_or_default();
        for symbol in &self.symbols {
            let Some(wanted) = symbol.rva else { continue };
            let found =
                publics
                    .get(&decorated(&symbol.name, self.profile.arch))
                    .and_then(|&(section, offset)| {
                        let section = sections.get(usize::from(section).checked_sub(1)?)?;
                        section.rva.checked_add(offset)
                    });
            if found != Some(wanted) {
                let found = found.map_or("nowhere".to_owned(), |rva| format!("at {rva:#x}"));
                return Err(self.profile.error(format!(
                    "{} should be at {wanted:#x}, but is {found}",
                    symbol.name
                )));
            }
        }
        Ok(())
    }
}

/// A GUID's bytes from the digits of a symbol store: its first three numbers are little-endian.
fn guid_bytes(digits: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

fn guid_digits(guid: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    order
        .iter()
        .filter_map(|&at: &usize| guid.get(at))
        .map(|byte| format!("{byte:02X}"))
        .collect()
}
