//! Files that are open or mapped: their paths, and what of them is in the page cache.

use super::Linux;
use super::error::Error;
use super::maple::is_node;
use super::space::{Space, printable};
use hv_core::introspect::ReadMemory;
use hv_core::{GuestPhysAddr, GuestVirtAddr};

/// The most directories and mounts in a path.
const MAX_PATH_PARTS: usize = 256;
/// The most bytes of a path (PATH_MAX).
const MAX_PATH: usize = 4096;
/// NAME_MAX.
const MAX_NAME: usize = 255;
/// XA_CHUNK_SHIFT: a node of an xarray has 64 slots.
const CHUNK_SHIFT: u32 = 6;
/// Levels that cover 64 bits.
const MAX_LEVELS: u32 = 11;
/// The largest `struct page` that is believed.
const MAX_STRUCT_PAGE: u64 = 0x1000;
/// Pages of the largest folio.
const MAX_FOLIO: u64 = 1 << 18;
const PAGE: u64 = 0x1000;

/// An open file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Its `struct file`.
    pub address: GuestVirtAddr,
    /// Its path, from the root of its mounts.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its `struct address_space`.
    pub mapping: GuestVirtAddr,
}

impl Linux {
    /// The file of a `struct file`.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or it can't be read.
    pub fn file(&self, memory: &dyn ReadMemory, address: GuestVirtAddr) -> Result<File, Error> {
        let space = self.space(memory);
        let pointer = |what, at: GuestVirtAddr, offset: u64| space.pointer(what, at.wrapping_add(offset));
        let mapping = pointer("file", address, self.offset("file", "f_mapping")?)?;
        let host = pointer("address space", mapping, self.offset("address_space", "host")?)?;
        let size = space.u64("inode", host.wrapping_add(self.offset("inode", "i_size")?))?;
        let dentry = pointer("file", address, self.offset("file", "f_path.dentry")?)?;
        let mount = pointer("file", address, self.offset("file", "f_path.mnt")?)?;
        Ok(File {
            address,
            path: self.path(&space, mount, dentry)?,
            size: size.min(i64::MAX as u64),
            mapping,
        })
    }

    /// The path of a directory entry under its mount, and on to the root.
    fn path(&self, space: &Space<'_>, mount: GuestVirtAddr, dentry: GuestVirtAddr) -> Result<String, Error> {
        let parent = self.offset("dentry", "d_parent")?;
        let name = self.offset("dentry", "d_name.name")?;
        let mount_root = self.offset("vfsmount", "mnt_root")?;
        let public = self.offset("mount", "mnt")?;
        let mount_parent = self.offset("mount", "mnt_parent")?;
        let mount_point = self.offset("mount", "mnt_mountpoint")?;
        let (mut mount, mut dentry) = (mount, dentry);
        let mut parts = Vec::new();
        let mut length = 0;
        for _ in 0..MAX_PATH_PARTS {
            let up = space.pointer("dentry", dentry.wrapping_add(parent))?;
            let root = space.pointer("mount", mount.wrapping_add(mount_root))?;
            if dentry == root || dentry == up {
                let whole = GuestVirtAddr(mount.0.wrapping_sub(public));
                let above = space.pointer("mount", whole.wrapping_add(mount_parent))?;
                if above == whole || dentry != root {
                    break;
                }
                dentry = space.pointer("mount", whole.wrapping_add(mount_point))?;
                mount = above.wrapping_add(public);
                continue;
            }
            let at = space.pointer("dentry", dentry.wrapping_add(name))?;
            let part = name_at(space, at)?;
            length += part.len() + 1;
            if length > MAX_PATH {
                return Err(Error::Implausible {
                    what: "path",
                    address: dentry,
                    why: format!("it is longer than {MAX_PATH} bytes"),
                });
            }
            parts.push(part);
            dentry = up;
        }
        parts.reverse();
        Ok(format!("/{}", parts.join("/")))
    }

    /// Fills the buffer with a file's bytes from `offset` on, as far as they are in memory; how many they are. 0 is the end of the
    /// file, or a page that isn't in memory: [`File::size`] tells which.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or the page cache can't be read.
    pub fn read_file(
        &self,
        memory: &dyn ReadMemory,
        file: &File,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Error> {
        let cache = PageCache::of(self, self.space(memory), file.mapping)?;
        let left = usize::try_from(file.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let Some(page) = cache.page(at / PAGE)? else {
                break;
            };
            let inside = at % PAGE;
            let size = ((PAGE - inside) as usize).min(wanted - done);
            let place = GuestPhysAddr(page.0.wrapping_add(inside));
            if memory
                .read_physical(place, &mut buffer[done..done + size])
                .is_err()
            {
                break;
            }
            done += size;
        }
        Ok(done)
    }
}

/// A name of a directory entry, which may end right before a page that isn't there.
fn name_at(space: &Space<'_>, at: GuestVirtAddr) -> Result<String, Error> {
    let mut bytes = [0; MAX_NAME + 1];
    let there = (PAGE - at.0 % PAGE) as usize;
    let first = there.min(bytes.len());
    space.bytes("file name", at, &mut bytes[..first])?;
    if memchr::memchr(0, &bytes[..first]).is_none() && first < bytes.len() {
        space.bytes("file name", at.wrapping_add(first as u64), &mut bytes[first..])?;
    }
    let end = memchr::memchr(0, &bytes).unwrap_or(MAX_NAME);
    Ok(printable(&bytes[..end], false))
}

/// The pages of a file: an xarray by their number (include/linux/xarray.h).
struct PageCache<'a> {
    space: Space<'a>,
    head: u64,
    shift: u64,
    slots: u64,
    page_size: u64,
    index: u64,
    vmemmap: GuestVirtAddr,
}

impl<'a> PageCache<'a> {
    fn of(linux: &Linux, space: Space<'a>, mapping: GuestVirtAddr) -> Result<PageCache<'a>, Error> {
        let pages = linux.offset("address_space", "i_pages")?;
        let head = linux.offset("xarray", "xa_head")?;
        let page_size = linux.size("page")?;
        if !(1..=MAX_STRUCT_PAGE).contains(&page_size) {
            return Err(super::Unknown::Size("page").into());
        }
        Ok(PageCache {
            head: space.u64("page cache", mapping.wrapping_add(pages).wrapping_add(head))?,
            shift: linux.offset("xa_node", "shift")?,
            slots: linux.offset("xa_node", "slots")?,
            page_size,
            index: linux
                .offset("folio", "index")
                .or_else(|_| linux.offset("page", "index"))?,
            vmemmap: linux.regions.vmemmap,
            space,
        })
    }

    /// Where a page of the file is in memory.
    fn page(&self, number: u64) -> Result<Option<GuestPhysAddr>, Error> {
        let Some(entry) = self.entry(number)? else {
            return Ok(None);
        };
        let head = GuestVirtAddr(entry);
        let first = self.space.u64("page", head.wrapping_add(self.index))?;
        // A folio of several pages is in the cache once, by its first one.
        let inside = number.wrapping_sub(first);
        let offset = head.0.checked_sub(self.vmemmap.0);
        let (Some(offset), true) = (offset, inside < MAX_FOLIO) else {
            return Ok(None);
        };
        let frame = offset / self.page_size + inside;
        Ok(offset
            .is_multiple_of(self.page_size)
            .then_some(GuestPhysAddr(frame << 12)))
    }

    /// The `struct page` or `folio` that the cache has for a number.
    fn entry(&self, number: u64) -> Result<Option<u64>, Error> {
        let mut entry = self.head;
        let mut bits = u64::BITS;
        for level in 0..MAX_LEVELS {
            if !is_node(entry) {
                let found = entry & 3 == 0 && entry != 0 && (level > 0 || number == 0);
                return Ok(found.then_some(entry));
            }
            let node = GuestVirtAddr(entry & !3);
            if !self.space.is_kernel(node) {
                return Ok(None);
            }
            let mut shift = [0];
            self.space
                .bytes("page cache", node.wrapping_add(self.shift), &mut shift)?;
            let shift = u32::from(shift[0]);
            let slot = number.checked_shr(shift).unwrap_or(0);
            // Each level covers less than the one above.
            if shift >= bits || level == 0 && slot >> CHUNK_SHIFT != 0 {
                return Ok(None);
            }
            bits = shift;
            let read = |slot: u64| {
                let at = node.wrapping_add(self.slots + 8 * (slot & 63));
                self.space.u64("page cache", at)
            };
            entry = read(slot)?;
            if entry & 3 == 2 && entry < 64 << 2 {
                // A sibling: the entry is in that slot.
                entry = read(entry >> 2)?;
            }
        }
        Ok(None)
    }
}
