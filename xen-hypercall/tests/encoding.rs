//! What each wrapper puts into registers and memory, seen from the hypervisor's side.

use std::cell::RefCell;

use xen_hypercall::batch;
use xen_hypercall::dm::{self, BufferedRing, IoRange, MemType, ServerId};
use xen_hypercall::fake::{Call, Fake, peek, poke};
use xen_hypercall::grant_table::{self, CopyOp, MapOp, UnmapOp};
use xen_hypercall::hvm::{self, Param};
use xen_hypercall::memory::{self, PhysmapSpace, RemoveFromPhysmap, Resource};
use xen_hypercall::multicall::{self, MulticallEntry};
use xen_hypercall::{
    DomId, Errno, EvtchnPort, Gfn, GrantRef, VcpuId, event_channel, number, sched, vcpu,
};

const GUEST: DomId = DomId(7);

/// Buffers of a dm_op: address and size.
fn buffers(call: &Call) -> Vec<(usize, usize)> {
    assert_eq!((call.number, call.args[0]), (number::DM_OP, 7));
    let at = |index: usize| {
        let entry = call.args[2] + index * 16;
        // SAFETY: the wrapper's buffer list is alive during the call.
        unsafe { (peek::<u64>(entry) as usize, peek::<u64>(entry + 8) as usize) }
    };
    (0..call.args[1]).map(at).collect()
}

/// Makes one dm_op and returns operation number, the bytes after it, and the second buffer.
fn dm_op(
    make: impl FnOnce(&Fake<&dyn Fn(&Call) -> isize>),
) -> (u32, Vec<u8>, Option<(usize, usize)>) {
    let seen = RefCell::new(None);
    let answer = |call: &Call| -> isize {
        let buffers = buffers(call);
        let (op, size) = buffers[0];
        // SAFETY: the first buffer is as long as it says.
        unsafe {
            assert_eq!(peek::<u32>(op + 4), 0, "pad");
            let bytes = (8..size)
                .map(|offset| peek::<u8>(op + offset))
                .collect::<Vec<u8>>();
            *seen.borrow_mut() = Some((peek::<u32>(op), bytes, buffers.get(1).copied()));
        }
        0
    };
    let xen = Fake::new(&answer as &dyn Fn(&Call) -> isize);
    make(&xen);
    assert_eq!(xen.calls().len(), 1);
    drop(xen);
    seen.into_inner().unwrap()
}

fn bytes(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn dm_ops_are_encoded_field_by_field() {
    let (op, arg, list) = dm_op(|xen| dm::set_pci_intx_level(xen, GUEST, 21, 0, true).unwrap());
    assert_eq!(
        (op, arg[..6].to_vec(), list),
        (8, vec![0, 0, 0, 21, 0, 1], None)
    );
    let range = IoRange::Memory(0xfea0_0000, 0xfea0_ffff);
    let (op, arg, _) = dm_op(|xen| {
        dm::map_io_range_to_ioreq_server(xen, GUEST, ServerId(2), range).unwrap();
    });
    let want = bytes(&[
        &2u16.to_le_bytes(),
        &[0, 0],
        &1u32.to_le_bytes(),
        &0xfea0_0000u64.to_le_bytes(),
        &0xfea0_ffffu64.to_le_bytes(),
    ]);
    assert_eq!((op, arg), (3, want));
    let (op, arg, _) = dm_op(|xen| dm::inject_msi(xen, GUEST, 0xfee0_0000, 0x41).unwrap());
    assert_eq!(op, 14);
    assert_eq!(
        arg,
        bytes(&[&[0x41, 0, 0, 0, 0, 0, 0, 0], &0xfee0_0000u64.to_le_bytes()])
    );
    let (op, arg, _) = dm_op(|xen| {
        dm::set_ioreq_server_state(xen, GUEST, ServerId(3), true).unwrap();
    });
    assert_eq!((op, arg[..4].to_vec()), (5, vec![3, 0, 1, 0]));
    let (op, arg, _) = dm_op(|xen| dm::destroy_ioreq_server(xen, GUEST, ServerId(3)).unwrap());
    assert_eq!((op, arg[..4].to_vec()), (6, vec![3, 0, 0, 0]));
    let (op, arg, _) = dm_op(|xen| {
        dm::map_mem_type_to_ioreq_server(xen, GUEST, ServerId(3), true).unwrap();
    });
    assert_eq!((op, arg[..8].to_vec()), (15, vec![3, 0, 4, 0, 2, 0, 0, 0]));
    let (_, arg, _) = dm_op(|xen| {
        dm::map_mem_type_to_ioreq_server(xen, GUEST, ServerId(3), false).unwrap();
    });
    assert_eq!(arg[4..8], [0; 4]);
    let (op, arg, _) = dm_op(|xen| {
        dm::set_mem_type(xen, GUEST, Gfn(0xa1), 1, MemType::IoreqServer).unwrap();
    });
    assert_eq!(op, 12);
    assert_eq!(
        arg,
        bytes(&[&[1, 0, 0, 0, 4, 0, 0, 0], &0xa1u64.to_le_bytes()])
    );
    let (op, arg, _) = dm_op(|xen| {
        dm::relocate_memory(xen, GUEST, Gfn(5), Gfn(6), 1).unwrap();
    });
    assert_eq!(op, 17);
    assert_eq!(
        arg,
        bytes(&[
            &1u64.to_le_bytes(),
            &5u64.to_le_bytes(),
            &6u64.to_le_bytes()
        ])
    );
    let mut bitmap = [0u8; 16];
    let (op, _, list) = dm_op(|xen| {
        dm::track_dirty_vram(xen, GUEST, Gfn(5), 128, &mut bitmap).unwrap();
    });
    assert_eq!((op, list.unwrap().1), (7, 16));
}

#[test]
fn a_bitmap_that_is_too_small_never_reaches_xen() {
    let xen = Fake::new(|_| 0);
    let result = dm::track_dirty_vram(&xen, GUEST, Gfn(0), 129, &mut [0; 16]);
    assert_eq!((result, xen.calls().len()), (Err(Errno::EINVAL), 0));
}

#[test]
fn results_of_dm_ops_are_read_back() {
    let xen = Fake::new(|call| {
        let (op, _) = buffers(call)[0];
        // SAFETY: the buffer is large enough for every operation used here.
        unsafe {
            match peek::<u32>(op) {
                1 => {
                    assert_eq!(peek::<u8>(op + 8), BufferedRing::Atomic as u8);
                    poke(op + 12, 5u16);
                }
                20 => poke(op + 8, 4u32),
                2 => {
                    assert_eq!(peek::<u16>(op + 10), 1, "no_gfns");
                    poke(op + 12, 99u32);
                }
                other => panic!("{other}"),
            }
        }
        0
    });
    assert_eq!(
        dm::create_ioreq_server(&xen, GUEST, BufferedRing::Atomic),
        Ok(ServerId(5))
    );
    assert_eq!(dm::nr_vcpus(&xen, GUEST), Ok(4));
    let info = dm::get_ioreq_server_info(&xen, GUEST, ServerId(5), false).unwrap();
    assert_eq!((info.bufioreq_port, info.gfns), (EvtchnPort(99), None));
}

#[test]
fn row38_every_errno_comes_through() {
    for errno in Errno::ALL {
        let xen = Fake::new(|_| -(errno.0 as isize));
        assert_eq!(dm::nr_vcpus(&xen, GUEST), Err(*errno));
        assert_eq!(event_channel::send(&xen, EvtchnPort(1)), Err(*errno));
        assert_eq!(memory::maximum_gpfn(&xen, GUEST), Err(*errno));
        assert_eq!(
            hvm::get_param(&xen, DomId::SELF, Param::STORE_PFN),
            Err(*errno)
        );
        assert_eq!(sched::poll(&xen, &[], None), Err(*errno));
    }
}

#[test]
fn memory_ops_pass_lists_and_counts() {
    let xen = Fake::new(|call| {
        assert_eq!(call.number, number::MEMORY_OP);
        let [cmd, arg, ..] = call.args;
        // SAFETY: the argument is alive during the call.
        unsafe {
            match cmd {
                6 => {
                    assert_eq!((peek::<u64>(arg + 8), peek::<u16>(arg + 24)), (3, 7));
                    return 2;
                }
                23 => {
                    assert_eq!(peek::<[u16; 4]>(arg), [DomId::SELF.0, 4, 2, 7]);
                    let (idxs, gpfns, errs) = (
                        peek::<u64>(arg + 8),
                        peek::<u64>(arg + 16),
                        peek::<u64>(arg + 24),
                    );
                    assert_eq!(peek::<[u64; 2]>(idxs as usize), [10, 11]);
                    assert_eq!(peek::<[u64; 2]>(gpfns as usize), [20, 21]);
                    poke(errs as usize + 4, -22i32);
                }
                28 => {
                    assert_eq!((peek::<u16>(arg + 2), peek::<u32>(arg + 4)), (0, 5));
                    assert_eq!((peek::<u32>(arg + 8), peek::<u64>(arg + 16)), (2, 0));
                    assert_eq!(peek::<[u64; 2]>(peek::<u64>(arg + 24) as usize), [30, 31]);
                }
                other => panic!("{other}"),
            }
        }
        0
    });
    let mut errors = [0; 3];
    // SAFETY: the fake maps nothing.
    unsafe {
        assert_eq!(
            memory::populate_physmap(&xen, GUEST, &mut [1, 2, 3]),
            Ok(2),
            "partly"
        );
        let space = PhysmapSpace::ForeignGmfn(GUEST);
        let (from, to) = ([10, 11], [20, 21, 22]);
        memory::add_to_physmap_batch(&xen, DomId::SELF, space, &from, &to, &mut errors).unwrap();
        let what = Resource::IoreqServer(ServerId(5));
        memory::acquire_resource(&xen, GUEST, what, 0, &mut [30, 31]).unwrap();
    }
    assert_eq!(errors, [0, -22, 0]);
}

#[test]
fn a_multicall_has_a_result_for_each_call() {
    let xen = Fake::new(|call| {
        assert_eq!((call.number, call.args[1]), (number::MULTICALL, 2));
        // SAFETY: two entries of 64 bytes are alive during the call.
        unsafe {
            assert_eq!(peek::<u64>(call.args[0]), u64::from(number::MEMORY_OP));
            assert_eq!(peek::<u64>(call.args[0] + 16), 15);
            poke(call.args[0] + 64 + 8, -2i64);
        }
        0
    });
    let removals = [1, 2].map(|gfn| RemoveFromPhysmap::new(DomId::SELF, Gfn(gfn)));
    let mut calls = [MulticallEntry::empty(); 2];
    for (call, removal) in calls.iter_mut().zip(&removals) {
        *call = memory::remove_from_physmap_entry(removal);
    }
    // SAFETY: the fake removes nothing.
    unsafe { multicall::multicall(&xen, &mut calls) }.unwrap();
    assert_eq!(
        (calls[0].result(), calls[1].result()),
        (Ok(0), Err(Errno::ENOENT))
    );
}

fn line(level: bool) -> batch::Call {
    batch::Call::PciIntxLevel {
        guest: GUEST,
        device: 5,
        intx: 0,
        level,
    }
}

#[test]
fn a_batch_of_one_is_that_call() {
    let xen = Fake::new(|_| -3);
    let send = batch::Call::Send(EvtchnPort(9));
    for call in [line(true), send] {
        assert_eq!(batch::make(&xen, &[call])[..2], [Err(Errno::ESRCH), Ok(())]);
    }
    assert!(batch::make(&xen, &[]).iter().all(Result::is_ok));
    let numbers: Vec<_> = xen.calls().iter().map(|call| call.number).collect();
    assert_eq!(numbers, [number::DM_OP, number::EVENT_CHANNEL_OP]);
}

#[test]
fn a_batch_is_one_multicall_in_order_with_a_result_for_each() {
    let xen = Fake::new(|call| {
        assert_eq!((call.number, call.args[1]), (number::MULTICALL, 3));
        // SAFETY: three entries of 64 bytes, and what they point at, are alive during the call.
        unsafe {
            let entry = |index: usize| peek::<MulticallEntry>(call.args[0] + index * 64);
            for (index, level) in [(0, 1), (1, 0)] {
                let MulticallEntry { op, args, .. } = entry(index);
                assert_eq!((op, args[0], args[1]), (number::DM_OP.into(), 7, 1));
                let (at, size) = (
                    peek::<u64>(args[2] as usize),
                    peek::<u64>(args[2] as usize + 8),
                );
                assert_eq!(size, 16);
                assert_eq!(
                    peek::<[u32; 2]>(at as usize),
                    [dm::op::SET_PCI_INTX_LEVEL, 0]
                );
                assert_eq!(peek::<[u8; 6]>(at as usize + 8), [0, 0, 0, 5, 0, level]);
            }
            let MulticallEntry { op, args, .. } = entry(2);
            assert_eq!((op, args[0]), (number::EVENT_CHANNEL_OP.into(), 4));
            assert_eq!(peek::<u32>(args[1] as usize), 9);
            poke(call.args[0] + 64 + 8, -2i64);
        }
        0
    });
    let calls = [line(true), line(false), batch::Call::Send(EvtchnPort(9))];
    assert_eq!(
        batch::make(&xen, &calls),
        [Ok(()), Err(Errno::ENOENT), Ok(()), Ok(())]
    );
}

#[test]
fn a_batch_that_xen_refuses_as_a_whole_is_made_one_by_one() {
    let xen = Fake::new(|call| match call.number {
        number::MULTICALL => -38,
        number::DM_OP => -3,
        _ => 0,
    });
    let calls = [line(false), batch::Call::Send(EvtchnPort(9))];
    let results = batch::make(&xen, &calls);
    assert_eq!(results, [Err(Errno::ESRCH), Ok(()), Ok(()), Ok(())]);
    let numbers: Vec<_> = xen.calls().iter().map(|call| call.number).collect();
    assert_eq!(
        numbers,
        [number::MULTICALL, number::DM_OP, number::EVENT_CHANNEL_OP]
    );
}

#[test]
fn the_nth_call_fails_on_demand() {
    let xen = Fake::new(|_| 0);
    xen.fail_at(1, -12);
    let set = |vcpu| vcpu::set_singleshot_timer(&xen, VcpuId(vcpu), 5, true);
    assert_eq!(
        [set(0), set(1), set(2)],
        [Ok(()), Err(Errno::ENOMEM), Ok(())]
    );
    assert_eq!(xen.calls()[2].args[..2], [8, 2]);
}

#[test]
fn grant_operations_go_as_a_list_with_a_status_each() {
    let xen = Fake::new(|call| {
        assert_eq!(call.number, number::GRANT_TABLE_OP);
        let [cmd, at, count, ..] = call.args;
        assert_eq!(count, 2);
        // SAFETY: the lists of two entries are alive during the calls.
        unsafe {
            match cmd {
                0 => {
                    let ops = peek::<[MapOp; 2]>(at);
                    assert_eq!((ops[0].host_addr, ops[0].gref, ops[0].dom), (0x5000, 9, 7));
                    assert_eq!((ops[0].flags, ops[1].flags), (2, 6), "host map, read-only");
                    poke(at + 20, 77u32);
                    poke(at + 32 + 18, -3i16);
                }
                1 => {
                    let ops = peek::<[UnmapOp; 2]>(at);
                    assert_eq!((ops[0].host_addr, ops[0].handle), (0x5000, 77));
                    poke(at + 24 + 20, -4i16);
                }
                5 => {
                    let ops = peek::<[CopyOp; 2]>(at);
                    let [from, to] = ops;
                    assert_eq!((from.flags, from.len), (1, 16));
                    let source = (from.source.address, from.source.domid, from.source.offset);
                    assert_eq!(source, (9, 7, 0xff0));
                    let dest = (from.dest.address, from.dest.domid, from.dest.offset);
                    assert_eq!(dest, (0x12, 0x7ff0, 0x345));
                    assert_eq!((to.flags, to.len), (2, 1));
                    assert_eq!((to.source.address, to.dest.address), (0x12, 9));
                    poke(at + 36, -1i16);
                }
                other => panic!("{other}"),
            }
        }
        0
    });
    let gref = GrantRef(9);
    let mut maps = [
        MapOp::new(0x5000, GUEST, gref, false),
        MapOp::new(0x6000, GUEST, gref, true),
    ];
    let mut unmaps = [UnmapOp::new(0x5000, 77), UnmapOp::new(0x6000, 78)];
    let mut copies = [
        CopyOp::from_grant(GUEST, gref, 0xff0, 0x1_2345, 16),
        CopyOp::to_grant(0x1_2345, GUEST, gref, 0, 1),
    ];
    // SAFETY: nothing happens.
    unsafe {
        assert_eq!(grant_table::map(&xen, &mut maps), Ok(()));
        assert_eq!(grant_table::unmap(&xen, &mut unmaps), Ok(()));
        assert_eq!(grant_table::copy(&xen, &mut copies), Ok(()));
    }
    assert_eq!((maps[0].handle, maps[1].status), (77, -3));
    assert_eq!(unmaps[1].status, -4);
    assert_eq!(copies[0].status, -1);
    assert_eq!(xen.calls().len(), 3);
}
