//! What a reader makes of a file: pages, processors, and what the file says of itself.

use crate::pages::{Page, PageRange, Pfn};
use hv_core::regs::Registers;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use std::fmt;
use std::time::Duration;

/// A dump file's kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Format {
    /// Windows, type 1: header and runs.
    WindowsFull,
    /// Windows, type 5: bitmap of all RAM.
    WindowsBitmapFull,
    /// Windows, type 6: bitmap of the kernel's pages.
    WindowsBitmapKernel,
    /// Windows, type 2: a kernel dump from before Windows 8.
    WindowsSummary,
    /// Windows, type 4: a small memory dump, virtual memory only.
    WindowsTriage,
    /// Windows, types 8 to 10: `RDMP`, of newer WinDbg.
    WindowsLive,
    /// ELF vmcore.
    Elf,
    /// kdump-compressed.
    Kdump,
    /// LiME.
    Lime,
    /// Memory as it is, byte 0 at address 0.
    Raw,
}

impl Format {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Format::WindowsFull => "Windows full dump (type 1)",
            Format::WindowsBitmapFull => "Windows full bitmap dump (type 5)",
            Format::WindowsBitmapKernel => "Windows kernel bitmap dump (type 6)",
            Format::WindowsSummary => "Windows kernel dump (type 2)",
            Format::WindowsTriage => "Windows small memory dump (type 4)",
            Format::WindowsLive => "Windows live dump (RDMP)",
            Format::Elf => "ELF vmcore",
            Format::Kdump => "kdump-compressed",
            Format::Lime => "LiME",
            Format::Raw => "raw memory",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a page can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Absent {
    /// The machine had no RAM there.
    #[error("no memory")]
    NoMemory,
    /// There was RAM, but the page isn't in the file.
    #[error("the page is not in the dump")]
    LeftOut,
    /// The file is damaged at this page, or can't be read.
    #[error(transparent)]
    Broken(#[from] crate::Error),
}

/// A dump that was opened. All of its tables were checked; pages are read when they are asked for.
pub trait Image: Send + Sync {
    /// What the file says of itself.
    fn description(&self) -> &Description;
    /// The pages that the machine had as far as the file tells, in rising order, joined. Some may be left out.
    fn ram(&self) -> &[PageRange];
    /// Reads one page.
    ///
    /// # Errors
    /// [`Absent`].
    fn read_page(&self, pfn: Pfn, page: &mut Page) -> Result<(), Absent>;
    /// The vCPUs' registers, as far as the file has them; what it doesn't tell is as after reset, except that the
    /// page-table root, where it is known, is in CR3, and CR0, CR4 and EFER say which paging it is for.
    fn processors(&self) -> &[Registers];
}

/// What a dump says of itself: for `kdd dump-info`, and for what finds the kernel in it.
#[derive(Clone, Debug)]
pub struct Description {
    /// The file's kind.
    pub format: Format,
    /// `x64` or `x86`, where the file tells.
    pub arch: Option<&'static str>,
    /// Operating system, version and build in words.
    pub os: Option<String>,
    /// When it was taken: seconds since 1970.
    pub time: Option<u64>,
    /// How long the machine had run.
    pub uptime: Option<Duration>,
    /// The cause in words: a bugcheck with its name and arguments, a panic's text. `None` for a live system.
    pub crash: Option<String>,
    /// Page-table root of the kernel.
    pub root: Option<GuestPhysAddr>,
    /// An address inside the kernel's image.
    pub kernel: Option<GuestVirtAddr>,
    /// Pages that are in the file.
    pub pages: u64,
    /// Further fields as the format has them, name and value.
    pub fields: Vec<(String, String)>,
    /// What is missing or odd, and who will refuse the file for it.
    pub problems: Vec<Problem>,
}

impl Description {
    /// One that knows only the format.
    pub fn new(format: Format) -> Description {
        Description {
            format,
            arch: None,
            os: None,
            time: None,
            uptime: None,
            crash: None,
            root: None,
            kernel: None,
            pages: 0,
            fields: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// Something that readers may stumble over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What it is.
    pub what: String,
    /// Readers that refuse the file, or read it badly, because of it: `volatility3`, `crash`, …
    pub readers: Vec<&'static str>,
}
