//! The device: fills the driver's buffers with random bytes.

use vd_virtio::fault::FaultKind;
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, Pass, Progress};

use crate::allowance::Allowance;
use crate::pool::{Pool, Source, Trouble};

/// Most bytes that one request gets. The driver has to expect less than it asked for (5.4.6.1), and asks again.
pub const MAX_REQUEST: u32 = 4096;
/// Bytes made at a time, on the stack.
const PIECE: usize = 64;

/// What it did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Random bytes given.
    pub bytes: u64,
    /// Passes that ended because the allowance was used up.
    pub throttled: u64,
    /// Requests without room for a byte.
    pub errors: u64,
    /// Times that the source got into trouble.
    pub troubles: u64,
}

/// An entropy device.
pub struct EntropyDevice<S> {
    pool: Pool<S>,
    allowance: Allowance,
    counters: Counters,
    /// The driver waits for what could not be given.
    waits: bool,
    /// What `take_news` has told.
    told: Option<Trouble>,
}

impl<S: Source> EntropyDevice<S> {
    /// A device that gives the pool's bytes, no more than the allowance.
    pub fn new(pool: Pool<S>, allowance: Allowance) -> Self {
        Self {
            pool,
            allowance,
            counters: Counters::default(),
            waits: false,
            told: None,
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Most bytes a second that it gives.
    pub fn rate(&self) -> u32 {
        self.allowance.rate()
    }

    /// Why it gives nothing.
    pub fn trouble(&self) -> Option<Trouble> {
        self.pool.trouble()
    }

    /// Whether it has got into trouble, or out of it, since this was asked last.
    pub fn take_news(&mut self) -> Option<Result<(), Trouble>> {
        let trouble = self.pool.trouble();
        let told = core::mem::replace(&mut self.told, trouble);
        (told != trouble).then_some(trouble.map_or(Ok(()), Err))
    }

    /// So many nanoseconds have passed: the allowance grows, and trouble may be over. Returns whether the queue is to be
    /// woken.
    pub fn tick(&mut self, nanoseconds: u64) -> bool {
        self.allowance.refill(nanoseconds);
        let recovered = self.pool.recover().is_ok();
        recovered && core::mem::take(&mut self.waits)
    }

    /// Whether a request can be answered; counts why not.
    fn is_ready(&mut self) -> bool {
        let reason = if self.allowance.bytes() == 0 {
            &mut self.counters.throttled
        } else if self.pool.trouble().is_none() && self.pool.prepare(MAX_REQUEST).is_err() {
            &mut self.counters.troubles
        } else {
            return self.pool.trouble().is_none();
        };
        *reason = reason.saturating_add(1);
        false
    }

    /// Fills the buffers of a request as far as is allowed; returns how far.
    fn serve<M: GuestMemory + ?Sized>(&mut self, mem: &M, chain: &Chain) -> Result<u32, FaultKind> {
        let room = u32::try_from(chain.writable().len()).unwrap_or(u32::MAX);
        let wanted = room.min(MAX_REQUEST).min(self.allowance.bytes());
        let (mut rest, mut written) = (chain.writable(), 0_u32);
        let mut piece = [0; PIECE];
        while written < wanted {
            let len = PIECE.min(usize::try_from(wanted.saturating_sub(written)).unwrap_or(PIECE));
            let Some((here, more)) = rest.split_at(len as u64) else {
                break;
            };
            let bytes = piece.get_mut(..len).unwrap_or(&mut []);
            // It was prepared for that many.
            if self.pool.fill(bytes).is_err() {
                break;
            }
            here.write(mem, bytes)?;
            rest = more;
            let len = u32::try_from(len).unwrap_or(0);
            written = written.saturating_add(len);
            self.allowance.take(len);
        }
        self.counters.bytes = self.counters.bytes.saturating_add(written.into());
        if room == 0 {
            self.counters.errors = self.counters.errors.saturating_add(1);
        }
        Ok(written)
    }
}

impl<S: Source> Device for EntropyDevice<S> {
    fn id(&self) -> DeviceId {
        DeviceId::ENTROPY
    }

    fn features(&self) -> Features {
        Features::IN_ORDER
    }

    fn read_config(&self, _: usize, into: &mut [u8]) {
        // It has none.
        into.fill(0);
    }

    fn reset(&mut self) {
        self.waits = false;
    }

    fn keeps_order(&self, _: u16) -> bool {
        true
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        loop {
            // Nothing is taken that cannot be answered with a byte at least (5.4.6.2).
            if !self.is_ready() {
                self.waits = true;
                return Ok(Progress::Waiting);
            }
            let Some(head) = pass.take(chain)? else {
                return Ok(Progress::Drained);
            };
            let written = self.serve(pass.mem(), chain)?;
            pass.give_back(head, written)?;
        }
    }
}
