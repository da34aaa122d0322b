//! The crate kdmp-parser, which shares no code with ours.

use super::{Dump, KINDS, booted, options};
use dump::{PAGE_SIZE, Pfn};
use hv_core::introspect::{ReadMemory, ReadRegisters};
use hv_core::{GuestPhysAddr, VcpuId};
use kdmp_parser::gxa::{Gpa, Gva};
use kdmp_parser::parse::KernelDumpParser;
use kdmp_parser::{phys, virt};

#[test]
fn another_parser_reads_the_guests_memory_and_registers() {
    let Some((nt, windows)) = booted("win10-19041-x64") else {
        return;
    };
    for kind in KINDS {
        let file = Dump::of(&nt, &windows, &options(kind));
        let parser = KernelDumpParser::new(&file.path).unwrap();
        assert_eq!(parser.physmem().len() as u64, file.written.pages, "{kind:?}");
        let mut own = [0; PAGE_SIZE];
        let mut page = [0; PAGE_SIZE];
        let mut different = 0;
        let physical = phys::Reader::new(&parser);
        for (gpa, _) in parser.physmem() {
            physical.read_exact(gpa, &mut page).unwrap();
            nt.read_physical(GuestPhysAddr(u64::from(gpa)), &mut own).unwrap();
            different += usize::from(page != own);
        }
        assert!(different <= 24, "{different}");

        let own = nt.registers(VcpuId(0)).unwrap();
        let context = parser.context_record();
        assert_eq!(
            (context.rip, context.rsp, context.rbx),
            (own.rip, own.gpr[4], own.gpr[3])
        );
        let headers = parser.headers();
        let system = windows.processes(nt.guest()).unwrap().items[0].clone();
        assert_eq!(headers.directory_table_base, system.root.0);
        assert_eq!(headers.number_processors, 2);
        assert_eq!(headers.bug_check_code, 0x161);
        let mut code = [0; 8];
        virt::Reader::new(&parser)
            .read_exact(Gva::new(own.rip), &mut code)
            .unwrap();
        assert_ne!(code, [0; 8]);
        let names: Vec<&str> = parser.kernel_modules().map(|(_, name)| name).collect();
        let modules = windows.modules(nt.guest()).unwrap().items;
        assert_eq!(names.len(), modules.len(), "{names:?}");
        let beyond = Gpa::new(Pfn(1 << 30).address().0);
        assert!(physical.read_exact(beyond, &mut page).is_err());
    }
}
