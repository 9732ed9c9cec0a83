//! A driver and hosts that do anything in any order: every byte is accounted for, and what is kept is bounded.

mod common;

use common::{BUFFER, MULTIPORT, Rig};
use proptest::prelude::*;
use vd_console::{CONSOLE_BYTES, INPUT_BYTES, NO_PORT, PORT_BYTES, event};

const PORTS: usize = 4;

fn check(rig: &mut Rig) -> Result<(), TestCaseError> {
    let mut unread = 0;
    let mut waiting = 0;
    for port in 0..PORTS {
        let device = rig.device();
        let bound = if port == 0 { CONSOLE_BYTES } else { PORT_BYTES };
        prop_assert!(device.unread(port) <= bound);
        unread += device.unread(port) as u64;
        prop_assert_eq!(device.capacity(port), INPUT_BYTES);
        waiting += (device.capacity(port) - device.room(port)) as u64;
    }
    let c = rig.device().counters();
    prop_assert_eq!(c.out_bytes, c.out_read + c.out_lost + unread);
    prop_assert_eq!(c.in_bytes, c.in_given + c.in_dropped + waiting);
    prop_assert!(!rig.is_broken());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_byte_is_accounted_for(
        multiport in any::<bool>(),
        steps in prop::collection::vec((0..10_u8, 0..5_usize, any::<u16>()), 0..150),
    ) {
        let features = if multiport { MULTIPORT } else { 0 };
        let mut rig = Rig::new(&["a", "b", "c"], features);
        let (mut read, mut written, mut given) = (0, 0, 0);
        for (what, port, number) in steps {
            let queue = [0, 4, 6, 8, 2][port];
            match what {
                0 | 1 => {
                    let bytes = vec![number as u8; 1 + usize::from(number) % BUFFER as usize];
                    // Queue 3 is for messages, which have a form.
                    if queue != 2 {
                        rig.send(queue + 1, &bytes);
                    }
                }
                2 => {
                    rig.give(queue);
                }
                3 if multiport => {
                    let events = [event::PORT_READY, event::PORT_OPEN, number % 9];
                    let event = events[usize::from(number % 3)];
                    rig.control(port as u32, event, number >> 8 & 1);
                }
                4 if multiport => {
                    rig.control(NO_PORT, event::DEVICE_READY, u16::from(number % 4 != 0));
                }
                5 => {
                    let mut bytes = vec![0; usize::from(number)];
                    read += rig.device().read(port, &mut bytes) as u64;
                    rig.run();
                }
                6 => written += rig.host_writes(port, &vec![7; usize::from(number) % 6000]) as u64,
                7 if port < PORTS => rig.host_attaches(port),
                8 => rig.host_detaches(port),
                9 if number % 8 == 0 => rig.start(features),
                _ => {}
            }
            for queue in 0..10 {
                let used = rig.used(queue);
                if [0, 4, 6, 8].contains(&queue) {
                    given += used.concat().len() as u64;
                }
            }
            check(&mut rig)?;
        }
        let counters = rig.device().counters();
        prop_assert_eq!((counters.out_read, counters.in_bytes), (read, written));
        prop_assert!(counters.in_given >= given, "what was used before a reset was not looked at");
    }
}
