//! The steps from one driver domain to another, and back as long as that is possible.

use std::time::Duration;

use vd_config::succession::{Order, Piece, Stage, Use};
use vd_config::{State, TargetType, keys};

use super::Pair;
use crate::attach;
use crate::failure::{At, Failure, Trouble};
use crate::host::{Bridge, Change, Domain, Host, node};

/// How often a driver domain's progress is looked at while the guest is paused.
const POLL: Duration = Duration::from_millis(2);
/// How often otherwise: each look is work for a CPU that the driver domain may be waiting for.
const PATIENT: Duration = Duration::from_millis(20);
/// How long a driver domain that is to let go of the guest may take.
const LETTING_GO: Duration = Duration::from_secs(5);

/// What it has come to.
pub(super) struct Done {
    pub(super) new: Domain,
    /// How long the guest was paused, and how long a request may have waited.
    pub(super) paused: Duration,
    pub(super) waited: Duration,
}

/// What there is to copy.
struct Bridges {
    state: Box<dyn Bridge>,
    disks: Vec<Box<dyn Bridge>>,
}

/// From one driver domain to another.
pub(super) struct Succession<'a> {
    host: &'a mut Host,
    pair: &'a Pair,
    timeout: Duration,
    new: Option<Domain>,
    /// Its name, from when it may be there on.
    name: Option<String>,
    /// Disks that the old one has lost, by their places in the list, and whether the new one has them.
    moved: Vec<(usize, bool)>,
    /// Whether the old one was told to do anything.
    is_old_told: bool,
    /// Whether the guest is paused.
    is_paused: bool,
    /// Whether the new one may serve the guest.
    may_serve: bool,
}

impl<'a> Succession<'a> {
    pub(super) fn new(host: &'a mut Host, pair: &'a Pair, timeout: Duration) -> Self {
        Self {
            host,
            pair,
            timeout,
            new: None,
            name: None,
            moved: Vec::new(),
            is_old_told: false,
            is_paused: false,
            may_serve: false,
        }
    }

    /// All steps. After a failure [`Succession::take_back`] lets the old one go on.
    pub(super) fn run(&mut self) -> Result<Done, Failure> {
        let Pair { guest, old, .. } = self.pair;
        let new = self.start()?;
        self.wait(&new, "prepare", Stage::Prepared)?;
        self.is_old_told = true;
        self.order(old, Order::Prepare)?;
        self.wait(old, "prepare", Stage::Prepared)?;
        let Bridges {
            mut state,
            mut disks,
        } = self.bridges(&new)?;
        for disk in &mut disks {
            let copied = disk.copy();
            self.host.report.step(
                &old.name,
                &format!("{} KiB of a disk in memory copied", copied >> 10),
            );
        }
        let start = self.host.clock.now();
        self.order(old, Order::Quiesce)?;
        self.wait(old, "finish requests", Stage::Quiesced)?;
        self.move_disks(&new)?;
        self.order(&new, Order::Connect)?;
        self.wait(&new, "connect disks", Stage::Connected)?;
        // Most of what was written since is copied while the guest still runs.
        for disk in &mut disks {
            let copied = disk.copy();
            self.host.report.step(
                &old.name,
                &format!("{} KiB of it copied again", copied >> 10),
            );
        }
        let pausing = self.host.clock.now();
        self.is_paused = true;
        self.host
            .hypervisor
            .pause(guest.id)
            .at(&guest.name, "pause")?;
        self.order(old, Order::Export)?;
        self.wait(old, "write down where the devices stand", Stage::Exported)?;
        state.copy();
        for disk in &mut disks {
            disk.copy();
        }
        self.may_serve = true;
        self.order(&new, Order::TakeOver)?;
        self.wait_until_serving(&new)?;
        // From here on there is no way back: the new one serves.
        self.unpause();
        let now = self.host.clock.now();
        Ok(Done {
            new,
            paused: now.saturating_sub(pausing),
            waited: now.saturating_sub(start),
        })
    }

    /// The same after the old one has crashed: it has let go of the guest, and what it has left is in its memory.
    pub(super) fn run_after_crash(&mut self) -> Result<Done, Failure> {
        let Pair { guest, old, .. } = self.pair;
        let start = self.host.clock.now();
        // What it asks for now nobody hears, and what it reads makes no sense.
        self.is_paused = true;
        self.host
            .hypervisor
            .pause(guest.id)
            .at(&guest.name, "pause")?;
        let new = self.start()?;
        self.wait(&new, "prepare", Stage::Prepared)?;
        let Bridges {
            mut state,
            mut disks,
        } = self.bridges(&new)?;
        state.copy();
        for disk in &mut disks {
            disk.copy();
        }
        drop((state, disks));
        // Its disks' back ends end what it has asked for before they let go.
        let destroyed = self.host.xl.destroy(old.id);
        destroyed.at(&old.name, "destroy crashed driver domain")?;
        for (disk, text) in &self.pair.disks {
            self.host
                .report
                .step(&new.name, &format!("moving disk {disk} to it"));
            let attached = self.host.xl.block_attach(new.id, text);
            attached.at(&new.name, "attach disk")?;
        }
        self.order(&new, Order::Connect)?;
        self.wait(&new, "connect disks", Stage::Connected)?;
        self.may_serve = true;
        self.order(&new, Order::TakeOver)?;
        self.wait_until_serving(&new)?;
        self.unpause();
        let passed = self.host.clock.now().saturating_sub(start);
        Ok(Done {
            new,
            paused: passed,
            waited: passed,
        })
    }

    /// Starts the new driver domain, without disks, gives it power over the guest, and tells it what it is to serve.
    fn start(&mut self) -> Result<Domain, Failure> {
        const STEP: &str = "start driver domain";
        let Pair {
            guest,
            old,
            devices,
            config,
            ..
        } = self.pair;
        let name = format!("{}.new", old.name);
        let mut overrides = self.pair.overrides.clone();
        overrides.push(format!("name={}", crate::driver::quote(&name)));
        overrides.push("disk=[]".into());
        let host = &mut *self.host;
        host.report.step(
            &name,
            &format!("xl create -p {} {}", config.display(), overrides.join(" ")),
        );
        self.name = Some(name.clone());
        host.xl.create(config, &overrides).at(&name, STEP)?;
        let found = host.find(&name).at(&name, STEP)?;
        let new = found.ok_or_else(|| {
            let what = "xl has created it, but it is not in xenstore";
            Trouble::new(what, format!("see xl list; xl destroy {name}")).at(&name, STEP)
        })?;
        self.new = Some(new.clone());
        attach::prepare(host, &new)?;
        host.xl.unpause(new.id).at(&name, STEP)?;
        attach::check_networks(host, &new, devices)?;
        let paired = host.hypervisor.set_target(new.id, guest.id);
        paired.at(&name, "set target")?;
        let mut changes = attach::description(new.id, guest.id, TargetType::Hvm, devices);
        changes.push(Change::Write {
            path: node(new.id, keys::VERSION),
            value: keys::VERSION_SUCCESSOR.into(),
        });
        // What the guest has read when it started, whichever devices it had then.
        let table = host.text(&node(old.id, keys::TABLE)).at(&name, STEP)?;
        changes.extend(table.map(|value| Change::Write {
            path: node(new.id, keys::TABLE),
            value,
        }));
        host.store.change(&changes).at(&name, "describe devices")?;
        Ok(new)
    }

    /// What there is to copy: where the devices stand, and the disks that are in memory.
    fn bridges(&mut self, new: &Domain) -> Result<Bridges, Failure> {
        const STEP: &str = "copy memory";
        let old = &self.pair.old;
        let (from, to) = (self.pieces(old)?, self.pieces(new)?);
        let (mut state, mut disks) = (None, Vec::new());
        for piece in &from {
            let counterpart = to
                .iter()
                .find(|it| it.of == piece.of && it.len == piece.len);
            let Some(counterpart) = counterpart.filter(|_| from.len() == to.len()) else {
                return Err(Trouble::new(
                    format!("the two driver domains do not agree about the memory for {piece}"),
                    "use an image of the same release",
                )
                .at(&new.name, STEP));
            };
            let bridge = self.host.hypervisor.bridge(
                (old.id, piece.start),
                (new.id, counterpart.start),
                piece.len,
            );
            let bridge = bridge.at(&new.name, STEP)?;
            match piece.of {
                Use::State => state = Some(bridge),
                Use::Disk(_) => disks.push(bridge),
            }
        }
        let state = state.ok_or_else(|| {
            Trouble::new("it does not say where", "use an image of the same release")
                .at(&old.name, STEP)
        })?;
        Ok(Bridges { state, disks })
    }

    fn pieces(&mut self, domain: &Domain) -> Result<Vec<Piece>, Failure> {
        const STEP: &str = "copy memory";
        let value = self.host.store.read(&node(domain.id, keys::STATUS_MEMORY));
        let value = value.at(&domain.name, STEP)?.unwrap_or_default();
        let pieces: Result<Vec<Piece>, _> = Piece::parse_all(&value).collect();
        pieces.map_err(|error| {
            Trouble::new(error.to_string(), "use an image of the same release")
                .at(&domain.name, STEP)
        })
    }

    /// No two of them ever have a disk: it is taken from the one before it is given to the other.
    fn move_disks(&mut self, new: &Domain) -> Result<(), Failure> {
        let old = &self.pair.old;
        for (index, (disk, text)) in self.pair.disks.iter().enumerate() {
            self.host
                .report
                .step(&new.name, &format!("moving disk {disk} to it"));
            self.moved.push((index, false));
            let detached = self.host.xl.block_detach(old.id, &disk.to_string());
            detached.at(&old.name, "detach disk")?;
            if let Some(last) = self.moved.last_mut() {
                last.1 = true;
            }
            let attached = self.host.xl.block_attach(new.id, text);
            attached.at(&new.name, "attach disk")?;
        }
        Ok(())
    }

    fn order(&mut self, domain: &Domain, order: Order) -> Result<(), Failure> {
        give_order(self.host, domain, order)
    }

    /// Waits until a driver domain has done what it was told.
    fn wait(&mut self, domain: &Domain, step: &'static str, wanted: Stage) -> Result<(), Failure> {
        self.wait_for(domain, step, |host, id| {
            let stage = host.store.read(&node(id, keys::STATUS_STAGE))?;
            let stage = stage.as_deref().and_then(Stage::parse);
            Ok(match stage {
                Some(Stage::Refused) => Err(()),
                stage => Ok(stage == Some(wanted)),
            })
        })
    }

    fn wait_until_serving(&mut self, domain: &Domain) -> Result<(), Failure> {
        self.wait_for(domain, "take over", |host, id| {
            Ok(Ok(host.state(id)? == Some(State::Ready)))
        })
    }

    /// Waits until `is_done`, whose inner error is a refusal.
    fn wait_for(
        &mut self,
        domain: &Domain,
        step: &'static str,
        is_done: impl Fn(&mut Host, u16) -> Result<Result<bool, ()>, Trouble>,
    ) -> Result<(), Failure> {
        let name = &domain.name;
        let start = self.host.clock.now();
        let pause = if self.is_paused { POLL } else { PATIENT };
        let host = &mut *self.host;
        loop {
            let done = is_done(host, domain.id).at(name, step)?;
            if done == Ok(true) {
                host.report.step(name, &format!("done: {step}"));
                return Ok(());
            }
            if done.is_err() || host.state(domain.id).at(name, step)? == Some(State::Failed) {
                let why = host.text(&node(domain.id, keys::STATUS_ERROR));
                let why = why.at(name, step)?.filter(|text| !text.is_empty());
                return Err(Trouble::new(
                    why.unwrap_or_else(|| "it cannot, and does not say why".into()),
                    format!("its console may say more: xl console {name}"),
                )
                .at(name, step));
            }
            let info = host.hypervisor.domain_info(domain.id).at(name, step)?;
            let what = if !info.is_some_and(|info| info.alive()) {
                Some("it has died".to_owned())
            } else if host.clock.interrupted() {
                Some("interrupted".to_owned())
            } else if host.clock.now().saturating_sub(start) >= self.timeout {
                Some(format!("not within {} s", self.timeout.as_secs()))
            } else {
                None
            };
            if let Some(what) = what {
                let remedy = format!(
                    "/var/log/xen/console/guest-{name}.log and xl dmesg may say why; the guest is served as before"
                );
                return Err(Trouble::new(what, remedy).at(name, step));
            }
            host.clock.sleep(pause);
        }
    }

    /// Ends the new one after the old one has crashed: nobody serves the guest.
    pub(super) fn give_up(&mut self) {
        let found = |name: String| self.host.find(&name).ok().flatten();
        if let Some(new) = self.new.take().or_else(|| self.name.take().and_then(found)) {
            self.end(&new);
        }
        if self.is_paused {
            self.unpause();
        }
        let guest = &self.pair.guest;
        let what = format!("nobody serves it (vdom destroy {})", guest.name);
        self.note(guest, &what);
    }

    /// Lets the old one go on. Whatever cannot be done is told.
    pub(super) fn take_back(&mut self) {
        let Pair { guest, old, .. } = self.pair;
        let found = |name: String| self.host.find(&name).ok().flatten();
        if let Some(new) = self.new.take().or_else(|| self.name.take().and_then(found)) {
            self.end(&new);
        }
        for (index, _) in std::mem::take(&mut self.moved).into_iter().rev() {
            let Some((disk, text)) = self.pair.disks.get(index) else {
                continue;
            };
            // One that it still has is refused, and stays.
            if let Err(trouble) = self.host.xl.block_attach(old.id, text)
                && !self.has_disk(old, disk.number())
            {
                self.note(
                    old,
                    &format!("disk {disk} is not attached again: {}", trouble.what),
                );
            }
        }
        if self.is_old_told {
            let resumed = self.order(old, Order::Resume);
            let resumed = resumed.and_then(|()| self.wait(old, "go on", Stage::None));
            if let Err(failure) = resumed {
                self.note(old, &failure.to_string());
            }
        }
        if self.is_paused {
            self.unpause();
        }
        self.note(
            guest,
            &format!("{} (id {}) serves it as before", old.name, old.id),
        );
    }

    fn unpause(&mut self) {
        let guest = &self.pair.guest;
        let mut unpause = || self.host.hypervisor.unpause(guest.id);
        if let Err(trouble) = unpause().or_else(|_| unpause()) {
            let what = format!(
                "it stays paused: {} (xl unpause {})",
                trouble.what, guest.name
            );
            self.note(guest, &what);
        }
    }

    fn has_disk(&mut self, domain: &Domain, number: u32) -> bool {
        let path = node(domain.id, &format!("device/vbd/{number}/backend"));
        matches!(self.host.store.read(&path), Ok(Some(_)))
    }

    fn note(&self, domain: &Domain, what: &str) {
        self.host.report.note(&domain.name, what);
    }

    /// Ends the new one. If it may serve the guest already, it has to let go of it: only itself can.
    fn end(&mut self, new: &Domain) {
        if self.may_serve && self.host.xl.trigger_nmi(new.id).is_ok() {
            let end = self.host.clock.now() + LETTING_GO;
            while self.host.clock.now() < end {
                let info = self.host.hypervisor.domain_info(new.id);
                if !matches!(info, Ok(Some(info)) if info.alive()) {
                    break;
                }
                self.host.clock.sleep(POLL);
            }
        }
        if let Err(trouble) = self.host.xl.destroy(new.id)
            && !matches!(self.host.exists(new.id), Ok(false))
        {
            self.note(new, &format!("it is not destroyed: {}", trouble.what));
        }
    }
}

/// Tells a driver domain what to do next.
fn give_order(host: &mut Host, domain: &Domain, order: Order) -> Result<(), Failure> {
    host.report
        .step(&domain.name, &format!("order: {}", order.as_str()));
    let write = |key: &str, value: &str| Change::Write {
        path: node(domain.id, key),
        value: value.into(),
    };
    let changes = [
        // What it has said to an earlier order says nothing about this one.
        write(
            keys::STATUS_STAGE,
            if order == Order::Resume { "?" } else { "" },
        ),
        write(keys::ORDER, order.as_str()),
    ];
    host.store
        .change(&changes)
        .at(&domain.name, "tell what to do")
}

/// The guest is another's: lets the old one end.
pub(super) fn release(host: &mut Host, old: &Domain) -> Result<(), Failure> {
    give_order(host, old, Order::Release)
}
