//! A dump as a domain: hv-core's reading traits over an [`Image`]. It never runs, and nothing in it can be changed.

use crate::image::{Absent, Description, Image};
use crate::pages::{PAGE_SIZE, Page, Pfn};
use crate::registers;
use hv_core::engine::msr::number as msr;
use hv_core::introspect::{
    DomainState, Error, Introspect, KernelHint, MemoryRegion, ReadMemory, ReadRegisters, Result,
};
use hv_core::regs::{Registers, seg};
use hv_core::{DomId, GuestPhysAddr, Ticks, VcpuId};
use std::sync::{Mutex, PoisonError};

/// Pages that are kept: page walks read the same tables again and again, eight bytes at a time.
const CACHED_PAGES: usize = 256;

/// A page that is kept, if there is one.
type Slot = Option<(Pfn, Box<Page>)>;

/// A dump that debuggers can look at.
pub struct DumpDomain {
    id: DomId,
    name: String,
    image: Box<dyn Image>,
    processors: Vec<Registers>,
    hint: Option<KernelHint>,
    /// A place for each page number modulo its length.
    cache: Mutex<Vec<Slot>>,
}

impl DumpDomain {
    /// The image as a domain of this id and name. If the file has no processors, a kernel is looked for in its memory,
    /// which takes a while for a large one; the domain has one vCPU then, or none if there is no kernel.
    pub fn new(id: DomId, name: String, image: Box<dyn Image>) -> DumpDomain {
        let description = image.description();
        let hint = description.root.zip(description.kernel);
        let mut domain = DumpDomain {
            id,
            name,
            processors: image.processors().to_vec(),
            hint: hint.map(|(root, address)| KernelHint { root, address }),
            image,
            cache: Mutex::new((0..CACHED_PAGES).map(|_| None).collect()),
        };
        if domain.processors.is_empty()
            && let Some((registers, hint)) = registers::of_memory(&domain)
        {
            domain.processors.push(registers);
            domain.hint = Some(hint);
        }
        domain
    }

    /// What the file says of itself.
    pub fn description(&self) -> &Description {
        self.image.description()
    }

    /// Copies a part of one page.
    fn read_part(&self, pfn: Pfn, offset: usize, out: &mut [u8]) -> std::result::Result<(), Absent> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut cache[pfn.0 as usize % CACHED_PAGES];
        if !matches!(slot, Some((cached, _)) if *cached == pfn) {
            let mut page = match slot.take() {
                Some((_, page)) => page,
                None => Box::new([0; PAGE_SIZE]),
            };
            self.image.read_page(pfn, &mut page)?;
            *slot = Some((pfn, page));
        }
        if let Some((_, page)) = slot {
            out.copy_from_slice(&page[offset..offset + out.len()]);
        }
        Ok(())
    }
}

impl ReadMemory for DumpDomain {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        let wanted = buffer.len();
        let mut done = 0;
        while done < wanted {
            let missing = |at: GuestPhysAddr| Error::NoMemory {
                domain: self.id,
                address: at,
                done,
                wanted,
            };
            let at = address
                .checked_add(done as u64)
                .ok_or_else(|| missing(GuestPhysAddr(u64::MAX)))?;
            let (pfn, offset) = (Pfn::of(at), at.page_offset());
            let length = (PAGE_SIZE - offset).min(wanted - done);
            let part = &mut buffer[done..done + length];
            // Whole pages go past the cache: a scan of all memory would only empty it.
            let read = match <&mut Page>::try_from(&mut *part) {
                Ok(page) => self.image.read_page(pfn, page),
                Err(_) => self.read_part(pfn, offset, part),
            };
            if let Err(why) = read {
                if let Absent::Broken(error) = &why {
                    tracing::warn!(domain = self.name, page = %pfn, %error, "a page of the dump can't be read");
                }
                return Err(missing(at));
            }
            done += length;
        }
        Ok(())
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        let region = |range: &crate::PageRange| MemoryRegion {
            start: range.first.address(),
            length: range.count * PAGE_SIZE as u64,
            writable: true,
        };
        self.image.ram().iter().map(region).collect()
    }
}

impl ReadRegisters for DumpDomain {
    fn vcpu_count(&self) -> u32 {
        u32::try_from(self.processors.len()).unwrap_or(u32::MAX)
    }

    fn registers(&self, vcpu: VcpuId) -> Result<Registers> {
        let found = self.processors.get(vcpu.index());
        found.cloned().ok_or_else(|| Error::NoVcpu {
            domain: self.id,
            vcpu,
            count: self.vcpu_count(),
        })
    }

    fn read_msr(&self, vcpu: VcpuId, number: u32) -> Result<Option<u64>> {
        let registers = self.registers(vcpu)?;
        let msrs = &registers.msrs;
        Ok(Some(match number {
            msr::IA32_EFER => registers.efer,
            msr::IA32_APIC_BASE => registers.apic_base,
            msr::IA32_STAR => msrs.star,
            msr::IA32_LSTAR => msrs.lstar,
            msr::IA32_CSTAR => msrs.cstar,
            msr::IA32_FMASK => msrs.sfmask,
            msr::IA32_FS_BASE => registers.segments[seg::FS].base,
            msr::IA32_GS_BASE => registers.segments[seg::GS].base,
            msr::IA32_KERNEL_GS_BASE => msrs.kernel_gs_base,
            msr::IA32_SYSENTER_CS => msrs.sysenter_cs,
            msr::IA32_SYSENTER_ESP => msrs.sysenter_esp,
            msr::IA32_SYSENTER_EIP => msrs.sysenter_eip,
            _ => return Ok(None),
        }))
    }

    fn kernel_hint(&self) -> Option<KernelHint> {
        self.hint
    }
}

impl Introspect for DumpDomain {
    fn id(&self) -> DomId {
        self.id
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    /// Paused for good.
    fn state(&self) -> DomainState {
        DomainState::Paused(1)
    }

    fn uptime(&self) -> Ticks {
        let uptime = self.image.description().uptime.unwrap_or_default();
        Ticks::from_nanoseconds_ceil(u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Format;
    use crate::pages::PageRange;

    /// Two pages at 0x1000, of which the second is left out.
    struct Half(Description, Vec<PageRange>);

    impl Image for Half {
        fn description(&self) -> &Description {
            &self.0
        }

        fn ram(&self) -> &[PageRange] {
            &self.1
        }

        fn read_page(&self, pfn: Pfn, page: &mut Page) -> std::result::Result<(), Absent> {
            match pfn.0 {
                1 => page.fill(0x11),
                2 => return Err(Absent::LeftOut),
                _ => return Err(Absent::NoMemory),
            }
            Ok(())
        }

        fn processors(&self) -> &[Registers] {
            &[]
        }
    }

    fn domain() -> DumpDomain {
        let ram = vec![PageRange {
            first: Pfn(1),
            count: 2,
        }];
        let image = Half(Description::new(Format::Raw), ram);
        DumpDomain::new(DomId(7), "half".into(), Box::new(image))
    }

    #[test]
    fn a_read_goes_as_far_as_the_file_has_pages_and_says_where_it_ends() {
        let mut buffer = [0; 0x1800];
        let error = domain()
            .read_physical(GuestPhysAddr(0x1800), &mut buffer)
            .unwrap_err();
        let expected = Error::NoMemory {
            domain: DomId(7),
            address: GuestPhysAddr(0x2000),
            done: 0x800,
            wanted: 0x1800,
        };
        assert_eq!(error, expected);
        assert!(buffer[..0x800].iter().all(|byte| *byte == 0x11));
    }

    #[test]
    fn the_end_of_the_address_space_is_an_error() {
        assert!(
            domain()
                .read_physical(GuestPhysAddr(u64::MAX), &mut [0; 16])
                .is_err()
        );
    }

    #[test]
    fn it_can_only_be_read() {
        let domain = domain();
        assert_eq!(domain.state(), DomainState::Paused(1));
        assert!(domain.write_memory().is_none() && domain.control_run().is_none());
        assert!(domain.registers(VcpuId(0)).is_err());
    }
}
