//! From a copied slot to what is asked for.
//!
//! Xen 4.20 itself only sends `COPY` and `PIO` with 1, 2, 4 or 8 bytes, a count of at least one that stays within a
//! page, and `INVALIDATE`. Nothing here relies on that: what has no meaning becomes a [`Stray`], which is answered
//! like an access to nothing.

use crate::rep::{Rep, RepData};
use crate::slot::{Ioreq, Kind};
use crate::types::{Direction, Space, Width};

/// What the main loop has to do before it completes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// One read. Complete with the value.
    Read {
        /// Address space.
        space: Space,
        /// Address.
        addr: u64,
        /// Size.
        width: Width,
    },
    /// One write. Complete with anything, it is not looked at.
    Write {
        /// Address space.
        space: Space,
        /// Address.
        addr: u64,
        /// Size.
        width: Width,
        /// The value, no wider than `width`.
        value: u64,
    },
    /// Several accesses, or data in guest memory: call [`Rep::run`] and complete with its result.
    Rep(Rep),
    /// Drop every cached mapping of the guest's memory, then complete.
    Invalidate,
}

/// Why a request means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// Neither port nor memory access nor INVALIDATE.
    Type(Kind),
    /// Not 1, 2, 4 or 8 bytes.
    Size(u32),
    /// A count of zero.
    Count,
}

impl Access {
    /// What `request` asks for.
    pub fn decode(request: &Ioreq) -> Result<Self, Stray> {
        let space = match request.kind {
            Kind::Invalidate => return Ok(Access::Invalidate),
            Kind::Pio => Space::Port,
            Kind::Copy => Space::Memory,
            other => return Err(Stray::Type(other)),
        };
        let width = Width::from_bytes(request.size).ok_or(Stray::Size(request.size))?;
        if request.count == 0 {
            return Err(Stray::Count);
        }
        let (addr, dir) = (request.addr, request.control.dir());
        if request.control.data_is_ptr() || request.count > 1 {
            let data = if request.control.data_is_ptr() {
                RepData::GuestMemory(request.data)
            } else {
                RepData::Immediate(request.data & width.mask())
            };
            let backwards = request.control.df();
            return Ok(Access::Rep(Rep {
                space,
                addr,
                width,
                count: request.count,
                backwards,
                dir,
                data,
            }));
        }
        Ok(match dir {
            Direction::Read => Access::Read { space, addr, width },
            Direction::Write => Access::Write {
                space,
                addr,
                width,
                value: request.data & width.mask(),
            },
        })
    }

    /// The address space and the first and last byte touched; `None` for INVALIDATE.
    pub fn span(&self) -> Option<(Space, u64, u64)> {
        match *self {
            Access::Read { space, addr, width }
            | Access::Write {
                space, addr, width, ..
            } => Some((
                space,
                addr,
                addr.saturating_add(width.bytes().saturating_sub(1)),
            )),
            Access::Rep(rep) => {
                let (first, last) = rep.span();
                Some((rep.space, first, last))
            }
            Access::Invalidate => None,
        }
    }
}
