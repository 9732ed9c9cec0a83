//! Xen's error numbers (public/errno.h).

use core::fmt;

/// An error that Xen returned: the positive number, whatever it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal $text:literal;)*) => {
        impl Errno {
            $(
                #[doc = concat!($text, " (", $number, ").")]
                pub const $name: Self = Self($number);
            )*

            /// The name in the header, `None` for a number without one.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What the number means in words.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    _ => "unknown error",
                }
            }

            /// All the numbers that have names.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

errnos! {
    EPERM = 1 "not permitted";
    ENOENT = 2 "no such entry";
    ESRCH = 3 "no such domain";
    EIO = 5 "I/O error";
    ENXIO = 6 "no such address";
    E2BIG = 7 "too big";
    ENOEXEC = 8 "not executable";
    EBADF = 9 "bad handle";
    ECHILD = 10 "no child";
    EAGAIN = 11 "try again";
    ENOMEM = 12 "out of memory";
    EACCES = 13 "access denied";
    EFAULT = 14 "bad address";
    EBUSY = 16 "busy";
    EEXIST = 17 "exists already";
    EXDEV = 18 "other device";
    ENODEV = 19 "no such device";
    ENOTDIR = 20 "not a directory";
    EISDIR = 21 "a directory";
    EINVAL = 22 "invalid argument";
    ENFILE = 23 "table full";
    EMFILE = 24 "too many open";
    ENOSPC = 28 "no space left";
    EROFS = 30 "read-only";
    EMLINK = 31 "too many links";
    EDOM = 33 "out of domain";
    ERANGE = 34 "out of range";
    EDEADLK = 35 "deadlock";
    ENAMETOOLONG = 36 "name too long";
    ENOLCK = 37 "no locks";
    ENOSYS = 38 "no such hypercall";
    ENOTEMPTY = 39 "not empty";
    ENODATA = 61 "no data";
    ETIME = 62 "timer expired";
    EBADMSG = 74 "bad message";
    EOVERFLOW = 75 "value too large";
    EILSEQ = 84 "illegal sequence";
    ENOTSOCK = 88 "not a socket";
    EMSGSIZE = 90 "message too long";
    EOPNOTSUPP = 95 "not supported";
    EADDRINUSE = 98 "address in use";
    EADDRNOTAVAIL = 99 "address not available";
    ENOBUFS = 105 "no buffers";
    EISCONN = 106 "connected already";
    ENOTCONN = 107 "not connected";
    ETIMEDOUT = 110 "timed out";
    ECONNREFUSED = 111 "connection refused";
}

impl Errno {
    /// Turns a hypercall's return value into a result: negative values are errors.
    ///
    /// # Errors
    /// The number that Xen returned.
    pub fn check(value: isize) -> Result<usize, Self> {
        match usize::try_from(value) {
            Ok(value) => Ok(value),
            // Xen's numbers fit; one that does not is kept as the largest.
            Err(_) => Err(Self(
                i32::try_from(value.unsigned_abs()).unwrap_or(i32::MAX),
            )),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self:?})", self.text())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn negative_values_are_errors() {
        assert_eq!(Errno::check(0), Ok(0));
        assert_eq!(Errno::check(5), Ok(5));
        assert_eq!(Errno::check(-22), Err(Errno::EINVAL));
        assert_eq!(Errno::check(isize::MIN), Err(Errno(i32::MAX)));
    }

    #[test]
    fn errors_have_names_and_words() {
        assert_eq!(format!("{}", Errno::ESRCH), "no such domain (ESRCH)");
        assert_eq!(format!("{}", Errno(4711)), "unknown error (Errno(4711))");
    }
}
