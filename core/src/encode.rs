//! Writes serde values as postcard does, byte for byte, but for a number of 128 bits and text of unknown
//! length, which it refuses.
//!
//! The crate's own serializer indexes into a small array for each number, and where a compiler is told to
//! save space the check of that index, and with it the panic, is linked. Reading is the crate's.

use core::fmt;
use serde::ser::{self, Serialize, Serializer};

use crate::codec::Writer;

/// Writes `value` to the front of `out`; how many bytes. `None` if it does not fit or can't be written.
pub(crate) fn to_slice(value: &(impl Serialize + ?Sized), out: &mut [u8]) -> Option<usize> {
    let mut writer = Writer::new(out);
    value.serialize(&mut writer).ok()?;
    writer.end().map(|written| written.len())
}

/// How many bytes `value` takes. `None` if it can't be written.
pub(crate) fn size(value: &(impl Serialize + ?Sized)) -> Option<usize> {
    let mut writer = Writer::new(&mut []);
    value.serialize(&mut writer).ok()?;
    Some(writer.at)
}

/// Numbers near zero are short, whatever their sign.
const fn folded(number: i64) -> u64 {
    (number.wrapping_shl(1) ^ number.wrapping_shr(63)) as u64
}

fn text(to: &mut Writer<'_>, bytes: &[u8]) {
    to.number(bytes.len() as u64);
    to.bytes(bytes);
}

/// The value is of a kind that has no bytes, or refuses itself.
#[derive(Debug)]
pub(crate) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value can't be written")
    }
}

impl core::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Methods that write one argument as a number, its sign folded in, or as it lies in memory.
macro_rules! plain {
    ($($method:ident($kind:ty) => |$writer:ident, $value:ident| $write:expr;)*) => {
        $(fn $method(self, $value: $kind) -> Result<(), Refused> {
            let $writer = self;
            $write;
            Ok(())
        })*
    };
}

impl Serializer for &mut Writer<'_> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    plain! {
        serialize_bool(bool) => |to, v| to.bytes(&[u8::from(v)]);
        serialize_u8(u8) => |to, v| to.bytes(&[v]);
        serialize_u16(u16) => |to, v| to.number(v.into());
        serialize_u32(u32) => |to, v| to.number(v.into());
        serialize_u64(u64) => |to, v| to.number(v);
        serialize_i8(i8) => |to, v| to.bytes(&v.to_le_bytes());
        serialize_i16(i16) => |to, v| to.number(folded(v.into()));
        serialize_i32(i32) => |to, v| to.number(folded(v.into()));
        serialize_i64(i64) => |to, v| to.number(folded(v));
        serialize_f32(f32) => |to, v| to.bytes(&v.to_le_bytes());
        serialize_f64(f64) => |to, v| to.bytes(&v.to_le_bytes());
        serialize_char(char) => |to, v| text(to, v.encode_utf8(&mut [0; 4]).as_bytes());
        serialize_str(&str) => |to, v| text(to, v.as_bytes());
        serialize_bytes(&[u8]) => |to, v| text(to, v);
    }

    fn serialize_none(self) -> Result<(), Refused> {
        self.bytes(&[0]);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        self.bytes(&[1]);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
    ) -> Result<(), Refused> {
        self.number(variant.into());
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.number(variant.into());
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self, Refused> {
        self.number(len.ok_or(Refused)? as u64);
        Ok(self)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self, Refused> {
        self.serialize_seq(len)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Refused> {
        self.number(variant.into());
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        variant: u32,
        variant_name: &'static str,
        len: usize,
    ) -> Result<Self, Refused> {
        self.serialize_tuple_variant(name, variant, variant_name, len)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<(), Refused> {
        Err(Refused)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// Parts follow each other with nothing in between; the names of fields are not written.
macro_rules! parts {
    ($($name:ident::$method:ident($($field:ty)?);)*) => {
        $(impl ser::$name for &mut Writer<'_> {
            type Ok = ();
            type Error = Refused;

            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $field,)? part: &T) -> Result<(), Refused> {
                part.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Refused> {
                Ok(())
            }
        })*
    };
}

parts! {
    SerializeSeq::serialize_element();
    SerializeTuple::serialize_element();
    SerializeTupleStruct::serialize_field();
    SerializeTupleVariant::serialize_field();
    SerializeStruct::serialize_field(&'static str);
    SerializeStructVariant::serialize_field(&'static str);
}

impl ser::SerializeMap for &mut Writer<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heapless::{LinearMap, Vec};
    use serde::Serialize;

    #[derive(Serialize)]
    struct All<'a> {
        flag: bool,
        small: (u8, i8),
        whole: (u16, u32, u64, i16, i32, i64),
        real: (f32, f64),
        sign: char,
        text: &'a str,
        bytes: Bytes<'a>,
        maybe: [Option<u16>; 2],
        nothing: (),
        empty: Empty,
        one: One,
        two: Two,
        list: Vec<u32, 3>,
        map: LinearMap<u8, &'a str, 2>,
        kinds: [Kind; 4],
    }

    #[derive(Serialize)]
    struct Empty;
    #[derive(Serialize)]
    struct One(u64);
    #[derive(Serialize)]
    struct Two(u8, u16);

    #[derive(Serialize)]
    enum Kind {
        Unit,
        New(i32),
        Tuple(u8, u16),
        Struct { a: u32, b: Option<bool> },
    }

    struct Bytes<'a>(&'a [u8]);

    impl Serialize for Bytes<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }

    fn all(n: u64) -> All<'static> {
        let (signed, short) = (n as i64, n as u16);
        All {
            flag: n & 1 == 1,
            small: (n as u8, n as i8),
            whole: (short, n as u32, n, n as i16, n as i32, signed),
            real: (n as f32 / 3.0, n as f64 / 7.0),
            sign: char::from_u32(n as u32 % 0xD800).unwrap(),
            text: "grün",
            bytes: Bytes(&[1, 2, 3]),
            maybe: [None, Some(short)],
            nothing: (),
            empty: Empty,
            one: One(n),
            two: Two(n as u8, short),
            list: [n as u32; 3].into_iter().collect(),
            map: [(1, "one"), (n as u8, "n")].into_iter().collect(),
            kinds: [
                Kind::Unit,
                Kind::New(n as i32),
                Kind::Tuple(n as u8, short),
                Kind::Struct { a: n as u32, b: Some(true) },
            ],
        }
    }

    #[test]
    fn every_kind_of_value_has_the_bytes_that_postcard_gives_it() {
        let powers = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, !(1 << bit)]);
        for n in powers {
            let value = all(n);
            let (mut own, mut theirs) = ([0; 512], [0; 512]);
            let theirs = postcard::to_slice(&value, &mut theirs).unwrap();
            let used = to_slice(&value, &mut own).unwrap();
            assert_eq!(&own[..used], theirs, "{n:#x}");
            assert_eq!(size(&value), Some(used));
        }
    }

    #[test]
    fn a_value_fits_exactly_or_not_at_all() {
        let value = all(u64::MAX);
        let bytes = size(&value).unwrap();
        assert_eq!(to_slice(&value, &mut [0; 512][..bytes]), Some(bytes));
        assert_eq!(to_slice(&value, &mut [0; 512][..bytes - 1]), None);
    }

    #[test]
    fn what_has_no_bytes_is_refused() {
        assert_eq!(size(&1u128), None);
        assert_eq!(size(&format_args!("{}", 1)), None);
    }
}
