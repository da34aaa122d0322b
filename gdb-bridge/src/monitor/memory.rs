//! `translate`, `physical`, `place`.

use super::value::address;
use crate::breakpoints::PlaceMode;
use crate::guest::Guest;
use hv_core::addr::{GuestPhysAddr, GuestVirtAddr};
use introspect::{AddressSpace, Level, PagingMode};
use std::fmt::Write;

pub fn translate(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    if arguments.is_empty() {
        return Err("which address?".into());
    }
    let address = GuestVirtAddr(address(guest, arguments)?);
    let walk = |levels: &[Level]| {
        let mut text = String::new();
        for level in levels {
            let Level {
                name,
                index,
                entry_addr,
                entry,
            } = level;
            let _ = writeln!(text, "{name:<5} {index:#05x} at {entry_addr}: {entry:#018x}");
        }
        text
    };
    match guest.target.translate(guest.virtual_space(), address) {
        Ok(translation) => {
            let mut text = walk(&translation.levels);
            let right = |has: bool, letter: char| if has { letter } else { '-' };
            let _ = writeln!(
                text,
                "{address} is physical {}, a page of {} KiB, rights r{}{}{}{}",
                translation.phys,
                translation.page_size >> 10,
                right(translation.writable, 'w'),
                right(translation.executable, 'x'),
                right(translation.user, 'u'),
                right(translation.global, 'g'),
            );
            Ok(text)
        }
        Err(error) => Ok(format!("{}{error}\n", walk(&error.levels))),
    }
}

pub fn physical(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    match arguments {
        [] => {}
        ["on"] => guest.physical = true,
        ["off"] => guest.physical = false,
        _ => return Err("on or off".into()),
    }
    let kind = if guest.physical {
        "guest-physical"
    } else {
        "virtual"
    };
    Ok(format!("addresses of memory commands are {kind}\n"))
}

pub fn place(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    let (mode, at) = match arguments.iter().position(|word| *word == "at") {
        Some(index) => (
            &arguments[..index],
            Some(address(guest, &arguments[index + 1..])?),
        ),
        None => (arguments, None),
    };
    let place = match mode {
        [] => None,
        ["virtual"] => Some(PlaceMode::Virtual),
        ["physical"] => Some(PlaceMode::Physical),
        ["address-space"] => {
            let root = match guest.virtual_space() {
                // A breakpoint in user mode is met under the tables of user mode.
                AddressSpace::Root(mode, root) => match guest.linux() {
                    Some(linux) => linux.user_page_tables(guest.domain(), mode.root(root.0)),
                    None => mode.root(root.0),
                },
                _ => {
                    let registers = guest
                        .domain()
                        .registers(guest.vcpu())
                        .map_err(|e| e.to_string())?;
                    PagingMode::of(&registers).root(registers.cr3)
                }
            };
            Some(PlaceMode::AddressSpace(root.page_base()))
        }
        ["address-space", root] => Some(PlaceMode::AddressSpace(
            GuestPhysAddr(address(guest, &[root])?).page_base(),
        )),
        _ => return Err("virtual, physical or address-space".into()),
    };
    match (place, at) {
        (Some(place), Some(address)) => {
            guest.breakpoints.choose(address, place);
            return Ok(format!("a breakpoint at {address:#x} is at {}\n", words(place)));
        }
        (Some(place), None) => guest.place = Some(place),
        (None, Some(_)) => return Err("what shall the address be?".into()),
        (None, None) => {}
    }
    Ok(format!(
        "addresses of breakpoints that weren't set before are {}\n",
        words(guest.place_of_new())
    ))
}

fn words(place: PlaceMode) -> String {
    match place {
        PlaceMode::Virtual => "virtual, in every address space".into(),
        PlaceMode::Physical => "guest-physical".into(),
        PlaceMode::AddressSpace(root) => format!("virtual, under the page-table root {root}"),
    }
}
