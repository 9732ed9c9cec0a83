//! Network devices: each sends the next one a frame, which has to arrive as it was.
//!
//! The frames go past the kernel's protocols, so that both devices can be in one kernel: their type is one that is left to
//! experiments.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use crate::{check, entries, pattern, wait_for};

const DIRECTORY: &str = "/sys/class/net";
/// IEEE 802, local experimental EtherType 1.
const TYPE: u16 = 0x88b5;
const HEADER: usize = 14;
const FRAME: usize = HEADER + 1400;

/// All network devices.
pub(crate) fn names() -> io::Result<Vec<String>> {
    entries(DIRECTORY, "eth")
}

pub(crate) fn use_all(round: u32) -> io::Result<()> {
    let mut devices = Vec::new();
    for name in names()? {
        devices.push(Device::open(&name)?);
    }
    for index in 0..devices.len() {
        let next = (index + 1) % devices.len();
        if next != index {
            send(&devices[index], &devices[next], round)?;
        }
    }
    Ok(())
}

/// A device that is up, and a socket for its frames of our type.
struct Device {
    name: String,
    address: [u8; 6],
    socket: File,
}

impl Device {
    fn open(name: &str) -> io::Result<Self> {
        up(name)?;
        let carrier = format!("{DIRECTORY}/{name}/carrier");
        wait_for(&carrier, || {
            std::fs::read_to_string(&carrier).is_ok_and(|text| text.trim() == "1")
        })?;
        Ok(Self {
            name: name.into(),
            address: address(name)?,
            socket: socket(name)?,
        })
    }
}

fn address(name: &str) -> io::Result<[u8; 6]> {
    let text = std::fs::read_to_string(format!("{DIRECTORY}/{name}/address"))?;
    let bytes = text.trim().split(':');
    let bytes: Vec<u8> = bytes
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes
        .try_into()
        .map_err(|_| io::Error::other(format!("{name} has the address {text}")))
}

fn up(name: &str) -> io::Result<()> {
    // SAFETY: plain calls; the request is a structure of numbers, and lives during the calls.
    unsafe {
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))?;
        let _closes = File::from_raw_fd(socket);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        check(libc::ioctl(
            socket,
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        ))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(
            socket,
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        ))?;
    }
    Ok(())
}

/// A socket that gets a device's frames of our type, and waits five seconds at most for one.
fn socket(name: &str) -> io::Result<File> {
    let kind = TYPE.to_be();
    let c_name = CString::new(name)?;
    // SAFETY: plain calls, with structures that live during them.
    unsafe {
        let socket = check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, kind.into()))?;
        let file = File::from_raw_fd(socket);
        let mut place: libc::sockaddr_ll = std::mem::zeroed();
        place.sll_family = libc::AF_PACKET as u16;
        place.sll_protocol = kind;
        place.sll_ifindex = libc::if_nametoindex(c_name.as_ptr()).cast_signed();
        check(libc::bind(
            socket,
            (&raw const place).cast(),
            size_of_val(&place) as u32,
        ))?;
        let patience = libc::timeval {
            tv_sec: 5,
            tv_usec: 0,
        };
        check(libc::setsockopt(
            file.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const patience).cast(),
            size_of_val(&patience) as u32,
        ))?;
        Ok(file)
    }
}

fn send(from: &Device, to: &Device, round: u32) -> io::Result<()> {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&to.address);
    frame[6..12].copy_from_slice(&from.address);
    frame[12..HEADER].copy_from_slice(&TYPE.to_be_bytes());
    pattern(
        u64::from(round) << 8 | u64::from(from.address[5]),
        &mut frame[HEADER..],
    );
    (&from.socket).write_all(&frame)?;
    let mut found = [0; FRAME + 1];
    // A socket sees what its own device sends, too.
    loop {
        let length = (&to.socket).read(&mut found).map_err(|error| {
            io::Error::other(format!("from {} to {}: {error}", from.name, to.name))
        })?;
        if found[6..12] != to.address {
            return match found[..length] == frame {
                true => Ok(()),
                false => Err(io::Error::other(format!(
                    "{} has got another frame than {} has sent",
                    to.name, from.name
                ))),
            };
        }
    }
}
