//! A host for tests: domains, a tree and a clock, with a failure wherever a test wants one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use vd_config::keys;
use vd_config::succession::Order;

use crate::domctl::DomainInfo;
use crate::failure::Trouble;
use crate::host::{Bridge, Change, Clock, Host, Hypervisor, Store, Xl, node};
use crate::report::Reporter;
use crate::xlcfg::Config;

/// What the driver domain does once it has its description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It becomes ready.
    #[default]
    Ready,
    /// It fails with this text.
    Fails(&'static str),
    /// It says nothing at all.
    Silent,
    /// It shuts down.
    Dies,
}

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FakeDomain {
    pub(crate) name: String,
    pub(crate) paused: bool,
    pub(crate) dead: bool,
    /// Why it is dead.
    pub(crate) reason: u8,
    pub(crate) target: Option<u16>,
    /// Its settings, as xl has seen them.
    pub(crate) config: Vec<(String, String)>,
}

/// The state of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) domains: BTreeMap<u16, FakeDomain>,
    pub(crate) tree: BTreeMap<String, Vec<u8>>,
    /// Owner and reader.
    pub(crate) permissions: BTreeMap<String, (u16, u16)>,
}

/// The host, and what is going to happen to it.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) behaviour: Behaviour,
    /// Every call, in order.
    pub(crate) log: Vec<String>,
    /// The call that fails.
    pub(crate) fail_at: Option<usize>,
    /// Calls of this kind fail, always.
    pub(crate) fail_kind: Option<&'static str>,
    /// After that many calls the connection to xenstore is lost.
    pub(crate) disconnect_at: Option<usize>,
    disconnected: bool,
    /// After that many calls the operator presses Ctrl-C.
    pub(crate) interrupt_at: Option<usize>,
    /// How the guest `web` ends when vdom waits for that, time after time; it is destroyed when there is nothing left.
    pub(crate) endings: Vec<u8>,
    /// Then it lives on instead, and the operator wants vdom to end.
    pub(crate) lives_on: bool,
    /// It does so without taking any time.
    pub(crate) at_once: bool,
    /// The driver domain attaches no device while its guest runs, and says this.
    pub(crate) refuses: Option<&'static str>,
    /// The guest's driver lets no device go.
    pub(crate) clings: bool,
    /// A driver domain powers off by itself after its guest has gone.
    pub(crate) drivers_end: bool,
    /// A driver domain that is to take the place of another one fails when it is told this.
    pub(crate) fails_at: Option<Order>,
    /// Who has which disk: domain and name.
    pub(crate) disks: Vec<(u16, String)>,
    /// Whether this directory was locked, for each domain that vdom has destroyed.
    pub(crate) directory: PathBuf,
    pub(crate) locked: Vec<bool>,
    pub(crate) now: Duration,
    next_id: u16,
}

/// The world, shared between the parts of a host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(pub(crate) Rc<RefCell<World>>);

impl Fake {
    /// A world in which only dom0 runs.
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        fake.add(0, "Domain-0", "pv");
        fake.0.borrow_mut().next_id = 5;
        fake
    }

    pub(crate) fn host(&self, run_dir: &Path) -> Host {
        Host {
            xl: Box::new(self.clone()),
            store: Box::new(self.clone()),
            hypervisor: Box::new(self.clone()),
            clock: Box::new(self.clone()),
            report: Reporter::new(false),
            run_dir: run_dir.to_owned(),
        }
    }

    /// Adds a running domain.
    pub(crate) fn add(&self, id: u16, name: &str, kind: &str) {
        let mut world = self.0.borrow_mut();
        let config = vec![("type".into(), kind.into())];
        let domain = FakeDomain {
            name: name.into(),
            paused: false,
            dead: false,
            reason: 0,
            target: None,
            config,
        };
        world.state.domains.insert(id, domain);
        world.set(&node(id, "name"), name);
        world.set(&format!("/libxl/{id}/type"), kind);
    }

    pub(crate) fn value(&self, path: &str) -> Option<String> {
        let world = self.0.borrow();
        world
            .state
            .tree
            .get(path)
            .map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub(crate) fn state(&self) -> State {
        self.0.borrow().state.clone()
    }

    pub(crate) fn named(&self, name: &str) -> Option<(u16, FakeDomain)> {
        let world = self.0.borrow();
        let found = world
            .state
            .domains
            .iter()
            .find(|(_, domain)| domain.name == name);
        found.map(|(id, domain)| (*id, domain.clone()))
    }
}

impl World {
    /// Every call starts here.
    fn call(&mut self, kind: &str, what: &str) -> Result<(), Trouble> {
        let number = self.log.len();
        self.log
            .push(format!("{kind} {what}").trim_end().to_owned());
        self.disconnected |= self.disconnect_at == Some(number);
        if self.disconnected && ["read", "list", "change", "wait"].contains(&kind) {
            return Err(Trouble::new("injected loss of the connection", "none"));
        }
        if self.fail_at == Some(number) || self.fail_kind == Some(kind) {
            return Err(Trouble::new(
                format!("injected failure of {kind} {what}"),
                "none",
            ));
        }
        Ok(())
    }

    pub(crate) fn set(&mut self, path: &str, value: &str) {
        self.state.tree.insert(path.into(), value.into());
    }

    pub(crate) fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.state
            .tree
            .retain(|node, _| node != path && !node.starts_with(&below));
        self.state
            .permissions
            .retain(|node, _| node != path && !node.starts_with(&below));
    }

    fn remove_domain(&mut self, id: u16) {
        self.state.domains.remove(&id);
        self.disks.retain(|(of, _)| *of != id);
        self.remove(&format!("/local/domain/{id}"));
        self.remove(&format!("/libxl/{id}"));
    }

    /// Does what was ordered. Returns whether that was all: it takes the place of another one, and does nothing by itself.
    fn obey(&mut self, id: u16) -> bool {
        let text = |world: &Self, key| {
            let value = world.state.tree.get(&node(id, key));
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let succeeds = text(self, keys::VERSION).as_deref() == Some(keys::VERSION_SUCCESSOR);
        let order = text(self, keys::ORDER).and_then(|text| Order::parse(text.as_bytes()));
        let order = order.unwrap_or(Order::None);
        let (stage, state) = (node(id, keys::STATUS_STAGE), node(id, keys::STATUS_STATE));
        if self.fails_at == Some(order) && (succeeds || order != Order::None) {
            if succeeds {
                self.set(&state, "failed");
            } else {
                self.set(&stage, "refused");
            }
            self.set(&node(id, keys::STATUS_ERROR), "as the test wants it");
            return true;
        }
        let memory = format!("state={}+4096 3={}+8192", 4096 * u64::from(id), 1 << 20);
        match order {
            Order::None if !succeeds => {}
            Order::None | Order::Prepare => {
                self.set(&node(id, keys::STATUS_MEMORY), &memory);
                self.set(&stage, "prepared");
            }
            Order::Quiesce => self.set(&stage, "quiesced"),
            Order::Connect => self.set(&stage, "connected"),
            Order::Export => self.set(&stage, "exported"),
            Order::Resume => self.set(&stage, ""),
            Order::TakeOver => self.set(&state, "ready"),
            Order::Release => self.remove_domain(id),
        }
        succeeds
    }

    fn next_ending(&mut self) {
        let web = self
            .state
            .domains
            .iter_mut()
            .find(|(_, domain)| domain.name == "web");
        let Some((&id, domain)) = web else { return };
        match self.endings.pop() {
            Some(reason) => (domain.dead, domain.reason) = (true, reason),
            None if self.lives_on => self.interrupt_at = Some(0),
            None => self.remove_domain(id),
        }
    }

    /// What the domains do while vdom sleeps.
    fn live(&mut self) {
        let ids: Vec<u16> = self.state.domains.keys().copied().collect();
        for id in ids {
            self.live_driver(id);
        }
    }

    /// What xl does with an entry of `virtio=`.
    fn add_virtio(&mut self, guest: u16, number: usize, entry: &str) {
        let items: Vec<&str> = entry.split(',').map(str::trim).collect();
        let item = |key: &str| items.iter().find_map(|item| item.strip_prefix(key));
        let name = item("backend=").unwrap();
        let found = self.state.domains.iter().find(|(_, it)| it.name == name);
        let driver = *found.expect("xl wants the back end to be there").0;
        let kind = items.iter().position(|it| *it == "type=virtio").unwrap();
        let kind = format!("virtio,{}", items[kind + 1]);
        let backend = node(driver, &format!("backend/virtio/{guest}/{number}"));
        let frontend = node(guest, &format!("device/virtio/{number}"));
        self.state
            .permissions
            .insert(backend.clone(), (driver, guest));
        self.state
            .permissions
            .insert(frontend.clone(), (guest, driver));
        let id = guest.to_string();
        for (key, value) in [
            ("frontend", frontend.as_str()),
            ("frontend-id", &id),
            ("online", "1"),
            ("state", "1"),
            ("type", &kind),
            ("base", "0"),
        ] {
            self.set(&format!("{backend}/{key}"), value);
        }
        let id = driver.to_string();
        for (key, value) in [("backend", &backend), ("backend-id", &id)] {
            self.set(&format!("{frontend}/{key}"), value);
        }
        self.set(&format!("{frontend}/state"), "1");
        self.set(
            &format!("/libxl/{guest}/device/virtio/{number}/backend"),
            &backend,
        );
    }

    /// A driver domain that is ready looks at what the toolstack asks for.
    fn live_devices(&mut self, id: u16) {
        let below = node(id, "backend/virtio/");
        let states = self.state.tree.keys();
        let states = states.filter(|path| path.starts_with(&below) && path.ends_with("/state"));
        let states: Vec<String> = states.cloned().collect();
        for path in states {
            let directory = path.strip_suffix("/state").unwrap();
            let (guest, slot) = directory[below.len()..].split_once('/').unwrap();
            let frontend = format!("/local/domain/{guest}/device/virtio/{slot}/state");
            let forced = !self.state.tree.contains_key(&frontend);
            let is = |value: &[u8]| self.state.tree[&path] == value;
            match self.refuses {
                _ if is(b"5") && (forced || !self.clings) => self.set(&path, "6"),
                Some(why) if is(b"1") => {
                    self.set(&path, "6");
                    self.set(&format!("{directory}/error"), why);
                }
                None if is(b"1") => self.set(&path, "2"),
                _ => {}
            }
        }
    }

    fn live_driver(&mut self, id: u16) {
        let Some(domain) = self.state.domains.get(&id) else {
            return;
        };
        if domain.paused || !self.state.permissions.contains_key(&node(id, keys::STATUS)) {
            return;
        }
        if let Some(target) = domain.target
            && self.drivers_end
            && !self.state.domains.contains_key(&target)
        {
            self.remove_domain(id);
            return;
        }
        if self.obey(id) {
            return;
        }
        let state = node(id, keys::STATUS_STATE);
        match (
            self.state.tree.contains_key(&node(id, keys::COMMIT)),
            self.behaviour,
        ) {
            (_, Behaviour::Silent) => {}
            (false, _) => self.set(&state, "waiting"),
            (true, Behaviour::Ready) => {
                self.set(&state, "ready");
                self.live_devices(id);
            }
            (true, Behaviour::Fails(text)) => {
                self.set(&state, "failed");
                self.set(&node(id, keys::STATUS_ERROR), text);
            }
            (true, Behaviour::Dies) => {
                if let Some(domain) = self.state.domains.get_mut(&id) {
                    domain.dead = true;
                }
            }
        }
    }
}

impl Xl for Fake {
    fn create(&mut self, path: &Path, overrides: &[String]) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        let mut config = Config::default();
        config
            .add("xl", &std::fs::read_to_string(path).unwrap())
            .unwrap();
        for text in overrides {
            config.add("override", text).unwrap();
        }
        let text = |key: &str| {
            config
                .get(key)
                .and_then(|setting| setting.text().ok())
                .map(str::to_owned)
        };
        let name = text("name").unwrap();
        world.call("create", &name)?;
        if let Some(table) = text("acpi_firmware") {
            assert!(std::fs::read(table).unwrap().starts_with(b"SSDT"));
        }
        world.next_id += 1;
        let id = world.next_id;
        let settings = config.settings().iter();
        let settings = settings.filter_map(|s| Some((s.key.clone(), s.text().ok()?.to_owned())));
        let domain = FakeDomain {
            name: name.clone(),
            paused: true,
            dead: false,
            reason: 0,
            target: None,
            config: settings.collect(),
        };
        world.state.domains.insert(id, domain);
        world.set(&node(id, "name"), &name);
        world.set(
            &format!("/libxl/{id}/type"),
            &text("type").unwrap_or_default(),
        );
        let virtio = config.get("virtio").map(|list| list.texts().unwrap());
        for (number, (_, entry)) in virtio.unwrap_or_default().iter().enumerate() {
            world.add_virtio(id, number, entry);
        }
        Ok(())
    }

    fn unpause(&mut self, id: u16) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("unpause", &id.to_string())?;
        world.state.domains.get_mut(&id).unwrap().paused = false;
        Ok(())
    }

    fn destroy(&mut self, id: u16) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("destroy", &id.to_string())?;
        let locked = crate::os::is_locked(&world.directory);
        world.locked.push(locked);
        assert!(
            world.state.domains.contains_key(&id),
            "domain {id} does not exist"
        );
        world.remove_domain(id);
        Ok(())
    }

    fn rename(&mut self, id: u16, name: &str) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("rename", &format!("{id} {name}"))?;
        let taken = world
            .state
            .domains
            .values()
            .any(|domain| domain.name == name);
        assert!(!taken, "{name} is taken");
        if let Some(domain) = world.state.domains.get_mut(&id) {
            domain.name = name.into();
        }
        world.set(&node(id, "name"), name);
        Ok(())
    }

    fn block_detach(&mut self, id: u16, disk: &str) -> Result<(), Trouble> {
        self.only_log("detach", &format!("{id} {disk}"))?;
        let disks = &mut self.0.borrow_mut().disks;
        let before = disks.len();
        disks.retain(|it| *it != (id, disk.into()));
        assert!(disks.len() < before, "it has no such disk");
        Ok(())
    }

    fn block_attach(&mut self, id: u16, disk: &str) -> Result<(), Trouble> {
        self.only_log("attach", &format!("{id} {disk}"))?;
        let name = crate::driver::disks::device(disk).unwrap().to_string();
        let disks = &mut self.0.borrow_mut().disks;
        if disks.iter().any(|(_, has)| *has == name) {
            return Err(Trouble::new("another domain has it", "none"));
        }
        disks.push((id, name));
        Ok(())
    }

    fn trigger_nmi(&mut self, id: u16) -> Result<(), Trouble> {
        self.only_log("nmi", &id.to_string())
    }
}

impl Fake {
    /// A call that changes nothing that tests look at.
    fn only_log(&mut self, kind: &str, what: &str) -> Result<(), Trouble> {
        self.0.borrow_mut().call(kind, what)
    }
}

impl Store for Fake {
    fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("read", path)?;
        let below = format!("{path}/");
        let directory = world
            .state
            .tree
            .keys()
            .chain(world.state.permissions.keys())
            .any(|node| node.starts_with(&below))
            || world.state.permissions.contains_key(path);
        Ok(world
            .state
            .tree
            .get(path)
            .cloned()
            .or_else(|| directory.then(Vec::new)))
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("list", path)?;
        let below = format!("{path}/");
        let names = world
            .state
            .tree
            .keys()
            .filter_map(|node| node.strip_prefix(&below));
        let mut names: Vec<String> = names
            .filter_map(|rest| rest.split('/').next())
            .map(str::to_owned)
            .collect();
        names.dedup();
        Ok(names)
    }

    fn change(&mut self, changes: &[Change]) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("change", "")?;
        for change in changes {
            match change {
                Change::Remove(path) => world.remove(path),
                Change::Directory {
                    path,
                    owner,
                    reader,
                } => {
                    world
                        .state
                        .permissions
                        .insert(path.clone(), (*owner, *reader));
                }
                Change::Write { path, value } => world.set(path, value),
            }
        }
        Ok(())
    }

    fn wait_for_an_end(&mut self, time: Duration) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("wait", "")?;
        if !world.at_once {
            world.now += time;
        }
        world.live();
        world.next_ending();
        Ok(())
    }

    fn reconnect(&mut self) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("reconnect", "")?;
        world.disconnected = false;
        Ok(())
    }
}

impl Hypervisor for Fake {
    fn domain_info(&mut self, id: u16) -> Result<Option<DomainInfo>, Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("info", &id.to_string())?;
        Ok(world.state.domains.get(&id).map(|domain| DomainInfo {
            dying: false,
            hvm: domain
                .config
                .iter()
                .any(|(key, value)| key == "type" && value != "pv"),
            shutdown: domain.dead,
            paused: domain.paused,
            reason: domain.reason,
        }))
    }

    fn set_target(&mut self, driver: u16, guest: u16) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.call("set_target", &format!("{driver} {guest}"))?;
        assert!(world.state.domains.contains_key(&guest));
        let driver = world.state.domains.get_mut(&driver).unwrap();
        assert_eq!(driver.target, None, "one target for ever");
        driver.target = Some(guest);
        Ok(())
    }

    fn pause(&mut self, id: u16) -> Result<(), Trouble> {
        self.only_log("pause", &id.to_string())?;
        self.0
            .borrow_mut()
            .state
            .domains
            .get_mut(&id)
            .unwrap()
            .paused = true;
        Ok(())
    }

    fn unpause(&mut self, id: u16) -> Result<(), Trouble> {
        Xl::unpause(self, id)
    }

    fn bridge(
        &mut self,
        from: (u16, u64),
        to: (u16, u64),
        bytes: u64,
    ) -> Result<Box<dyn Bridge>, Trouble> {
        self.only_log("bridge", &format!("{from:?} {to:?} {bytes}"))?;
        Ok(Box::new(FakeBridge(self.clone(), from.0)))
    }
}

/// A piece of memory.
struct FakeBridge(Fake, u16);

impl Bridge for FakeBridge {
    fn copy(&mut self) -> u64 {
        let _ = self.0.only_log("copy", &self.1.to_string());
        4096
    }
}

impl Clock for Fake {
    fn now(&mut self) -> Duration {
        self.0.borrow().now
    }

    fn sleep(&mut self, time: Duration) {
        let mut world = self.0.borrow_mut();
        world.now += time;
        world.live();
    }

    fn interrupted(&mut self) -> bool {
        let world = self.0.borrow();
        world.interrupt_at.is_some_and(|at| world.log.len() >= at)
    }
}
