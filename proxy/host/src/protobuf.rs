//! As much of the protobuf wire format as guests and a host speak: the fields of a message, unread, and new ones
//! (<https://protobuf.dev/programming-guides/encoding>).

/// The fields of a message: number and value. Ends with `None` where it is no message.
#[derive(Clone, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint.
    Number(u64),
    /// Bytes, a text, or a message.
    Bytes(&'a [u8]),
    /// A number of fixed size.
    Other,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        (key >> 3 != 0).then_some((key >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.take(1)? else { return None };
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

/// Appends a field of bytes: a text, a message.
pub fn put_bytes(message: &mut Vec<u8>, field: u32, value: &[u8]) {
    key(message, field, 2);
    varint(message, value.len() as u64);
    message.extend_from_slice(value);
}

/// Appends a field of a varint.
pub fn put_varint(message: &mut Vec<u8>, field: u32, value: u64) {
    key(message, field, 0);
    varint(message, value);
}

/// Appends a field of a double.
pub fn put_double(message: &mut Vec<u8>, field: u32, value: f64) {
    key(message, field, 1);
    message.extend(value.to_le_bytes());
}

fn key(message: &mut Vec<u8>, field: u32, kind: u64) {
    varint(message, u64::from(field) << 3 | kind);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found() {
        let mut message = Vec::new();
        put_varint(&mut message, 1, u64::MAX);
        put_bytes(&mut message, 200, &[7; 300]);
        put_double(&mut message, 3, 1.0);
        put_varint(&mut message, 4, 0);
        let fields: Vec<_> = Fields(&message).map(Option::unwrap).collect();
        let bytes = [7; 300];
        let expected =
            [(1, Value::Number(u64::MAX)), (200, Value::Bytes(&bytes)), (3, Value::Other), (4, Value::Number(0))];
        assert_eq!(fields, expected);
    }
}
