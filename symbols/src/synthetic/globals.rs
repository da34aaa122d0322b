//! Well-known variables of the kernel and their types: BTF only has those of per-CPU variables.

/// What a variable is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// One of this type.
    One(&'static str),
    /// A pointer to one.
    Pointer(&'static str),
    /// As many as fit up to the next symbol.
    Array(&'static str),
}

use Shape::{Array, One, Pointer};

/// As declared in Linux 4.14 to 6.12. What a kernel has no symbol or no type for is left out.
pub(super) const GLOBALS: &[(&str, Shape)] = &[
    ("__cpu_online_mask", One("cpumask")),
    ("__cpu_possible_mask", One("cpumask")),
    ("__cpu_present_mask", One("cpumask")),
    ("__per_cpu_offset", Array("long unsigned int")),
    ("boot_command_line", Array("char")),
    ("boot_cpu_data", One("cpuinfo_x86")),
    ("cgrp_dfl_root", One("cgroup_root")),
    ("file_systems", Pointer("file_system_type")),
    ("init_cred", One("cred")),
    ("init_mm", One("mm_struct")),
    ("init_net", One("net")),
    ("init_nsproxy", One("nsproxy")),
    ("init_pid_ns", One("pid_namespace")),
    ("init_task", One("task_struct")),
    ("init_top_pgt", Array("pgd_t")),
    ("init_user_ns", One("user_namespace")),
    ("init_uts_ns", One("uts_namespace")),
    ("iomem_resource", One("resource")),
    ("ioport_resource", One("resource")),
    ("jiffies_64", One("u64")),
    ("linux_banner", Array("char")),
    ("log_buf", Pointer("char")),
    ("modules", One("list_head")),
    ("nr_cpu_ids", One("unsigned int")),
    ("oops_in_progress", One("int")),
    ("page_offset_base", One("long unsigned int")),
    ("panic_cpu", One("atomic_t")),
    ("phys_base", One("long unsigned int")),
    ("root_task_group", One("task_group")),
    ("saved_command_line", Pointer("char")),
    ("slab_caches", One("list_head")),
    ("super_blocks", One("list_head")),
    ("system_state", One("system_states")),
    ("tainted_mask", One("long unsigned int")),
    ("vmalloc_base", One("long unsigned int")),
    ("vmap_area_list", One("list_head")),
    ("vmemmap_base", One("long unsigned int")),
    ("workqueues", One("list_head")),
    // Per CPU; the address is an offset. Kernels' BTF has them, but for some builds.
    ("cpu_info", One("cpuinfo_x86")),
    ("current_task", Pointer("task_struct")),
    ("pcpu_hot", One("pcpu_hot")),
    ("runqueues", One("rq")),
];

/// The log's ring: the kernel's own gdb scripts ask for `'printk.c'::prb` (scripts/gdb/linux/dmesg.py).
pub(super) const LOG: (&str, &str, &str) = ("kernel/printk/printk.c", "prb", "printk_ringbuffer");
