//! Keys of entries as bytes, for the transfer to the new generation.

/// The type of an entry's key: numbers, texts, bytes, and pairs of these.
pub trait StateKey: Ord + Clone {
    /// Appends the key to `out`.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads a key from all bytes that `write` has appended; `None` if they are not a key.
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl StateKey for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn read(bytes: &[u8]) -> Option<$type> {
                Some(<$type>::from_le_bytes(bytes.try_into().ok()?))
            }
        })*
    };
}

numbers!(u8, u16, u32, u64, i32, i64);

impl StateKey for String {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<String> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl StateKey for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }
}

impl<A: StateKey, B: StateKey> StateKey for (A, B) {
    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        self.0.write(out);
        let len = (out.len() - start - 8) as u64;
        out[start..start + 8].copy_from_slice(&len.to_le_bytes());
        self.1.write(out);
    }

    fn read(bytes: &[u8]) -> Option<(A, B)> {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let (first, second) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        Some((A::read(first)?, B::read(second)?))
    }
}
