//! From a configuration to memory, devices and vCPUs with the guest loaded.

use crate::addr::GuestPhysAddr;
use crate::devices::{Platform, PlatformConfig};
use crate::engine::bus::Bus;
use crate::engine::cpuid::{CpuModel, MODELS};
use crate::engine::hyperv::HyperV;
use crate::engine::vcpu::Vcpu;
use crate::load::{self, LoadContext, LoadError, NtBoot, OutOfRange};
use crate::memory::GuestMemory;
use crate::{Ticks, VcpuId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// TSC ticks in a guest second.
pub const TSC_HZ: u64 = 1_000_000_000;
/// 2024-01-01T00:00:00Z: what the RTC shows at virtual time zero, so that every run is alike.
const RTC_EPOCH_SECONDS: u64 = 1_704_067_200;
const MIN_MEMORY: u64 = 1 << 20;
const MAX_MEMORY: u64 = 64 << 30;
/// vCPUs at most.
pub const MAX_VCPUS: u32 = 8;
// A bit each in a byte of a frame's marks.
const _: () = assert!(MAX_VCPUS <= 8);

/// What a machine is made of.
#[derive(Clone, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Bytes of RAM.
    pub memory_bytes: u64,
    /// 1 to 8.
    pub vcpus: u32,
    /// Seeds everything random that the guest can see.
    pub seed: u64,
    /// A name of [`crate::engine::cpuid::MODELS`]; empty for the default.
    pub cpu_model: String,
    /// The port of an `isa-debug-exit` device.
    pub debug_exit: Option<u16>,
    /// What runs in it.
    pub guest: GuestImage,
}

/// A guest to boot.
#[derive(Clone, Serialize, Deserialize)]
pub enum GuestImage {
    /// A bzImage, an ELF vmlinux, or a multiboot ELF kernel, told apart by its content.
    Linux {
        /// The kernel file.
        kernel: Arc<[u8]>,
        /// The initial RAM disk, or the multiboot module.
        initrd: Option<Arc<[u8]>>,
        /// The kernel's command line.
        command_line: String,
    },
    /// An NT-shaped kernel with its HAL and drivers.
    Nt(NtBoot),
}

/// Why a machine can't be made.
#[derive(thiserror::Error, Debug)]
pub enum CreateError {
    /// The memory size.
    #[error("{0} bytes of memory; give 1 MiB to 64 GiB")]
    Memory(u64),
    /// The number of vCPUs.
    #[error("{0} vCPUs; give 1 to {MAX_VCPUS}")]
    Vcpus(u32),
    /// The CPU model.
    #[error("no CPU model '{name}'; there are: {known}")]
    CpuModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The guest image.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The fixed facts of a machine.
pub(super) struct Shell {
    pub(super) vcpus: u32,
    pub(super) tsc_hz: u64,
}

/// Checks a configuration and makes its vCPUs in their reset state.
pub(super) fn shell(config: &MachineConfig) -> Result<(Shell, Vec<Vcpu>), CreateError> {
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&config.memory_bytes) {
        return Err(CreateError::Memory(config.memory_bytes));
    }
    if !(1..=MAX_VCPUS).contains(&config.vcpus) {
        return Err(CreateError::Vcpus(config.vcpus));
    }
    let Some(model) = CpuModel::by_name(&config.cpu_model) else {
        let known: Vec<_> = MODELS.iter().map(|m| m.name).collect();
        return Err(CreateError::CpuModel {
            name: config.cpu_model.clone(),
            known: known.join(", "),
        });
    };
    let model = Arc::new(model.clone());
    let vcpus = (0..config.vcpus)
        .map(|n| Vcpu::new(VcpuId(n), model.clone(), config.seed))
        .collect();
    Ok((
        Shell {
            vcpus: config.vcpus,
            tsc_hz: TSC_HZ,
        },
        vcpus,
    ))
}

/// What a machine's devices are made of.
pub(super) fn platform_config(config: &MachineConfig) -> PlatformConfig {
    PlatformConfig {
        vcpus: config.vcpus,
        tsc_hz: TSC_HZ,
        debug_exit: config.debug_exit,
        rtc_epoch_seconds: RTC_EPOCH_SECONDS,
        acpi: true,
    }
}

/// Builds the parts of a machine.
pub(super) fn build(config: &MachineConfig) -> Result<(Bus, Vec<Vcpu>), CreateError> {
    let (shell, mut vcpus) = shell(config)?;
    let platform = Platform::new(&platform_config(config));
    let mut memory = GuestMemory::new(config.memory_bytes);
    place_firmware(&mut memory, &platform);
    let mut write = |address: GuestPhysAddr, bytes: &[u8]| -> Result<(), OutOfRange> {
        if memory.write(address, bytes, false).0 == bytes.len() {
            Ok(())
        } else {
            Err(OutOfRange {
                address,
                length: bytes.len(),
            })
        }
    };
    let mut context = LoadContext {
        memory_bytes: config.memory_bytes,
        write: &mut write,
        rsdp: Some(platform.rsdp_address()),
        random_seed: *blake3::hash(&config.seed.to_le_bytes()).as_bytes(),
        unpack: false,
    };
    let entry = match &config.guest {
        GuestImage::Linux {
            kernel,
            initrd,
            command_line,
        } => {
            context.unpack = load::may_unpack(command_line);
            load::load(kernel, initrd.as_deref(), command_line, &mut context)?
        }
        GuestImage::Nt(boot) => load::load_nt(boot, config.vcpus, &mut context)?,
    };
    vcpus[0].load_registers(&entry);
    let mut bus = Bus::new(memory, platform, shell.vcpus, shell.tsc_hz);
    bus.hyperv = HyperV::of(&vcpus[0].model);
    bus.platform.advance(Ticks(0));
    Ok((bus, vcpus))
}

/// ACPI tables, and at the reset vector a few instructions that reset the machine: a guest that leaves through
/// F000:FFF0, as Linux does without another way to reboot, starts anew.
fn place_firmware(memory: &mut GuestMemory, platform: &Platform) {
    for (address, bytes) in platform.acpi_tables() {
        memory.write(address, &bytes, true);
    }
    // mov dx, 0cf9h; mov al, 6; out dx, al; hlt
    memory.write(
        GuestPhysAddr(0xf_fff0),
        &[0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4],
        true,
    );
}
