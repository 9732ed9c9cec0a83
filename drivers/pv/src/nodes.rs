//! Values in xenstore that another domain writes: one that is missing, forbidden or malformed counts as none.

use vd_xenbus::store::View;
use vd_xenbus::{Error, Failure, Transport, XsError};

/// A number, if there is one and it may be read.
///
/// # Errors
/// Trouble with xenstore.
pub fn number<T: Transport>(view: &mut View<'_, T>, path: &str) -> Result<Option<u64>, Error> {
    optional(view.read_number(path))
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
