/// Declares a header: its name in Wireshark, the [`Selector`](underpass_devices::Selector) of its
/// protocol, and its fields in the order of the wire.
///
/// The struct gets `#[repr(C)]` and the derives of `zerocopy`, which must be a dependency of the crate,
/// with its feature `derive`; its fields are types of [`FieldType`](crate::header::FieldType), so there
/// is no padding and no alignment. It is a [`Header`](crate::header::Header), its
/// [`Default`] is all zeroes, and its [`Display`](std::fmt::Display) is one line with every field.
///
/// ```
/// use underpass_devices::Selector;
/// use underpass_protocols::header::{Checksum, Header, HeaderError, test_header};
/// use zerocopy::network_endian::U16;
///
/// underpass_protocols::header! {
///     /// Somebody says hello
///     pub struct Hello("hello", Selector::EtherType(0x88b5)) {
///         /// Of the year
///         pub day: U16,
///         /// Of header and name
///         pub checksum: Checksum,
///     }
/// }
///
/// # fn main() -> Result<(), HeaderError> {
/// let mut packet = *b"----Ada";
/// Hello { day: U16::new(7), checksum: Checksum::default() }.emit(&mut packet)?;
/// let (hello, name) = Hello::parse(&packet)?;
/// assert_eq!((hello.day.get(), name), (7, &b"Ada"[..]));
/// assert_eq!(hello.to_string(), "hello day=7 checksum=0x5d94");
/// packet[6] ^= 1;
/// assert_eq!(Hello::parse(&packet), Err(HeaderError::Checksum));
/// test_header::<Hello>();
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! header {
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident($text:literal, $selector:expr) {
            $($(#[doc = $about:literal])* $field_vis:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::KnownLayout,
            ::zerocopy::Immutable, ::zerocopy::Unaligned,
        )]
        #[repr(C)]
        $vis struct $name {
            $($(#[doc = $about])* $field_vis $field: $type,)*
        }

        impl $crate::header::Header for $name {
            const NAME: &'static str = $text;
            const TITLE: &'static str = $crate::header::title(&[$($doc),*]);
            const SELECTOR: $crate::header::Selector = $selector;
            const FIELDS: &'static [$crate::header::Field] = &[$(
                $crate::header::Field::of::<$type>(
                    ::core::stringify!($field),
                    ::core::concat!($($about),*),
                    ::core::mem::offset_of!($name, $field),
                ),
            )*];
        }

        impl ::core::default::Default for $name {
            fn default() -> Self {
                ::zerocopy::FromZeros::new_zeroed()
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                $crate::header::display(self, f)
            }
        }

        // Where the checksum may not be, it does not compile.
        const _: ::core::option::Option<usize> =
            <$name as $crate::header::Header>::CHECKSUM_AT;
    };
}
