//! Every structure and number of this crate against Xen's own C headers: a C program that
//! includes them is built and asked.
//!
//! The headers are Debian's package libxen-dev, or those in `$XEN_INCLUDE_DIR`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use xen_hypercall::dm::{self, op};
use xen_hypercall::grant_table::{GrantStatus, copy_flags, entry_flags, map_flags};
use xen_hypercall::hvm::Param;
use xen_hypercall::{DomId, Errno, event_channel, number, sched};

const HEADERS: &[&str] = &[
    "xen.h",
    "memory.h",
    "event_channel.h",
    "grant_table.h",
    "sched.h",
    "vcpu.h",
    "version.h",
    "hvm/hvm_op.h",
    "hvm/params.h",
    "hvm/dm_op.h",
    "hvm/ioreq.h",
    "hvm/hvm_vcpu.h",
    "arch-x86/hvm/start_info.h",
    "io/console.h",
    "io/xs_wire.h",
];

/// Numbers that the crate spells out, and the C expression for each.
fn constants() -> Vec<(String, i64)> {
    let mut all: Vec<(&str, i64)> = vec![
        ("__HYPERVISOR_memory_op", number::MEMORY_OP.into()),
        ("__HYPERVISOR_multicall", number::MULTICALL.into()),
        ("__HYPERVISOR_xen_version", number::XEN_VERSION.into()),
        ("__HYPERVISOR_console_io", number::CONSOLE_IO.into()),
        ("__HYPERVISOR_grant_table_op", number::GRANT_TABLE_OP.into()),
        ("__HYPERVISOR_vcpu_op", number::VCPU_OP.into()),
        ("__HYPERVISOR_sched_op", number::SCHED_OP.into()),
        (
            "__HYPERVISOR_event_channel_op",
            number::EVENT_CHANNEL_OP.into(),
        ),
        ("__HYPERVISOR_hvm_op", number::HVM_OP.into()),
        ("__HYPERVISOR_dm_op", number::DM_OP.into()),
        (
            "XEN_DMOP_create_ioreq_server",
            op::CREATE_IOREQ_SERVER.into(),
        ),
        (
            "XEN_DMOP_get_ioreq_server_info",
            op::GET_IOREQ_SERVER_INFO.into(),
        ),
        (
            "XEN_DMOP_map_io_range_to_ioreq_server",
            op::MAP_IO_RANGE.into(),
        ),
        (
            "XEN_DMOP_unmap_io_range_from_ioreq_server",
            op::UNMAP_IO_RANGE.into(),
        ),
        (
            "XEN_DMOP_set_ioreq_server_state",
            op::SET_IOREQ_SERVER_STATE.into(),
        ),
        (
            "XEN_DMOP_destroy_ioreq_server",
            op::DESTROY_IOREQ_SERVER.into(),
        ),
        ("XEN_DMOP_track_dirty_vram", op::TRACK_DIRTY_VRAM.into()),
        ("XEN_DMOP_set_pci_intx_level", op::SET_PCI_INTX_LEVEL.into()),
        ("XEN_DMOP_set_isa_irq_level", op::SET_ISA_IRQ_LEVEL.into()),
        ("XEN_DMOP_set_pci_link_route", op::SET_PCI_LINK_ROUTE.into()),
        ("XEN_DMOP_modified_memory", op::MODIFIED_MEMORY.into()),
        ("XEN_DMOP_set_mem_type", op::SET_MEM_TYPE.into()),
        ("XEN_DMOP_inject_event", op::INJECT_EVENT.into()),
        ("XEN_DMOP_inject_msi", op::INJECT_MSI.into()),
        (
            "XEN_DMOP_map_mem_type_to_ioreq_server",
            op::MAP_MEM_TYPE.into(),
        ),
        ("XEN_DMOP_remote_shutdown", op::REMOTE_SHUTDOWN.into()),
        ("XEN_DMOP_relocate_memory", op::RELOCATE_MEMORY.into()),
        (
            "XEN_DMOP_pin_memory_cacheattr",
            op::PIN_MEMORY_CACHEATTR.into(),
        ),
        ("XEN_DMOP_nr_vcpus", op::NR_VCPUS.into()),
        ("HVM_PARAM_CALLBACK_IRQ", Param::CALLBACK_IRQ.0.into()),
        ("HVM_PARAM_STORE_PFN", Param::STORE_PFN.0.into()),
        ("HVM_PARAM_STORE_EVTCHN", Param::STORE_EVTCHN.0.into()),
        ("HVM_PARAM_IOREQ_PFN", Param::IOREQ_PFN.0.into()),
        ("HVM_PARAM_BUFIOREQ_PFN", Param::BUFIOREQ_PFN.0.into()),
        ("HVM_PARAM_IDENT_PT", Param::IDENT_PT.0.into()),
        ("HVM_PARAM_ACPI_S_STATE", Param::ACPI_S_STATE.0.into()),
        ("HVM_PARAM_CONSOLE_PFN", Param::CONSOLE_PFN.0.into()),
        ("HVM_PARAM_CONSOLE_EVTCHN", Param::CONSOLE_EVTCHN.0.into()),
        ("DOMID_SELF", DomId::SELF.0.into()),
        ("DOMID_IO", DomId::IO.0.into()),
        ("DOMID_XEN", DomId::XEN.0.into()),
        ("DOMID_COW", DomId::COW.0.into()),
        ("DOMID_INVALID", DomId::INVALID.0.into()),
        ("DOMID_IDLE", DomId::IDLE.0.into()),
        ("DOMID_FIRST_RESERVED", DomId::FIRST_RESERVED.0.into()),
        ("VIRQ_TIMER", event_channel::Virq::TIMER.0.into()),
        ("VIRQ_DEBUG", event_channel::Virq::DEBUG.0.into()),
        ("VIRQ_CONSOLE", event_channel::Virq::CONSOLE.0.into()),
        ("VIRQ_DOM_EXC", event_channel::Virq::DOM_EXC.0.into()),
        (
            "SHUTDOWN_poweroff",
            sched::ShutdownReason::POWEROFF.0.into(),
        ),
        ("SHUTDOWN_reboot", sched::ShutdownReason::REBOOT.0.into()),
        ("SHUTDOWN_suspend", sched::ShutdownReason::SUSPEND.0.into()),
        ("SHUTDOWN_crash", sched::ShutdownReason::CRASH.0.into()),
        (
            "SHUTDOWN_watchdog",
            sched::ShutdownReason::WATCHDOG.0.into(),
        ),
        (
            "SHUTDOWN_soft_reset",
            sched::ShutdownReason::SOFT_RESET.0.into(),
        ),
        (
            "sizeof(((struct shared_info *)0)->evtchn_pending) * 8",
            4096,
        ),
    ];
    // The operation numbers that the modules keep to themselves show in the encoding
    // tests; here they are named once more, so that the header has the last word.
    all.extend([
        ("XENMEM_populate_physmap", 6),
        ("XENMEM_decrease_reservation", 1),
        ("XENMEM_add_to_physmap", 7),
        ("XENMEM_add_to_physmap_batch", 23),
        ("XENMEM_remove_from_physmap", 15),
        ("XENMEM_maximum_gpfn", 14),
        ("XENMEM_memory_map", 9),
        ("XENMEM_current_reservation", 3),
        ("XENMEM_maximum_reservation", 4),
        ("XENMEM_maximum_ram_page", 2),
        ("XENMEM_acquire_resource", 28),
        ("XENMAPSPACE_shared_info", 0),
        ("XENMAPSPACE_grant_table", 1),
        ("XENMAPSPACE_gmfn_foreign", 4),
        ("EVTCHNOP_bind_interdomain", 0),
        ("EVTCHNOP_bind_virq", 1),
        ("EVTCHNOP_close", 3),
        ("EVTCHNOP_send", 4),
        ("EVTCHNOP_status", 5),
        ("EVTCHNOP_alloc_unbound", 6),
        ("EVTCHNOP_bind_ipi", 7),
        ("EVTCHNOP_bind_vcpu", 8),
        ("EVTCHNOP_unmask", 9),
        ("EVTCHNOP_reset", 10),
        ("EVTCHNOP_init_control", 11),
        ("EVTCHNOP_expand_array", 12),
        ("EVTCHNOP_set_priority", 13),
        ("HVMOP_set_param", 0),
        ("HVMOP_get_param", 1),
        ("HVMOP_get_time", 10),
        ("HVMOP_get_mem_type", 15),
        ("HVMMEM_ram_rw", dm::MemType::Ram as i64),
        ("HVMMEM_ram_ro", dm::MemType::ReadOnly as i64),
        ("HVMMEM_mmio_dm", dm::MemType::Emulated as i64),
        ("HVMMEM_ioreq_server", dm::MemType::IoreqServer as i64),
        ("XEN_DMOP_IOREQ_MEM_ACCESS_WRITE", dm::ACCESS_WRITE.into()),
        ("HVMOP_set_evtchn_upcall_vector", 23),
        ("SCHEDOP_shutdown", 2),
        ("SCHEDOP_poll", 3),
        ("SCHEDOP_remote_shutdown", 4),
        ("SCHEDOP_shutdown_code", 5),
        ("SCHEDOP_watchdog", 6),
        ("VCPUOP_initialise", 0),
        ("VCPUOP_up", 1),
        ("VCPUOP_down", 2),
        ("VCPUOP_is_up", 3),
        ("VCPUOP_get_runstate_info", 4),
        ("VCPUOP_set_periodic_timer", 6),
        ("VCPUOP_stop_periodic_timer", 7),
        ("VCPUOP_set_singleshot_timer", 8),
        ("VCPUOP_stop_singleshot_timer", 9),
        ("VCPUOP_register_vcpu_info", 10),
        ("VCPUOP_send_nmi", 11),
        ("VCPUOP_get_physid", 12),
        ("GNTST_okay", GrantStatus::OKAY.0.into()),
        ("GNTST_general_error", GrantStatus::GENERAL_ERROR.0.into()),
        ("GNTST_bad_domain", GrantStatus::BAD_DOMAIN.0.into()),
        ("GNTST_bad_gntref", GrantStatus::BAD_GNTREF.0.into()),
        ("GNTST_bad_handle", GrantStatus::BAD_HANDLE.0.into()),
        ("GNTST_bad_virt_addr", GrantStatus::BAD_VIRT_ADDR.0.into()),
        ("GNTST_bad_dev_addr", GrantStatus::BAD_DEV_ADDR.0.into()),
        (
            "GNTST_no_device_space",
            GrantStatus::NO_DEVICE_SPACE.0.into(),
        ),
        (
            "GNTST_permission_denied",
            GrantStatus::PERMISSION_DENIED.0.into(),
        ),
        ("GNTST_bad_page", GrantStatus::BAD_PAGE.0.into()),
        ("GNTST_bad_copy_arg", GrantStatus::BAD_COPY_ARG.0.into()),
        (
            "GNTST_address_too_big",
            GrantStatus::ADDRESS_TOO_BIG.0.into(),
        ),
        ("GNTST_eagain", GrantStatus::EAGAIN.0.into()),
        ("GNTST_no_space", GrantStatus::NO_SPACE.0.into()),
        ("GNTMAP_host_map", map_flags::HOST_MAP.into()),
        ("GNTMAP_readonly", map_flags::READONLY.into()),
        ("GNTCOPY_source_gref", copy_flags::SOURCE_GREF.into()),
        ("GNTCOPY_dest_gref", copy_flags::DEST_GREF.into()),
        ("GTF_permit_access", entry_flags::PERMIT_ACCESS.into()),
        ("GTF_readonly", entry_flags::READONLY.into()),
        ("GTF_reading", entry_flags::READING.into()),
        ("GTF_writing", entry_flags::WRITING.into()),
        ("GNTTABOP_map_grant_ref", 0),
        ("GNTTABOP_unmap_grant_ref", 1),
        ("GNTTABOP_setup_table", 2),
        ("GNTTABOP_copy", 5),
        ("GNTTABOP_query_size", 6),
        ("GNTTABOP_set_version", 8),
        ("GNTTABOP_get_status_frames", 9),
        ("GNTTABOP_get_version", 10),
        ("GNTTABOP_cache_flush", 12),
        ("XENVER_build_id", 10),
    ]);
    let mut all: Vec<_> = all
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    for errno in Errno::ALL {
        all.push((format!("XEN_{}", errno.name().unwrap()), errno.0.into()));
    }
    all
}

fn include_dir() -> PathBuf {
    let dir = std::env::var_os("XEN_INCLUDE_DIR").map_or("/usr/include/xen".into(), PathBuf::from);
    assert!(
        dir.join("xen.h").exists(),
        "Xen's headers are not in {}: apt-get install libxen-dev, or set XEN_INCLUDE_DIR",
        dir.display()
    );
    dir
}

/// What the C compiler says about each expression.
fn ask_c(questions: &[String]) -> BTreeMap<String, i64> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("xen-layout");
    std::fs::create_dir_all(&dir).unwrap();
    let mut source = String::from(
        "#define __XEN_TOOLS__ 1\n#define __XEN_INTERFACE_VERSION__ 0x00041100\n\
         #include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n",
    );
    let include = include_dir();
    for header in HEADERS {
        writeln!(source, "#include \"{}\"", include.join(header).display()).unwrap();
    }
    source.push_str("#define XEN_ERRNO(name, value) XEN_##name = value,\nenum {\n");
    writeln!(
        source,
        "#include \"{}\"\n}};",
        include.join("errno.h").display()
    )
    .unwrap();
    source.push_str("int main(void) {\n");
    for question in questions {
        writeln!(source, "printf(\"%lld\\n\", (long long)({question}));").unwrap();
    }
    source.push_str("return 0; }\n");
    let (c, program) = (dir.join("layout.c"), dir.join("layout"));
    std::fs::write(&c, source).unwrap();
    let built = Command::new("cc")
        .arg("-w")
        .arg("-o")
        .arg(&program)
        .arg(&c)
        .output();
    let built = built.expect("no C compiler: apt-get install gcc");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let said = Command::new(&program).output().unwrap();
    let numbers = String::from_utf8(said.stdout).unwrap();
    let numbers = numbers.lines().map(|line| line.parse().unwrap());
    let answers: BTreeMap<_, _> = questions.iter().cloned().zip(numbers).collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

#[test]
fn structures_and_numbers_are_those_of_the_c_headers() {
    let mut expect = constants();
    let mut structures = 0;
    for layout in xen_hypercall::layouts() {
        structures += 1;
        expect.push((format!("sizeof({})", layout.c_name), layout.size as i64));
        for (field, offset) in layout.fields {
            expect.push((
                format!("offsetof({}, {field})", layout.c_name),
                *offset as i64,
            ));
        }
    }
    assert!(structures >= 60, "only {structures} structures are listed");
    let questions: Vec<_> = expect
        .iter()
        .map(|(question, _)| question.clone())
        .collect();
    let answers = ask_c(&questions);
    let wrong: Vec<_> = expect
        .iter()
        .filter(|(question, value)| answers[question] != *value)
        .map(|(question, value)| format!("{question}: C says {}, Rust {value}", answers[question]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{structures} structures, {} numbers agree", expect.len());
}
