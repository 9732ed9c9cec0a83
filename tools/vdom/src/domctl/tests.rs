//! Against a Xen that looks at the bytes.

use super::*;

/// A Xen with one interface version and domains 0 (PV), 3 (HVM) and 7 (PVH, its own target set).
struct FakeXen {
    version: u32,
    calls: u32,
    old: bool,
    error: Option<i32>,
}

const XEN: FakeXen = FakeXen {
    version: 0x17,
    calls: 0,
    old: false,
    error: None,
};

impl FakeXen {
    fn flags(domain: u16) -> Option<u32> {
        match domain {
            0 => Some(0),
            3 => Some(DOMINF_HVM_GUEST | DOMINF_PAUSED),
            7 => Some(DOMINF_HVM_GUEST | DOMINF_DYING | DOMINF_SHUTDOWN),
            _ => None,
        }
    }
}

fn errno(number: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(number))
}

impl Issue for FakeXen {
    fn issue(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.calls += 1;
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let domain = u16::from_ne_bytes([bytes[8], bytes[9]]);
        if word(4) != self.version {
            return errno(libc::EACCES);
        }
        if let Some(error) = self.error {
            return errno(error);
        }
        match word(0) {
            GETDOMAININFO => {
                let mut found = domain;
                if self.old && domain == 4 {
                    found = 7;
                }
                let Some(flags) = Self::flags(found) else {
                    return errno(libc::ESRCH);
                };
                bytes[16..18].copy_from_slice(&found.to_ne_bytes());
                bytes[20..24].copy_from_slice(&flags.to_ne_bytes());
                Ok(())
            }
            SET_TARGET => match (domain, word(16)) {
                (7, 3) => Ok(()),
                (_, 0) => errno(libc::EOPNOTSUPP),
                (a, b) if u32::from(a) == b => errno(libc::EINVAL),
                _ => errno(libc::ESRCH),
            },
            other => panic!("domctl {other}"),
        }
    }
}

#[test]
fn every_version_in_the_range_is_found() {
    for version in RANGE {
        let found = Domctls::probe(FakeXen { version, ..XEN }).unwrap();
        assert_eq!(found.version(), version);
    }
}

#[test]
fn the_current_version_is_found_at_once() {
    assert_eq!(Domctls::probe(XEN).unwrap().xen.calls, 1);
}

#[test]
fn an_unknown_version_is_reported() {
    let error = Domctls::probe(FakeXen {
        version: 0x1000,
        ..XEN
    })
    .map(|_| ())
    .unwrap_err();
    assert!(
        error.what.contains("no domctl interface version"),
        "{}",
        error.what
    );
    assert!(error.remedy.contains("update vdom"));
}

/// Attack case 38: errors from the hypercall are reported, not taken for a wrong version.
#[test]
fn other_errors_end_the_search() {
    let xen = FakeXen {
        error: Some(libc::EPERM),
        ..XEN
    };
    let error = Domctls::probe(xen).map(|_| ()).unwrap_err();
    assert!(error.remedy.contains("dom0"), "{error:?}");
}

#[test]
fn domains_are_described() {
    let mut domctls = Domctls::probe(XEN).unwrap();
    let guest = domctls.domain_info(3).unwrap().unwrap();
    assert!(guest.hvm && guest.paused && guest.alive());
    assert!(!domctls.domain_info(7).unwrap().unwrap().alive());
    assert!(!domctls.domain_info(0).unwrap().unwrap().hvm);
    assert_eq!(domctls.domain_info(4), Ok(None));
}

#[test]
fn an_answer_for_another_domain_is_none() {
    let mut domctls = Domctls::probe(FakeXen { old: true, ..XEN }).unwrap();
    assert_eq!(domctls.domain_info(4), Ok(None));
}

#[test]
fn a_refused_target_is_explained() {
    let mut domctls = Domctls::probe(XEN).unwrap();
    assert_eq!(domctls.set_target(7, 3), Ok(()));
    for (driver, guest, remedy) in [(7, 0, "hvm"), (7, 7, "one guest"), (7, 99, "again")] {
        let error = domctls.set_target(driver, guest).unwrap_err();
        assert!(error.remedy.contains(remedy), "{error:?}");
    }
}
