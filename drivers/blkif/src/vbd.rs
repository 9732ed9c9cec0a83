//! The disk as a device that the toolstack has given this domain: what [`vd_pv::control`] runs.

use alloc::vec::Vec;

use vd_pv::control::{self, Control, Front, NoRoom, Unusable};
use vd_xenbus::store::View;
use vd_xenbus::{Error, Transport, Xenstore};

use crate::disk::Disk;
use crate::handshake::State;
use crate::nodes::{self, Offer, Properties};
use crate::platform::Platform;

pub use vd_pv::Notice;

/// The control plane of one disk.
pub type Vbd = Control;

/// The numbers of the virtual disks that the toolstack has given this domain, in order.
///
/// # Errors
/// Trouble with xenstore.
pub fn devices<T: Transport>(store: &mut Xenstore<T>) -> Result<Vec<u32>, Error> {
    control::devices(store, "vbd")
}

impl<P: Platform> Front for Disk<P> {
    const KIND: &'static str = "vbd";
    const OFFERED: State = State::Initialised;
    type Properties = Properties;

    fn connect<T: Transport>(
        &mut self,
        view: &mut View<'_, T>,
        backend: &str,
        domain: u16,
    ) -> Result<Result<(), NoRoom>, Error> {
        let offer = Offer::read(view, backend, self.config())?;
        Ok(Disk::connect(self, domain, &offer))
    }

    fn publish<T: Transport>(&self, view: &mut View<'_, T>, frontend: &str) -> Result<(), Error> {
        nodes::publish(view, frontend, self)
    }

    fn properties<T: Transport>(
        &self,
        view: &mut View<'_, T>,
        backend: &str,
    ) -> Result<Result<Properties, Unusable>, Error> {
        Properties::read(view, backend)
    }

    fn open(&mut self, properties: Properties) {
        Disk::open(self, properties);
    }

    fn reread<T: Transport>(
        &mut self,
        view: &mut View<'_, T>,
        backend: &str,
    ) -> Result<Option<u64>, Error> {
        // Nothing else can change while connected. A value that makes no sense changes nothing.
        let known = *Disk::properties(self);
        let sectors = nodes::sectors(view, backend, known.sector_size)?;
        let changed = sectors.filter(|&sectors| sectors != known.sectors);
        if let Some(sectors) = changed {
            self.resize(sectors);
        }
        Ok(changed)
    }

    fn queues(&self) -> usize {
        self.channels().count()
    }

    fn progress(&self) -> u64 {
        self.counters().completed
    }

    fn is_idle(&self) -> bool {
        Disk::is_idle(self)
    }

    fn is_broken(&self) -> bool {
        Disk::is_broken(self)
    }

    fn drain(&mut self) {
        Disk::drain(self);
    }

    fn disconnect(&mut self, in_order: bool) {
        Disk::disconnect(self, in_order);
    }

    fn revoke(&mut self) -> bool {
        Disk::revoke(self)
    }
}
