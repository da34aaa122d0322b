//! Reading KDDEBUGGER_DATA64, whatever state it is in.

use super::encoding::Key;
use super::layout::{HEADER, KERN_BASE, OWNER_TAG, PAGE_SIZE, SIZE, TAG, is_size, u32_at, u64_at};
use super::version::{may_be_encoded, search_data};
use super::{DebuggerData, Encoding, compose};
use crate::windows::Windows;
use crate::windows::error::Error;
use crate::windows::facts::KernelImage;
use crate::windows::field::Global;
use crate::windows::guest::Guest;
use crate::windows::space::Space;
use hv_core::GuestVirtAddr;
use symbols::pe::Headers;

const WHAT: &str = "KDDEBUGGER_DATA64";

/// A block that was read, and how.
pub(crate) struct Read {
    pub(crate) address: GuestVirtAddr,
    pub(crate) encoding: Encoding,
    pub(crate) bytes: Vec<u8>,
}

/// What is known of the block's surroundings.
pub(crate) struct Surroundings<'a, 'g> {
    pub(crate) space: &'a Space<'g>,
    pub(crate) image: &'a KernelImage,
    /// KdpDebuggerDataListHead.
    pub(crate) list_head: Option<GuestVirtAddr>,
    /// PsLoadedModuleList.
    pub(crate) module_list: Option<GuestVirtAddr>,
    /// KiWaitNever, KiWaitAlways, KdpDataBlockEncoded.
    pub(crate) keys: Option<[GuestVirtAddr; 3]>,
}

impl Windows {
    /// The debugger data block, decoded. Ask again after each stop: a bugcheck decodes the guest's own copy.
    ///
    /// # Errors
    /// [`Error::NoDebuggerData`] if the guest has none and nothing is known of which one could be composed.
    pub fn debugger_data(&self, guest: Guest<'_>) -> Result<DebuggerData, Error> {
        let space = self.space(guest)?;
        let around = self.surroundings(&space);
        let list_head = around.list_head;
        let flink = around.first_on_list();
        let symbol = self
            .find_global(Global::KdDebuggerDataBlock)
            .map(|(address, _)| address);
        let mut why = "nothing says where it is".to_owned();
        for address in [flink, symbol].into_iter().flatten() {
            match around.read(address) {
                Ok(read) => {
                    return Ok(DebuggerData {
                        list_head,
                        list_head_readable: flink == Some(read.address),
                        address: read.address,
                        encoding: read.encoding,
                        bytes: read.bytes,
                    });
                }
                Err(error) => why = error,
            }
        }
        let address = symbol.or(flink).ok_or(Error::NoDebuggerData(why.clone()))?;
        let bytes = compose::compose(self, &space, list_head)
            .map_err(|unknown| Error::NoDebuggerData(format!("{why}; none can be composed: {unknown}")))?;
        Ok(DebuggerData {
            list_head,
            list_head_readable: flink == Some(address),
            address,
            encoding: Encoding::Composed,
            bytes,
        })
    }

    pub(crate) fn surroundings<'a, 'g>(&'a self, space: &'a Space<'g>) -> Surroundings<'a, 'g> {
        let known = |global| self.find_global(global).map(|(address, _)| address);
        let keys = || {
            Some([
                known(Global::KiWaitNever)?,
                known(Global::KiWaitAlways)?,
                known(Global::KdpDataBlockEncoded)?,
            ])
        };
        Surroundings {
            space,
            image: &self.image,
            list_head: known(Global::KdpDebuggerDataListHead),
            module_list: known(Global::PsLoadedModuleList),
            keys: keys(),
        }
    }
}

impl Surroundings<'_, '_> {
    /// The first block on KdpDebuggerDataListHead.
    pub(crate) fn first_on_list(&self) -> Option<GuestVirtAddr> {
        let head = self.list_head?;
        let first = self.space.pointer("KdpDebuggerDataListHead", head).ok()?;
        (first != head && self.space.is_kernel(first)).then_some(first)
    }

    /// The block at an address.
    pub(crate) fn read(&self, address: GuestVirtAddr) -> Result<Read, String> {
        let mut header = [0; HEADER];
        self.space
            .bytes(WHAT, address, &mut header)
            .map_err(|error| error.to_string())?;
        if self.is_header(&header) {
            return self.rest(address, &header, Encoding::Plain, |_| {});
        }
        if !may_be_encoded(self.space.arch) {
            return Err(format!("no {WHAT} at {address}"));
        }
        if let Some(key) = self.kernels_key() {
            let mut decoded = header;
            key.decode_block(&mut decoded);
            if self.is_header(&decoded) {
                return self.rest(address, &decoded, Encoding::DecodedWithKeys, |block| {
                    key.decode_block(block)
                });
            }
        }
        match self.key_by_trial(&header) {
            Some(key) => {
                let mut decoded = header;
                key.decode_block(&mut decoded);
                self.rest(address, &decoded, Encoding::DecodedByTrial, |block| {
                    key.decode_block(block)
                })
            }
            None => Err(format!(
                "what is at {address} is no {WHAT}, and can't be decoded to one"
            )),
        }
    }

    /// The key by the kernel's own variables.
    fn kernels_key(&self) -> Option<Key> {
        let [never, always, flag] = self.keys?;
        let never = self.space.u64("KiWaitNever", never).ok()?;
        let always = self.space.u64("KiWaitAlways", always).ok()?;
        Some(Key::of_kernel(never, always, flag.0))
    }

    /// The key under which the fourth word is the kernel's base and the rest makes sense.
    fn key_by_trial(&self, header: &[u8; HEADER]) -> Option<Key> {
        let encoded = u64_at(header, KERN_BASE)?;
        Key::by_known_word(encoded, self.image.base.0).find(|key| {
            let mut decoded = *header;
            key.decode_block(&mut decoded);
            self.is_header(&decoded)
        })
    }

    /// Whether plain bytes are this kernel's block's header.
    fn is_header(&self, header: &[u8]) -> bool {
        let pointer = |at| u64_at(header, at).map(|value| self.space.arch.address(value));
        // A block alone on its list: the normal case, and a strong one for a trial.
        let links_agree = self
            .list_head
            .is_none_or(|head| pointer(0) == Some(head) || pointer(8) == Some(head));
        u32_at(header, OWNER_TAG) == Some(TAG)
            && u32_at(header, SIZE).is_some_and(|size| is_size(size as usize))
            && pointer(KERN_BASE) == Some(self.image.base)
            && links_agree
    }

    /// Reads and decodes the whole block, as long as its header says, and checks it.
    fn rest(
        &self,
        address: GuestVirtAddr,
        header: &[u8],
        encoding: Encoding,
        decode: impl Fn(&mut [u8]),
    ) -> Result<Read, String> {
        let size = u32_at(header, SIZE).unwrap_or_default() as usize;
        let mut bytes = vec![0; size];
        self.space
            .bytes(WHAT, address, &mut bytes)
            .map_err(|error| error.to_string())?;
        decode(&mut bytes);
        let list = u64_at(&bytes, 0x48).map(|value| self.space.arch.address(value));
        if self.module_list.is_some() && self.module_list != list {
            return Err(format!(
                "the {WHAT} at {address} names another PsLoadedModuleList"
            ));
        }
        if u64_at(&bytes, PAGE_SIZE) != Some(0x1000) {
            return Err(format!("the {WHAT} at {address} has another MmPageSize"));
        }
        Ok(Read {
            address,
            encoding,
            bytes,
        })
    }

    /// Looks for the block in the kernel's data, plain or encoded.
    pub(crate) fn search(&self, headers: &Headers) -> Option<Read> {
        search_data(self.space, self.image, headers, |data, start| {
            let starts = (0..data.len().saturating_sub(HEADER)).step_by(8);
            starts.into_iter().find_map(|at| {
                let header: &[u8; HEADER] = data.get(at..at + HEADER)?.try_into().ok()?;
                let plain = u32_at(header, OWNER_TAG) == Some(TAG);
                // Alone on its list, both of its links are the same, encoded or not.
                let links_equal = header[..8] == header[8..16] && header[..8] != [0; 8];
                let maybe_encoded = links_equal && may_be_encoded(self.space.arch);
                if !plain && !maybe_encoded {
                    return None;
                }
                self.read(start.wrapping_add(at as u64)).ok()
            })
        })
    }
}
