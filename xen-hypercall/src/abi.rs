//! Structures with a fixed layout: declared once, asserted at compile time, listed
//! for the comparison with the C headers.

/// The layout of one structure, as declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The C name, as in `struct xen_dm_op_nr_vcpus`.
    pub c_name: &'static str,
    /// The public header that defines it.
    pub header: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// C field name and offset in bytes; padding is left out.
    pub fields: &'static [(&'static str, usize)],
}

/// Declares ABI structures: `struct Name = "C name" (size) { field("c name") @ offset: Type }`.
/// A field without a C name is padding. All are `repr(C)`, `Copy` and zero by default.
macro_rules! abi {
    (
        header $header:literal;
        $(
            $(#[$meta:meta])*
            struct $name:ident = $c_name:literal ($size:literal) {
                $(
                    $(#[$field_meta:meta])*
                    $field:ident $(($c_field:literal))? @ $offset:literal : $type:ty,
                )*
            }
        )*
    ) => {
        $(
            $(#[$meta])*
            #[doc = ""]
            #[doc = concat!("`", $c_name, "` (public/", $header, "), ", $size, " bytes.")]
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name {
                $(
                    $(#[$field_meta])*
                    pub $field: $type,
                )*
            }

            impl Default for $name {
                fn default() -> Self {
                    // SAFETY: made of integers, arrays of integers and raw pointers,
                    // for which all bits zero is a value.
                    unsafe { core::mem::zeroed() }
                }
            }

            const _: () = {
                assert!(size_of::<$name>() == $size, concat!("size of ", $c_name));
                $(
                    assert!(
                        core::mem::offset_of!($name, $field) == $offset,
                        concat!("offset of ", stringify!($field), " in ", $c_name)
                    );
                )*
            };
        )*

        /// The layouts of this module.
        pub(crate) const LAYOUTS: &[&$crate::Layout] = &[
            $(
                &$crate::Layout {
                    c_name: $c_name,
                    header: $header,
                    size: $size,
                    fields: &[$($(($c_field, $offset),)?)*],
                },
            )*
        ];
    };
}
