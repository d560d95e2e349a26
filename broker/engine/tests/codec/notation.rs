//! The notation of the tables: hexadecimal bytes, text in single quotes, brackets around a part
//! that is preceded by its length as a variable byte integer; `
//! ` and spaces separate. All tests here use it; it must not depend on the codec.

/// The bytes of `10 [0004 'MQTT' …]`.
pub fn bytes(text: &str) -> Vec<u8> {
    // One buffer for each open bracket; a closed one is appended to the one around it.
    let mut open = vec![Vec::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let quoted: String = chars.by_ref().take_while(|&c| c != '\'').collect();
                open.last_mut().unwrap().extend_from_slice(quoted.as_bytes());
            }
            '[' => open.push(Vec::new()),
            ']' => {
                let inner = open.pop().unwrap();
                let outer = open.last_mut().unwrap_or_else(|| panic!("a bracket too many in {text:?}"));
                outer.extend(length(inner.len()));
                outer.extend(inner);
            }
            '|' | ' ' | '\n' => {}
            high => {
                let low = chars.next().unwrap_or_else(|| panic!("half a byte at the end of {text:?}"));
                let byte = u8::from_str_radix(&format!("{high}{low}"), 16);
                open.last_mut()
                    .unwrap()
                    .push(byte.unwrap_or_else(|_| panic!("{high}{low} in {text:?} is no byte")));
            }
        }
    }
    assert_eq!(open.len(), 1, "a bracket too few in {text:?}");
    open.pop().unwrap()
}

/// The encoding algorithm of section 1.5.5, as the specification writes it.
fn length(mut x: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let mut encoded = (x % 128) as u8;
        x /= 128;
        if x > 0 {
            encoded |= 128;
        }
        out.push(encoded);
        if x == 0 {
            return out;
        }
    }
}

/// Bytes that are never freed, for the views of the tables.
pub fn leaked(text: &str) -> &'static [u8] {
    Box::leak(bytes(text).into_boxed_slice())
}

#[test]
fn the_notation_is_parsed_as_it_is_written() {
    assert_eq!(bytes("10 02|0A'a'"), [0x10, 2, 10, b'a']);
    assert_eq!(bytes("30 [0001 'a' [23 0001]]"), bytes("30 07 0001 61 03 23 0001"));
    assert_eq!(length(268_435_455), [0xFF, 0xFF, 0xFF, 0x7F]);
    assert_eq!(length(16_384), [0x80, 0x80, 0x01]);
}
