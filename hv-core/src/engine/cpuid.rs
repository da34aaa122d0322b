//! CPU models as rows of a table: what CPUID answers (SDM vol. 2, CPUID). A feature is listed only if it works in
//! full; an instruction of a feature that a model lacks raises #UD.

/// Feature bits, named by leaf and register.
#[allow(missing_docs)]
pub mod feature {
    // CPUID.1:EDX
    pub const FPU: u32 = 1 << 0;
    pub const VME: u32 = 1 << 1;
    pub const DE: u32 = 1 << 2;
    pub const PSE: u32 = 1 << 3;
    pub const TSC: u32 = 1 << 4;
    pub const MSR: u32 = 1 << 5;
    pub const PAE: u32 = 1 << 6;
    pub const CX8: u32 = 1 << 8;
    pub const APIC: u32 = 1 << 9;
    pub const SEP: u32 = 1 << 11;
    pub const MTRR: u32 = 1 << 12;
    pub const PGE: u32 = 1 << 13;
    pub const CMOV: u32 = 1 << 15;
    pub const PAT: u32 = 1 << 16;
    pub const PSE36: u32 = 1 << 17;
    pub const CLFSH: u32 = 1 << 19;
    pub const MMX: u32 = 1 << 23;
    pub const FXSR: u32 = 1 << 24;
    pub const SSE: u32 = 1 << 25;
    pub const SSE2: u32 = 1 << 26;
    pub const HTT: u32 = 1 << 28;
    // CPUID.1:ECX
    pub const SSE3: u32 = 1 << 0;
    pub const PCLMULQDQ: u32 = 1 << 1;
    pub const SSSE3: u32 = 1 << 9;
    pub const CX16: u32 = 1 << 13;
    pub const PCID: u32 = 1 << 17;
    pub const SSE41: u32 = 1 << 19;
    pub const SSE42: u32 = 1 << 20;
    pub const X2APIC: u32 = 1 << 21;
    pub const MOVBE: u32 = 1 << 22;
    pub const POPCNT: u32 = 1 << 23;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const AES: u32 = 1 << 25;
    pub const XSAVE: u32 = 1 << 26;
    pub const OSXSAVE: u32 = 1 << 27;
    pub const RDRAND: u32 = 1 << 30;
    pub const HYPERVISOR: u32 = 1 << 31;
    // CPUID.7.0:EBX
    pub const FSGSBASE: u32 = 1 << 0;
    pub const BMI1: u32 = 1 << 3;
    pub const SMEP: u32 = 1 << 7;
    pub const BMI2: u32 = 1 << 8;
    pub const ERMS: u32 = 1 << 9;
    pub const INVPCID: u32 = 1 << 10;
    pub const RDSEED: u32 = 1 << 18;
    pub const ADX: u32 = 1 << 19;
    pub const SMAP: u32 = 1 << 20;
    pub const CLFLUSHOPT: u32 = 1 << 23;
    // CPUID.7.0:ECX
    pub const UMIP: u32 = 1 << 2;
    pub const RDPID: u32 = 1 << 22;
    // CPUID.7.0:EDX
    pub const ARCH_CAPABILITIES: u32 = 1 << 29;
    // CPUID.0x80000001:EDX
    pub const SYSCALL: u32 = 1 << 11;
    pub const NX: u32 = 1 << 20;
    pub const PAGE1GB: u32 = 1 << 26;
    pub const RDTSCP: u32 = 1 << 27;
    pub const LM: u32 = 1 << 29;
    // CPUID.0x80000001:ECX
    pub const LAHF: u32 = 1 << 0;
    pub const LZCNT: u32 = 1 << 5;
    pub const PREFETCHW: u32 = 1 << 8;
    // CPUID.0xD.1:EAX
    pub const XSAVEOPT: u32 = 1 << 0;
    pub const XSAVEC: u32 = 1 << 1;
    pub const XGETBV1: u32 = 1 << 2;
    pub const XSAVES: u32 = 1 << 3;
}
use super::hyperv;
use feature as f;

/// IA32_ARCH_CAPABILITIES: RDCL_NO, IBRS_ALL clear, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO,
/// SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, GDS_NO, RFDS_NO: an interpreter has none of these leaks.
const ARCH_CAPABILITIES: u64 =
    1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 7 << 13 | 1 << 20 | 1 << 26 | 1 << 27;

/// A CPU model: a row of [`MODELS`].
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct CpuModel {
    pub name: &'static str,
    pub description: &'static str,
    /// CPUID.1:EAX.
    pub signature: u32,
    pub brand: &'static str,
    pub leaf1_edx: u32,
    pub leaf1_ecx: u32,
    pub leaf7_ebx: u32,
    pub leaf7_ecx: u32,
    pub leaf7_edx: u32,
    pub extended_edx: u32,
    pub extended_ecx: u32,
    pub leaf13_1_eax: u32,
    pub arch_capabilities: u64,
    /// Whether there is the Microsoft hypervisor interface.
    pub hyperv: bool,
}

const BASE_EDX: u32 = f::FPU
    | f::DE
    | f::PSE
    | f::TSC
    | f::MSR
    | f::PAE
    | f::CX8
    | f::APIC
    | f::PGE
    | f::CMOV
    | f::PAT
    | f::CLFSH
    | f::MMX
    | f::FXSR
    | f::SSE
    | f::SSE2;

const V2_ECX: u32 = f::SSE3 | f::SSSE3 | f::SSE41 | f::SSE42 | f::POPCNT | f::CX16;

const KDD64: CpuModel = CpuModel {
    name: "kdd64",
    description: "everything the engine has: SSE4.2, AES, BMI, XSAVE, SMEP, SMAP, PCID, x2APIC; needs no mitigations",
    signature: 0x0008_06f8,
    brand: "kdd virtual CPU (kdd64)",
    leaf1_edx: BASE_EDX | f::SEP | f::MTRR | f::PSE36,
    leaf1_ecx: V2_ECX
        | f::PCLMULQDQ
        | f::PCID
        | f::X2APIC
        | f::MOVBE
        | f::TSC_DEADLINE
        | f::AES
        | f::XSAVE
        | f::RDRAND,
    leaf7_ebx: f::FSGSBASE
        | f::BMI1
        | f::SMEP
        | f::BMI2
        | f::ERMS
        | f::INVPCID
        | f::RDSEED
        | f::ADX
        | f::SMAP
        | f::CLFLUSHOPT,
    leaf7_ecx: f::UMIP | f::RDPID,
    leaf7_edx: f::ARCH_CAPABILITIES,
    extended_edx: f::SYSCALL | f::NX | f::PAGE1GB | f::RDTSCP | f::LM,
    extended_ecx: f::LAHF | f::LZCNT | f::PREFETCHW,
    leaf13_1_eax: f::XSAVEOPT | f::XSAVEC | f::XGETBV1 | f::XSAVES,
    arch_capabilities: ARCH_CAPABILITIES,
    hyperv: false,
};

/// Every model; the first is the default.
pub static MODELS: &[CpuModel] = &[
    KDD64,
    CpuModel {
        name: "x86-64-v2",
        description: "the x86-64-v2 level of the psABI: up to SSE4.2, POPCNT and CMPXCHG16B",
        signature: 0x0001_06a5,
        brand: "kdd virtual CPU (x86-64-v2)",
        leaf1_edx: BASE_EDX | f::SEP | f::MTRR,
        leaf1_ecx: V2_ECX,
        leaf7_ebx: 0,
        leaf7_ecx: 0,
        leaf7_edx: f::ARCH_CAPABILITIES,
        extended_edx: f::SYSCALL | f::NX | f::RDTSCP | f::LM,
        extended_ecx: f::LAHF,
        leaf13_1_eax: 0,
        arch_capabilities: ARCH_CAPABILITIES,
        hyperv: false,
    },
    CpuModel {
        name: "minimal",
        description: "the least that a 64-bit Linux takes, as an early Core 2 that needs page-table isolation",
        signature: 0x0000_06f1,
        brand: "kdd virtual CPU (minimal)",
        leaf1_edx: BASE_EDX,
        leaf1_ecx: 0,
        leaf7_ebx: 0,
        leaf7_ecx: 0,
        leaf7_edx: 0,
        extended_edx: f::SYSCALL | f::NX | f::LM,
        extended_ecx: 0,
        leaf13_1_eax: 0,
        arch_capabilities: 0,
        hyperv: false,
    },
    CpuModel {
        name: "kdd64-hv",
        description: "kdd64 under the Microsoft hypervisor interface, by which a guest reports its crashes",
        brand: "kdd virtual CPU (kdd64-hv)",
        leaf1_ecx: KDD64.leaf1_ecx | f::HYPERVISOR,
        hyperv: true,
        ..KDD64
    },
];

/// The four registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
}

/// What CPUID's answers depend on besides the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) apic_id: u32,
    pub(crate) vcpus: u32,
    pub(crate) osxsave: bool,
    pub(crate) apic_enabled: bool,
    pub(crate) tsc_hz: u64,
}

/// Bytes of the XSAVE area with x87 and SSE state: legacy region and header.
pub(crate) const XSAVE_SIZE: u32 = 576;

impl CpuModel {
    /// The model of this name; an empty name is the default.
    pub fn by_name(name: &str) -> Option<&'static CpuModel> {
        if name.is_empty() {
            MODELS.first()
        } else {
            MODELS.iter().find(|m| m.name == name)
        }
    }

    pub(crate) fn has_bmi1(&self) -> bool {
        self.leaf7_ebx & f::BMI1 != 0
    }
    pub(crate) fn has_lzcnt(&self) -> bool {
        self.extended_ecx & f::LZCNT != 0
    }
    pub(crate) fn has_gigabyte_pages(&self) -> bool {
        self.extended_edx & f::PAGE1GB != 0
    }
    pub(crate) fn has_xsave(&self) -> bool {
        self.leaf1_ecx & f::XSAVE != 0
    }

    fn max_leaf(&self) -> u32 {
        0x16
    }

    pub(crate) fn cpuid(&self, leaf: u32, subleaf: u32, context: &Context) -> Leaf {
        let leaf = match leaf {
            hyperv::FIRST_LEAF..=hyperv::LAST_LEAF if self.hyperv => {
                return hyperv::cpuid(leaf, context.vcpus);
            }
            0x8000_0000..=0x8000_0008 => leaf,
            // SDM: out of range answers as the highest basic leaf.
            _ if leaf > self.max_leaf() => self.max_leaf(),
            _ => leaf,
        };
        match leaf {
            0 => Leaf {
                eax: self.max_leaf(),
                ebx: 0x756e_6547,
                ecx: 0x6c65_746e,
                edx: 0x4965_6e69,
            },
            1 => Leaf {
                eax: self.signature,
                ebx: context.apic_id << 24 | context.vcpus << 16 | 8 << 8,
                ecx: self.leaf1_ecx | if context.osxsave { f::OSXSAVE } else { 0 },
                edx: (self.leaf1_edx & !if context.apic_enabled { 0 } else { f::APIC })
                    | if context.vcpus > 1 { f::HTT } else { 0 },
            },
            2 => Leaf {
                eax: 0x01,
                ebx: 0,
                ecx: 0,
                edx: 0,
            },
            4 => match subleaf {
                0 => cache_leaf(1, 1, 32 << 10, 8, 1, context.vcpus),
                1 => cache_leaf(2, 1, 32 << 10, 8, 1, context.vcpus),
                2 => cache_leaf(3, 2, 256 << 10, 8, 1, context.vcpus),
                3 => cache_leaf(3, 3, 8 << 20, 16, context.vcpus, context.vcpus),
                _ => Leaf::default(),
            },
            7 if subleaf == 0 => Leaf {
                eax: 0,
                ebx: self.leaf7_ebx,
                ecx: self.leaf7_ecx,
                edx: self.leaf7_edx,
            },
            0xb => {
                let shift = context.vcpus.next_power_of_two().trailing_zeros();
                match subleaf {
                    0 => Leaf {
                        eax: 0,
                        ebx: 1,
                        ecx: 1 << 8,
                        edx: context.apic_id,
                    },
                    1 => Leaf {
                        eax: shift,
                        ebx: context.vcpus,
                        ecx: 2 << 8 | 1,
                        edx: context.apic_id,
                    },
                    _ => Leaf {
                        eax: 0,
                        ebx: 0,
                        ecx: subleaf,
                        edx: context.apic_id,
                    },
                }
            }
            0xd if self.has_xsave() => match subleaf {
                0 => Leaf {
                    eax: 3,
                    ebx: XSAVE_SIZE,
                    ecx: XSAVE_SIZE,
                    edx: 0,
                },
                1 => Leaf {
                    eax: self.leaf13_1_eax,
                    ebx: if self.leaf13_1_eax & f::XSAVEC != 0 {
                        XSAVE_SIZE
                    } else {
                        0
                    },
                    ecx: 0,
                    edx: 0,
                },
                _ => Leaf::default(),
            },
            // TSC and crystal run at the same rate, so that the APIC timer does too.
            0x15 => Leaf {
                eax: 1,
                ebx: 1,
                ecx: context.tsc_hz as u32,
                edx: 0,
            },
            0x16 => {
                let mhz = (context.tsc_hz / 1_000_000) as u32;
                Leaf {
                    eax: mhz,
                    ebx: mhz,
                    ecx: 100,
                    edx: 0,
                }
            }
            0x8000_0000 => Leaf {
                eax: 0x8000_0008,
                ..Leaf::default()
            },
            0x8000_0001 => Leaf {
                eax: 0,
                ebx: 0,
                ecx: self.extended_ecx,
                edx: self.extended_edx,
            },
            0x8000_0002..=0x8000_0004 => {
                let mut text = [0u8; 48];
                let brand = self.brand.as_bytes();
                text[..brand.len().min(47)].copy_from_slice(&brand[..brand.len().min(47)]);
                let at = (leaf - 0x8000_0002) as usize * 16;
                let word = |k: usize| {
                    u32::from_le_bytes([text[at + k], text[at + k + 1], text[at + k + 2], text[at + k + 3]])
                };
                Leaf {
                    eax: word(0),
                    ebx: word(4),
                    ecx: word(8),
                    edx: word(12),
                }
            }
            0x8000_0006 => Leaf {
                ecx: 256 << 16 | 6 << 12 | 64,
                ..Leaf::default()
            },
            // Invariant TSC.
            0x8000_0007 => Leaf {
                edx: 1 << 8,
                ..Leaf::default()
            },
            0x8000_0008 => Leaf {
                eax: 48 << 8 | super::mmu::PHYSICAL_BITS,
                ..Leaf::default()
            },
            _ => Leaf::default(),
        }
    }
}

/// Leaf 4: deterministic cache parameters.
fn cache_leaf(kind: u32, level: u32, size: u32, ways: u32, shared_by: u32, cores: u32) -> Leaf {
    let line = 64;
    Leaf {
        eax: kind
            | level << 5
            | 1 << 8
            | (shared_by.next_power_of_two() - 1) << 14
            | (cores.next_power_of_two() - 1) << 26,
        ebx: (ways - 1) << 22 | (line - 1),
        ecx: size / (ways * line) - 1,
        edx: 0,
    }
}

/// Control register 4 bits that a model lets the guest set.
pub(crate) fn allowed_cr4(model: &CpuModel) -> u64 {
    use crate::regs::cr4;
    let mut bits = cr4::TSD | cr4::PAE | cr4::MCE | cr4::PCE;
    let mut allow = |present: u32, bit: u64| {
        if present != 0 {
            bits |= bit;
        }
    };
    allow(model.leaf1_edx & f::VME, cr4::VME | cr4::PVI);
    allow(model.leaf1_edx & f::DE, cr4::DE);
    allow(model.leaf1_edx & f::PSE, cr4::PSE);
    allow(model.leaf1_edx & f::PGE, cr4::PGE);
    allow(model.leaf1_edx & f::FXSR, cr4::OSFXSR);
    allow(model.leaf1_edx & f::SSE, cr4::OSXMMEXCPT);
    allow(model.leaf1_ecx & f::PCID, cr4::PCIDE);
    allow(model.leaf1_ecx & f::XSAVE, cr4::OSXSAVE);
    allow(model.leaf7_ebx & f::FSGSBASE, cr4::FSGSBASE);
    allow(model.leaf7_ebx & f::SMEP, cr4::SMEP);
    allow(model.leaf7_ebx & f::SMAP, cr4::SMAP);
    allow(model.leaf7_ecx & f::UMIP, cr4::UMIP);
    bits
}
