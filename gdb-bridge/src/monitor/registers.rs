//! `registers`, `msr`, `vcpu`.

use super::value::number;
use crate::guest::Guest;
use crate::registers::{TABLE, View};
use crate::thread::Thread;
use hv_core::addr::VcpuId;
use std::fmt::Write;

pub fn registers(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    let vcpu = match arguments {
        [] => guest.vcpu(),
        [vcpu] => VcpuId(vcpu.parse().map_err(|_| format!("'{vcpu}' is no vCPU number"))?),
        _ => return Err("one vCPU number, or none".into()),
    };
    let view = View::read(guest.domain(), vcpu).map_err(|e| e.to_string())?;
    let mut text = String::new();
    for register in TABLE {
        let mut bytes = Vec::new();
        view.put(register, &mut bytes);
        bytes.resize(16, 0);
        let value = bytes
            .iter()
            .rev()
            .fold(0u128, |value, &byte| value << 8 | u128::from(byte));
        let digits = usize::from(register.bits) / 4;
        let _ = writeln!(text, "{:<14} {value:0digits$x}", register.name);
    }
    Ok(text)
}

pub fn vcpu(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    match arguments {
        [] => {}
        [index] => {
            let vcpu: u32 = index
                .parse()
                .map_err(|_| format!("'{index}' is no vCPU number"))?;
            let count = guest.domain().vcpu_count();
            if vcpu >= count {
                return Err(format!(
                    "there is no vCPU {vcpu}, only 0 to {}",
                    count.saturating_sub(1)
                ));
            }
            guest.viewed = Thread::Vcpu(VcpuId(vcpu));
        }
        _ => return Err("one vCPU number, or none".into()),
    }
    Ok(format!(
        "memory and monitor commands mean vCPU {}\n",
        guest.vcpu()
    ))
}

pub fn msr(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    let narrow = |text: &str| {
        u32::try_from(number(text)?).map_err(|_| format!("{text} is beyond the 32 bits of an MSR number"))
    };
    let vcpu = guest.vcpu();
    match arguments {
        [msr] => {
            let msr = narrow(msr)?;
            match guest.domain().read_msr(vcpu, msr).map_err(|e| e.to_string())? {
                Some(value) => Ok(format!("{value:#018x}\n")),
                None => Err(format!("vCPU {vcpu} has no MSR {msr:#x}: RDMSR would fault")),
            }
        }
        [msr, value] => {
            let (msr, value) = (narrow(msr)?, number(value)?);
            guest.hold();
            let write = guest
                .domain()
                .write_registers()
                .ok_or("this domain's registers can't be written")?;
            if write.write_msr(vcpu, msr, value).map_err(|e| e.to_string())? {
                Ok(String::new())
            } else {
                Err(format!("WRMSR of {value:#x} to {msr:#x} would fault"))
            }
        }
        _ => Err("a number, and a value to write".into()),
    }
}
