//! The linker's PDB: read and changed in place (the multi-stream file format and the streams as LLVM documents them).

use crate::bytes::{index, put, slice, text, u16_at, u32_at};
use crate::pe;
use crate::place::Plan;
use std::collections::BTreeMap;

const MAGIC: &[u8; 32] = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0";
const INFO_STREAM: usize = 1;
const DBI_STREAM: usize = 3;
const S_PUB32: u16 = 0x110e;
const NO_STREAM: u16 = 0xffff;

/// A PDB in memory.
pub(crate) struct Msf {
    bytes: Vec<u8>,
    block: usize,
    /// Length and blocks of each stream.
    streams: Vec<(usize, Vec<usize>)>,
}

impl Msf {
    /// Reads the directory of a PDB.
    pub fn new(bytes: Vec<u8>) -> Option<Msf> {
        (bytes.get(..32)? == MAGIC).then_some(())?;
        let block = index(u32_at(&bytes, 32)?);
        (512..=0x1_0000).contains(&block).then_some(())?;
        let length = index(u32_at(&bytes, 44)?);
        let map = index(u32_at(&bytes, 52)?).checked_mul(block)?;
        let mut msf = Msf {
            bytes,
            block,
            streams: Vec::new(),
        };
        let blocks: Option<Vec<usize>> = (0..length.div_ceil(block))
            .map(|at| u32_at(&msf.bytes, map + at * 4).map(index))
            .collect();
        let directory = msf.gather(length, &blocks?)?;
        let count = index(u32_at(&directory, 0)?);
        let mut at = 4 + count.checked_mul(4)?;
        for number in 0..count {
            let size = u32_at(&directory, 4 + number * 4)?;
            let size = if size == u32::MAX { 0 } else { index(size) };
            let blocks: Option<Vec<usize>> = (0..size.div_ceil(block))
                .map(|entry| u32_at(&directory, at + entry * 4).map(index))
                .collect();
            at += size.div_ceil(block) * 4;
            msf.streams.push((size, blocks?));
        }
        Some(msf)
    }

    fn gather(&self, length: usize, blocks: &[usize]) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        for &block in blocks {
            all.extend_from_slice(slice(&self.bytes, block.checked_mul(self.block)?, self.block)?);
        }
        all.truncate(length);
        (all.len() == length).then_some(all)
    }

    /// The bytes of a stream.
    pub fn stream(&self, number: usize) -> Option<Vec<u8>> {
        let (length, blocks) = self.streams.get(number)?;
        self.gather(*length, blocks)
    }

    /// Replaces the bytes of a stream by as many others.
    fn replace(&mut self, number: usize, new: &[u8]) -> Option<()> {
        let (length, blocks) = self.streams.get(number)?.clone();
        (new.len() == length).then_some(())?;
        for (block, part) in blocks.into_iter().zip(new.chunks(self.block)) {
            put(&mut self.bytes, block.checked_mul(self.block)?, part)?;
        }
        Some(())
    }

    /// The whole file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Sets the GUID and the age, also the age that debuggers compare with the image's.
    pub fn set_identity(&mut self, guid: [u8; 16], age: u32) -> Option<()> {
        let mut info = self.stream(INFO_STREAM)?;
        put(&mut info, 8, &age.to_le_bytes())?;
        put(&mut info, 12, &guid)?;
        self.replace(INFO_STREAM, &info)?;
        let mut dbi = self.stream(DBI_STREAM)?;
        put(&mut dbi, 8, &age.to_le_bytes())?;
        self.replace(DBI_STREAM, &dbi)
    }

    /// GUID and age.
    pub fn identity(&self) -> Option<([u8; 16], u32)> {
        let (info, dbi) = (self.stream(INFO_STREAM)?, self.stream(DBI_STREAM)?);
        Some((slice(&info, 12, 16)?.try_into().ok()?, u32_at(&dbi, 8)?))
    }

    /// Gives the sections the names that they have in the image, wherever the PDB has them.
    pub fn name_sections(&mut self, plan: &Plan) -> Option<()> {
        let headers = usize::from(self.section_header_stream()?);
        let mut stream = self.stream(headers)?;
        for header in stream.chunks_exact_mut(40) {
            pe::section_header(header, Some(plan))?;
        }
        self.replace(headers, &stream)?;
        // Symbol records of the linker's module.
        for number in 0..self.streams.len() {
            let mut stream = self.stream(number)?;
            let mut changed = false;
            let mut at = 0;
            while let Some(found) = stream
                .get(at..)
                .and_then(|rest| rest.windows(5).position(|part| part == b"kdd_s"))
            {
                at += found;
                let name = text(stream.get(at..(at + 8).min(stream.len()))?);
                if let Some(section) = plan.sections.iter().find(|section| section.link_name == name) {
                    let mut new = [0; 8];
                    put(&mut new, 0, section.name.as_bytes())?;
                    put(&mut stream, at, &new)?;
                    changed = true;
                }
                at += 5;
            }
            if changed {
                self.replace(number, &stream)?;
            }
        }
        Some(())
    }

    /// The stream with the copy of the image's section headers: the sixth of the optional debug streams, which lie at
    /// the DBI stream's end.
    fn section_header_stream(&self) -> Option<u16> {
        let dbi = self.stream(DBI_STREAM)?;
        let mut at = 64usize;
        for field in [24, 28, 32, 36, 40, 52] {
            at = at.checked_add(index(u32_at(&dbi, field)?))?;
        }
        u16_at(&dbi, at + 5 * 2).filter(|&stream| stream != NO_STREAM)
    }

    /// The public symbols by name: section number, from 1, and offset.
    pub fn publics(&self) -> Option<BTreeMap<String, (u16, u32)>> {
        let records = usize::from(u16_at(&self.stream(DBI_STREAM)?, 20)?);
        let records = self.stream(records)?;
        let mut found = BTreeMap::new();
        let mut at = 0;
        while let Some(length) = u16_at(&records, at) {
            if u16_at(&records, at + 2) == Some(S_PUB32) {
                let name = text(records.get(at + 14..)?);
                found.insert(name, (u16_at(&records, at + 12)?, u32_at(&records, at + 8)?));
            }
            at += 2 + usize::from(length.max(2));
        }
        Some(found)
    }
}
