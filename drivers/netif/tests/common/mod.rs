//! A guest with two ports on a switch, its uplink, and a back end behind that: everything between virtqueues and grants.
#![allow(dead_code, reason = "each test uses some of it")]

#[path = "../../../net/tests/common/mod.rs"]
pub(crate) mod net;

use net::World;
use vd_net::{NetFeatures, Takes};
use vd_netif::test_util::{FakeBackend, FakePlatform, Received};
use vd_netif::{PAGES, Properties, Uplink, Vif};
use vd_pv::Front;

pub(crate) const BACKEND: u16 = 3;
/// The number of a station behind the uplink, as addresses have it.
pub(crate) const FAR: usize = 9;

pub(crate) const ALL: Takes = Takes {
    checksum4: true,
    checksum6: true,
    large4: true,
    large6: true,
};

pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) platform: FakePlatform,
    pub(crate) uplink: Uplink<FakePlatform>,
    pub(crate) back: FakeBackend,
}

/// What an uplink says of itself while nothing is wrong, and afterwards.
pub(crate) fn is_broken(rig: &Rig) -> bool {
    rig.uplink.is_broken()
}

impl Rig {
    /// Two ports whose drivers choose these features and have given buffers, and a back end that takes everything.
    pub(crate) fn new(first: NetFeatures, second: NetFeatures) -> Self {
        let mut rig = Self::unconnected(first, second);
        rig.connect(Properties {
            mtu: 1500,
            takes: ALL,
        });
        rig
    }

    pub(crate) fn unconnected(first: NetFeatures, second: NetFeatures) -> Self {
        let world = World::new(&[first, second]).posted(64, 0x1100);
        let platform = FakePlatform::new(PAGES);
        let vif = Vif::new(platform.clone()).unwrap();
        let uplink = Uplink::new(0, vif, &world.switch).unwrap();
        Self {
            world,
            back: FakeBackend::new(&platform, BACKEND),
            platform,
            uplink,
        }
    }

    pub(crate) fn connect(&mut self, properties: Properties) {
        // As the control plane does, without xenstore.
        assert!(self.uplink.link_up(BACKEND, true));
        let [(tx, _), (rx, _)] = self.uplink.vif().channels().unwrap();
        self.back.connect(tx, rx);
        self.uplink.open(properties);
        assert_eq!(self.uplink.take_change(), Some(true));
        self.run();
    }

    /// The connection ends.
    pub(crate) fn disconnect(&mut self) {
        self.back.disconnect();
        self.uplink.disconnect(false);
        assert!(self.uplink.revoke());
    }

    /// What the platform's main loop does until there is nothing to do.
    pub(crate) fn run(&mut self) {
        loop {
            self.world.run();
            let more = self.uplink.run(&self.world.mem, 64);
            let mut woken = false;
            for port in &mut self.world.ports {
                woken |= port.wake();
            }
            if !more && !woken {
                return;
            }
        }
    }

    /// Frames that the back end gets, which it answers.
    pub(crate) fn sent(&mut self) -> Vec<Received> {
        let frames = self.back.take();
        for frame in &frames {
            self.back.answer(frame, 0);
        }
        self.run();
        frames
    }

    /// The back end gives a frame, and everybody does what follows.
    pub(crate) fn give(&mut self, bytes: &[u8], blank: bool, large: Option<(bool, u16)>) {
        self.back.give(bytes, blank, large);
        self.run();
    }

    /// Grants that there are.
    pub(crate) fn grants(&self) -> usize {
        self.platform.0.borrow().grants()
    }
}
