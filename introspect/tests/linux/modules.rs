//! Modules: their symbols, sections and types, against /proc/kallsyms and /sys.

use crate::guest::{self, Kind, Machine};
use crate::recognise::{md5, recognise};
use introspect::linux::Linux;
use std::collections::BTreeMap;

/// Of `0000000000000000 t name\t[module]`: address, letter and name, by module, in order.
fn of_modules(text: &str) -> BTreeMap<String, Vec<(u64, char, String)>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [address, kind, name, module] = words[..] {
            let module = module.trim_matches(['[', ']']).to_owned();
            let address = u64::from_str_radix(address, 16).expect("an address");
            let kind = kind.to_ascii_lowercase().chars().next().expect("a letter");
            all.entry(module)
                .or_default()
                .push((address, kind, name.to_owned()));
        }
    }
    all
}

fn modules_are_as_the_guest_says(kind: &Kind) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    for name in kind.modules {
        machine.command(&format!("insmod /root/{name}.ko"));
    }
    let listed = machine.command("cat /proc/modules");
    let symbols = of_modules(&machine.command("grep '\\[' /proc/kallsyms"));
    let sections = machine.command(
        "cd /sys/module; for n in */sections/* */sections/.*; do [ -f $n ] && echo $n $(cat $n); done; cd",
    );
    let types = machine.command("cd /sys/kernel/btf; md5sum *; cd");
    machine.paused(|domain| {
        let linux = recognise(domain);
        let modules = linux.modules(domain).expect("modules");
        assert_eq!(modules.broken, None);
        assert_eq!(modules.items.len(), kind.modules.len(), "{listed}");
        for module in &modules.items {
            let line = listed
                .lines()
                .find(|line| line.starts_with(&format!("{} ", module.name)));
            let line = line.unwrap_or_else(|| panic!("{} isn't in {listed}", module.name));
            let base = module.base().expect("it has an address");
            assert!(line.contains(&format!(" {:#x}", base.0)), "{line} {module:x?}");
            assert_eq!(
                line.split(' ').nth(1),
                Some(&*module.size().to_string()),
                "{line}"
            );

            let ours: Vec<(u64, char, String)> = linux
                .module_symbols(domain, module)
                .expect("symbols")
                .iter()
                .map(|it| {
                    (
                        it.address.0,
                        it.kind.to_ascii_lowercase(),
                        it.as_symbol().text().into_owned(),
                    )
                })
                .collect();
            assert_eq!(Some(&ours), symbols.get(&module.name), "{}", module.name);
            assert!(
                ours.iter()
                    .any(|(address, ..)| module.contains(hv_core::GuestVirtAddr(*address)))
            );

            let found = linux.module_sections(domain, module).expect("sections");
            let mut said = 0;
            for line in sections.lines() {
                let Some((path, address)) = line.trim().split_once(' ') else {
                    continue;
                };
                let Some(name) = path.strip_prefix(&format!("{}/sections/", module.name)) else {
                    continue;
                };
                let address = u64::from_str_radix(address.trim_start_matches("0x"), 16).expect("an address");
                let it = found.iter().find(|it| it.name == name);
                assert_eq!(it.map(|it| it.address.0), Some(address), "{path}");
                said += 1;
            }
            assert!(said > 5 && said == found.len(), "{said} {found:x?}");

            let orc = linux
                .module_orc(domain, module)
                .expect("ORC")
                .expect("there is some");
            assert!(orc.is_sorted());
            let first = u64::from(orc.ips.len() as u32 / 4);
            assert_eq!(orc.rows.len() as u64, 6 * first);
            assert!(orc.row(base.0 + 0x20).is_some());

            let btf = linux
                .module_btf(domain, module)
                .expect("BTF")
                .expect("there is some");
            let sum = md5(btf.bytes());
            let line = format!("{sum}  {}", module.name);
            assert!(types.replace('\r', "").contains(&line), "{line} {types}");
            println!(
                "{}: {} symbols, {said} sections, {} types",
                module.name,
                ours.len(),
                btf.len()
            );
        }
        types_go_on(&linux, domain);
    });
    machine.command("rmmod dummy");
    machine.paused(|domain| {
        let linux = recognise(domain);
        let modules = linux.modules(domain).expect("modules").items;
        assert!(modules.len() == kind.modules.len() - 1 && modules.iter().all(|it| it.name != "dummy"));
    });
}

/// What a module says of the kernel's structures is what the kernel says.
fn types_go_on(linux: &Linux, domain: &hv_core::Domain) {
    let modules = linux.modules(domain).expect("modules").items;
    let it = modules.iter().find(|it| it.name == "loop").expect("it is loaded");
    let btf = linux.module_btf(domain, it).expect("BTF").expect("there is some");
    let device = btf.structure("loop_device").expect("its own structure");
    let disk = linux
        .btf()
        .expect("types")
        .structure("work_struct")
        .expect("the kernel's");
    let own = device.member("rootcg_work").and_then(|it| it.structure());
    assert_eq!(own.map(|it| it.size()), Some(disk.size()));
}

#[test]
fn modules_of_6_1() {
    modules_are_as_the_guest_says(&guest::STABLE_MODULES);
}

#[test]
fn modules_of_6_12() {
    modules_are_as_the_guest_says(&guest::NEWER_MODULES);
}
