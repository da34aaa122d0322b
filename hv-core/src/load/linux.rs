//! Linux by the 64-bit boot protocol: a bzImage through its own decompressor, or a vmlinux entered directly.
//!
//! Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol".

use super::boot_params::{BootParams, SetupHeader};
use super::{LoadContext, LoadError, elf, layout, unpack};
use crate::regs::{Registers, cr0, cr4, efer, gpr};

/// Where the protected-mode part of a bzImage goes; its 64-bit entry is 0x200 bytes into it.
const BZIMAGE_ADDRESS: u64 = layout::HIGH_MEMORY;
const ENTRY_64: u64 = 0x200;
/// The first boot protocol with `xloadflags`.
const VERSION_64: u16 = 0x20c;
const XLF_KERNEL_64: u16 = 1;

/// Loads a bzImage.
pub(super) fn load_bzimage(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    command_line: &str,
    ctx: &mut LoadContext<'_>,
) -> Result<Registers, LoadError> {
    let params = BootParams::from_bzimage(kernel)?;
    let header = params.header();
    check_header(header)?;
    let code = protected_mode_part(kernel, header)?;
    let needed = memory_needed(header)?.max(BZIMAGE_ADDRESS + code.len() as u64);
    layout::check_room(ctx.memory_bytes, needed)?;

    if ctx.unpack {
        // What unpacks to more than `init_size` could not run by itself either.
        let limit = header.init_size.get() as usize;
        if let Some(vmlinux) = unpack::unpack(payload(code, header)?, limit)? {
            elf::check_linux(&vmlinux)?;
            return enter_elf(&vmlinux, params, needed, initrd, command_line, ctx);
        }
    }
    layout::write(ctx, BZIMAGE_ADDRESS, code)?;
    finish(
        BZIMAGE_ADDRESS + ENTRY_64,
        params,
        needed,
        initrd,
        command_line,
        ctx,
    )
}

/// Loads an ELF kernel.
pub(super) fn load_vmlinux(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    command_line: &str,
    ctx: &mut LoadContext<'_>,
) -> Result<Registers, LoadError> {
    enter_elf(kernel, BootParams::for_vmlinux(), 0, initrd, command_line, ctx)
}

/// Places the segments of a vmlinux; `needed` is the end of what the kernel uses, if that is more.
fn enter_elf(
    vmlinux: &[u8],
    params: BootParams,
    needed: u64,
    initrd: Option<&[u8]>,
    command_line: &str,
    ctx: &mut LoadContext<'_>,
) -> Result<Registers, LoadError> {
    let elf = elf::parse(vmlinux)?;
    let entry = elf.physical_entry()?;
    let end = elf.check_placement(layout::HIGH_MEMORY)?.max(needed);
    layout::check_room(ctx.memory_bytes, end)?;
    for segment in &elf.segments {
        layout::write(ctx, segment.paddr, segment.data)?;
    }
    finish(entry, params, end, initrd, command_line, ctx)
}

/// Places the initrd, writes what the entry state refers to, and makes that state.
fn finish(
    entry: u64,
    mut params: BootParams,
    kernel_end: u64,
    initrd: Option<&[u8]>,
    command_line: &str,
    ctx: &mut LoadContext<'_>,
) -> Result<Registers, LoadError> {
    if let Some(initrd) = initrd.filter(|initrd| !initrd.is_empty()) {
        let limit = u64::from(params.header().initrd_addr_max.get()) + 1;
        let length = initrd.len() as u64;
        let start = layout::place_initrd(ctx.memory_bytes, kernel_end, limit, length)?;
        layout::write(ctx, start, initrd)?;
        params.set_initrd(start, length);
    }
    let boot_params = params.write(command_line, ctx)?;

    let mut registers = layout::flat_protected_mode(ctx, true)?;
    registers.cr3 = layout::identity_map(ctx)?;
    registers.cr4 = cr4::PAE;
    registers.efer = efer::LME | efer::LMA;
    registers.cr0 |= cr0::PG;
    registers.rip = entry;
    registers.gpr[gpr::RSI] = boot_params;
    Ok(registers)
}

/// Fails unless the kernel can be entered in 64-bit mode.
fn check_header(header: &SetupHeader) -> Result<(), LoadError> {
    let version = header.version.get();
    if version < VERSION_64 {
        return Err(LoadError::ProtocolTooOld {
            major: (version >> 8) as u8,
            minor: version as u8,
        });
    }
    if header.xloadflags.get() & XLF_KERNEL_64 == 0 {
        return Err(LoadError::No64BitEntry);
    }
    Ok(())
}

/// What follows the real-mode part of the file.
fn protected_mode_part<'a>(kernel: &'a [u8], header: &SetupHeader) -> Result<&'a [u8], LoadError> {
    // "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let start = (sectors + 1) * 512;
    let size = u64::from(header.syssize.get()) * 16;
    if size <= ENTRY_64 {
        return Err(LoadError::BadHeader {
            why: format!("the protected-mode part is said to have {size} bytes"),
        });
    }
    // The size is rounded up to 16 bytes; the file need not be.
    let there = (kernel.len() as u64).saturating_sub(start);
    let size = if there + 15 >= size { size.min(there) } else { size };
    elf::slice(kernel, start, size, "the protected-mode part")
}

/// The end of the memory that the kernel uses before it knows the memory map.
fn memory_needed(header: &SetupHeader) -> Result<u64, LoadError> {
    let bad = |why| Err(LoadError::BadHeader { why });
    let (alignment, preferred) = (header.kernel_alignment.get(), header.pref_address.get());
    if header.relocatable_kernel != 0 && !alignment.is_power_of_two() {
        return bad(format!("a kernel alignment of {alignment:#x}"));
    }
    if header.init_size.get() == 0 {
        return bad("init_size is 0".to_string());
    }
    // The decompressor goes to the load address rounded up, but never below the preferred one.
    let start = if header.relocatable_kernel != 0 {
        BZIMAGE_ADDRESS
            .next_multiple_of(u64::from(alignment))
            .max(preferred)
    } else {
        preferred
    };
    match start.checked_add(u64::from(header.init_size.get())) {
        Some(end) => Ok(end),
        None => bad(format!("a preferred address of {preferred:#x}")),
    }
}

/// The compressed kernel in the protected-mode part.
fn payload<'a>(code: &'a [u8], header: &SetupHeader) -> Result<&'a [u8], LoadError> {
    let (offset, length) = (header.payload_offset.get(), header.payload_length.get());
    elf::slice(code, offset.into(), length.into(), "the compressed kernel")
}
