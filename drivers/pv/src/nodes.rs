//! Values in xenstore that another domain writes: one that is missing, forbidden or malformed counts as none.

use alloc::string::ToString;
use core::fmt::Arguments;

use vd_xenbus::store::View;
use vd_xenbus::{Error, Failure, Transport, XsError};

/// A number, if there is one and it may be read.
///
/// # Errors
/// Trouble with xenstore.
#[inline(never)]
pub fn number<T: Transport>(
    view: &mut View<'_, T>,
    path: Arguments<'_>,
) -> Result<Option<u64>, Error> {
    optional(view.read_number(&path.to_string()))
}

/// Writes a value. There are many, so the texts are made here and not at each of them.
///
/// # Errors
/// Trouble with xenstore.
#[inline(never)]
pub fn put<T: Transport>(
    view: &mut View<'_, T>,
    path: Arguments<'_>,
    value: Arguments<'_>,
) -> Result<(), Error> {
    view.write(&path.to_string(), value.to_string().as_bytes())
}

/// None for what is missing, forbidden or malformed: whoever may write there decides about that, not about this side.
///
/// # Errors
/// Trouble with xenstore.
pub fn optional<R>(value: Result<R, Error>) -> Result<Option<R>, Error> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.why() {
            Failure::BadValue { .. }
            | Failure::TooLarge { .. }
            | Failure::Refused {
                error: XsError::ENOENT | XsError::EACCES,
                ..
            } => Ok(None),
            _ => Err(error),
        },
    }
}
