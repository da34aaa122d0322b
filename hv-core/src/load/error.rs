//! Why an image can't be loaded, said so that the user knows what to do.

use crate::addr::GuestPhysAddr;

/// Guest memory that was to be written isn't there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no guest memory for {length} bytes at {address}")]
pub struct OutOfRange {
    /// The first byte of the write.
    pub address: GuestPhysAddr,
    /// Its length.
    pub length: usize,
}

/// Why an image can't be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// An empty file.
    #[error("the kernel file is empty")]
    Empty,
    /// Neither Linux nor multiboot.
    #[error("not a kernel: {found}; give a Linux bzImage (vmlinuz), an ELF vmlinux, or a multiboot kernel")]
    NotAKernel {
        /// What the file looks like.
        found: &'static str,
    },
    /// A kernel, but for another machine.
    #[error("wrong architecture: {found}; this is an x86-64 machine")]
    WrongArchitecture {
        /// What the file is for.
        found: String,
    },
    /// An ELF file that nobody can boot.
    #[error("this ELF file can't be booted: {why}")]
    NotBootable {
        /// What it is instead, and what to do.
        why: &'static str,
    },
    /// The file ends too early.
    #[error(
        "the kernel file is truncated: {what} needs {needed} bytes, the file has {length}; fetch it again"
    )]
    Truncated {
        /// The part that is cut.
        what: &'static str,
        /// How long the file would have to be.
        needed: u64,
        /// How long it is.
        length: u64,
    },
    /// Header fields contradict each other or the machine.
    #[error("the kernel's headers are damaged: {why}")]
    BadHeader {
        /// Which field holds what.
        why: String,
    },
    /// A bzImage from before the 64-bit boot protocol.
    #[error(
        "boot protocol {major}.{minor:02} is too old: entering a bzImage in 64-bit mode needs 2.12 (Linux 3.8); use \
         a newer kernel, or its ELF vmlinux"
    )]
    ProtocolTooOld {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// A bzImage without a 64-bit entry.
    #[error("this bzImage has no 64-bit entry point: it is a 32-bit Linux kernel; use one built for x86-64")]
    No64BitEntry,
    /// A multiboot kernel asks for what isn't there.
    #[error(
        "the multiboot header asks for what this loader can't give: flags {flags:#010x}, unknown {unknown:#010x}"
    )]
    MultibootFlags {
        /// The header's flags.
        flags: u32,
        /// Those that must be understood and aren't.
        unknown: u32,
    },
    /// A packed kernel that doesn't unpack.
    #[error("the kernel's {method} payload can't be unpacked: {why}; the file is damaged: fetch it again")]
    Unpack {
        /// The compression.
        method: &'static str,
        /// What the decompressor says.
        why: String,
    },
    /// The kernel needs more memory than the guest has.
    #[error("too little memory: this kernel needs at least {} MiB, the guest has {} MiB", mib(.needed), .memory >> 20)]
    TooLittleMemory {
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        memory: u64,
    },
    /// The initrd doesn't fit beside the kernel.
    #[error(
        "the initrd of {initrd} bytes doesn't fit: with this kernel it needs at least {} MiB of memory, the guest has \
         {} MiB",
        mib(.needed),
        .memory >> 20
    )]
    InitrdDoesNotFit {
        /// Its size in bytes.
        initrd: u64,
        /// Bytes of memory needed.
        needed: u64,
        /// Bytes there.
        memory: u64,
    },
    /// The initrd doesn't fit below the address that the kernel can reach, with any amount of memory.
    #[error(
        "the initrd of {initrd} bytes is too large: this kernel takes it only below {limit}, and itself ends at {kernel_end}"
    )]
    InitrdTooLarge {
        /// Its size in bytes.
        initrd: u64,
        /// The first address that it may not reach.
        limit: GuestPhysAddr,
        /// Where the kernel ends.
        kernel_end: GuestPhysAddr,
    },
    /// The command line is longer than the kernel takes.
    #[error("the command line has {length} bytes, this kernel takes at most {limit}")]
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// The command line contains a NUL byte.
    #[error("the command line has a NUL byte at offset {at}; the kernel would see only what is before it")]
    CommandLineHasNul {
        /// Its place.
        at: usize,
    },
    /// A PE image of an NT-shaped guest that can't be used.
    #[error("{name} can't be loaded: {why}")]
    NtImage {
        /// The file.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A write to guest memory failed.
    #[error(transparent)]
    Memory(#[from] OutOfRange),
}

fn mib(bytes: &u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// The error for a file that is no kernel, with what its first bytes say it is.
pub(super) fn not_a_kernel(file: &[u8]) -> LoadError {
    let at = |offset: usize, magic: &[u8]| file.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let foreign = |found: &str| LoadError::WrongArchitecture {
        found: found.to_string(),
    };
    // The magic numbers that Linux's own image headers carry for loaders like this one.
    if at(0x38, b"ARM\x64") {
        return foreign("an arm64 Linux Image");
    }
    if at(0x38, b"RSC\x05") {
        return foreign("a RISC-V Linux Image");
    }
    if at(0x24, &[0x18, 0x28, 0x6f, 0x01]) {
        return foreign("a 32-bit ARM Linux zImage");
    }
    let found = if at(0, &[0x1f, 0x8b]) {
        "a gzip file: unpack it first (gzip -d)"
    } else if at(0, &[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        "an xz file: unpack it first (xz -d)"
    } else if at(0, &[0x28, 0xb5, 0x2f, 0xfd]) {
        "a zstd file: unpack it first (zstd -d)"
    } else if at(0, b"070701") || at(0, b"070702") {
        "a cpio archive: this looks like an initrd"
    } else if at(0, b"!<arch>\n") {
        "an ar archive: if it is a Debian package, unpack it first (dpkg-deb -x)"
    } else if at(0, b"PAGEDU") || at(0, b"MDMP") {
        "a Windows dump file"
    } else if at(0, b"MZ") {
        "a Windows or EFI program without a Linux boot header"
    } else if at(0, &[0x27, 0x05, 0x19, 0x56]) {
        "a U-Boot image"
    } else if at(0x1fe, &[0x55, 0xaa]) {
        "a boot sector or disk image"
    } else if file.len() < 0x210 {
        "the file is too short to be one"
    } else {
        "nothing that is known here"
    };
    LoadError::NotAKernel { found }
}
