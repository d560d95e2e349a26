//! The fields of packets, decoded and encoded: numbers, strings, properties. For the relay also the
//! packets of the handshake, and the PUBLISH for subscribers with another version or QoS. The load
//! generator uses the fields too. It has no state; any input of a peer becomes a value or a
//! [`Malformed`].

pub use super::frame::Malformed;

/// The rest of a packet, which is read from the front.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// One byte.
    #[inline]
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (byte, rest) = self.0.split_first().ok_or_else(cut)?;
        self.0 = rest;
        Ok(*byte)
    }

    /// Two bytes, big endian.
    #[inline]
    pub fn number(&mut self) -> Result<u16, Malformed> {
        let (number, rest) = self.0.split_first_chunk::<2>().ok_or_else(cut)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*number))
    }

    /// This many bytes.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(cut)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Two bytes of length and the bytes that follow.
    #[inline]
    pub fn prefixed(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number()?;
        self.bytes(usize::from(length))
    }

    /// A packet identifier, which is never 0 [MQTT-2.2.1-3].
    #[inline]
    pub fn packet_id(&mut self) -> Result<u16, Malformed> {
        match self.number()? {
            0 => Err(no_id()),
            id => Ok(id),
        }
    }

    /// The length of the properties and the properties. Calls `each` with identifier and value of
    /// each.
    pub fn properties(
        &mut self,
        mut each: impl FnMut(u8, Fields<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let length = self.variable()?;
        let mut rest = Fields(self.bytes(length)?);
        while !rest.0.is_empty() {
            let id = rest.byte()?;
            each(id, rest)?;
            rest.skip_value(id)?;
        }
        Ok(())
    }

    /// The length of the properties and the properties, which are skipped.
    #[inline]
    pub fn skip_properties(&mut self) -> Result<(), Malformed> {
        let length = self.variable()?;
        self.bytes(length).map(drop)
    }

    /// Fails if there are bytes after the last field.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("more bytes than the packet has fields for")) }
    }

    /// A variable byte integer (MQTT 5.0 section 1.5.5).
    #[inline]
    fn variable(&mut self) -> Result<usize, Malformed> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("variable byte integer of more than four bytes"))
    }

    /// By the table in MQTT 5.0 section 2.2.2.2.
    fn skip_value(&mut self, id: u8) -> Result<(), Malformed> {
        match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => self.bytes(1).map(drop),
            0x13 | 0x21 | 0x22 | 0x23 => self.bytes(2).map(drop),
            0x02 | 0x11 | 0x18 | 0x27 => self.bytes(4).map(drop),
            0x0B => self.variable().map(drop),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => self.prefixed().map(drop),
            0x26 => self.prefixed().and_then(|_| self.prefixed()).map(drop),
            _ => Err(Malformed("unknown property")),
        }
    }
}

// A function of its own, so that the error text uses no register for every packet.
#[cold]
#[inline(never)]
fn cut() -> Malformed {
    Malformed("packet cut short in one of its fields")
}

#[cold]
#[inline(never)]
fn no_id() -> Malformed {
    Malformed("packet identifier 0")
}

/// The contents of a CONNECT that the relay uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Whether packets have properties.
    pub v5: bool,
    /// Clean session, or clean start.
    pub clean: bool,
    /// May be empty.
    pub client_id: &'a [u8],
    /// Maximum number of unacknowledged QoS 1 and 2 messages to the client.
    pub receive_maximum: u16,
    /// The client's Maximum Packet Size, in bytes.
    pub packet_bytes_max: u32,
    /// It requests enhanced authentication.
    pub authentication: bool,
}

/// Reads a CONNECT; `None` for a protocol other than MQTT.
pub fn connect(body: &[u8]) -> Result<Option<Hello<'_>>, Malformed> {
    let mut fields = Fields(body);
    let v5 = match (fields.prefixed()?, fields.byte()?) {
        (b"MQIsdp", 3) | (b"MQTT", 4) => false,
        (b"MQTT", 5) => true,
        _ => return Ok(None),
    };
    let flags = fields.byte()?;
    let _keep_alive_s = fields.number()?;
    let mut hello = Hello {
        v5,
        clean: flags & 2 != 0,
        client_id: &[],
        receive_maximum: u16::MAX,
        packet_bytes_max: u32::MAX,
        authentication: false,
    };
    if v5 {
        fields.properties(|id, mut value| {
            match id {
                0x21 => hello.receive_maximum = value.number()?,
                0x27 => {
                    hello.packet_bytes_max = u32::from(value.number()?) << 16 | u32::from(value.number()?);
                }
                0x15 => hello.authentication = true,
                _ => {}
            }
            Ok(())
        })?;
        if hello.receive_maximum == 0 || hello.packet_bytes_max == 0 {
            return Err(Malformed("CONNECT with a maximum of 0"));
        }
    }
    hello.client_id = fields.prefixed()?;
    if flags & 4 != 0 {
        if v5 {
            fields.properties(|_, _| Ok(()))?;
        }
        let (_topic, _payload) = (fields.prefixed()?, fields.prefixed()?);
    }
    for login in [0x80, 0x40] {
        if flags & login != 0 {
            fields.prefixed()?;
        }
    }
    fields.end()?;
    Ok(Some(hello))
}

/// Whether `topic` is a valid topic name (MQTT 5.0 section 4.7).
pub fn is_topic(topic: &[u8]) -> bool {
    is_text(topic) && !topic.iter().any(|byte| matches!(byte, b'+' | b'#'))
}

/// Whether `filter` is a valid topic filter (MQTT 5.0 section 4.7).
pub fn is_filter(filter: &[u8]) -> bool {
    let mut levels = filter.split(|byte| *byte == b'/').peekable();
    is_text(filter)
        && std::iter::from_fn(|| levels.next().map(|level| (level, levels.peek().is_none()))).all(
            |(level, is_last)| match level {
                b"+" => true,
                b"#" => is_last,
                level => !level.iter().any(|byte| matches!(byte, b'+' | b'#')),
            },
        )
}

/// Whether `filter` matches `topic` (MQTT 5.0 section 4.7).
pub fn matches(filter: &[u8], topic: &[u8]) -> bool {
    if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
        return false; // [MQTT-4.7.2-1]
    }
    let mut topic = topic.split(|byte| *byte == b'/');
    for level in filter.split(|byte| *byte == b'/') {
        match (level, topic.next()) {
            // Also the level above it, so that a/# matches a (section 4.7.1.2).
            (b"#", _) => return true,
            (_, None) => return false,
            (b"+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

/// The fields of a PUBLISH that routing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishMetadata<'a> {
    /// Unchecked.
    pub topic: &'a [u8],
    /// 0 with QoS 0.
    pub packet_id: u16,
    /// Properties and payload.
    pub tail: &'a [u8],
}

/// Reads the fields of a PUBLISH that routing needs, and checks the others. `first` is its first
/// byte.
#[inline]
pub fn publish_metadata(v5: bool, first: u8, body: &[u8]) -> Result<PublishMetadata<'_>, Malformed> {
    let mut fields = Fields(body);
    let topic = fields.prefixed()?;
    let packet_id = match first & 0x0E {
        0 => 0,
        2 | 4 | 0x0A | 0x0C => fields.packet_id()?,
        _ => return Err(bad_flags(first)),
    };
    let rest = fields.0;
    if v5 && rest.first() != Some(&0) {
        after_properties(rest)?;
    }
    Ok(PublishMetadata { topic, packet_id, tail: rest })
}

#[cold]
#[inline(never)]
fn bad_flags(first: u8) -> Malformed {
    if first & 6 == 6 {
        Malformed("PUBLISH with QoS 3")
    } else {
        Malformed("PUBLISH of QoS 0 that calls itself a duplicate") // [MQTT-3.3.1-2]
    }
}

/// The parts of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// 0 to 2.
    pub qos: u8,
    /// Unchecked.
    pub topic: &'a [u8],
    /// 0 with QoS 0.
    pub packet_id: u16,
    /// With their length before them; empty before MQTT 5.
    pub properties: &'a [u8],
    /// The application message.
    pub payload: &'a [u8],
}

/// Reads all of a PUBLISH.
#[inline(never)]
pub fn publish(v5: bool, first: u8, body: &[u8]) -> Result<Parts<'_>, Malformed> {
    let PublishMetadata { topic, packet_id, tail: rest } = publish_metadata(v5, first, body)?;
    let (properties, payload) = if v5 { after_properties(rest)? } else { (&[][..], rest) };
    Ok(Parts { qos: first >> 1 & 3, topic, packet_id, properties, payload })
}

/// Splits bytes into the properties, with their length, and the rest.
#[inline(never)]
fn after_properties(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut fields = Fields(bytes);
    fields.properties(may_be_published)?;
    Ok(bytes.split_at(bytes.len() - fields.0.len()))
}

fn may_be_published(id: u8, _value: Fields<'_>) -> Result<(), Malformed> {
    match id {
        0x01 | 0x02 | 0x03 | 0x08 | 0x09 | 0x26 => Ok(()),
        0x23 => Err(Malformed("PUBLISH with a topic alias, which CONNACK had not allowed")),
        _ => Err(Malformed("PUBLISH with a property that belongs elsewhere")),
    }
}

/// Appends a PUBLISH of `parts` for a client of this version. MQTT 3 loses the properties.
pub fn push_publish(v5: bool, parts: &Parts<'_>, out: &mut Vec<u8>) {
    let properties: &[u8] = match (v5, parts.properties) {
        (true, &[]) => &[0],
        (true, properties) => properties,
        (false, _) => &[],
    };
    let id_bytes = if parts.qos == 0 { 0 } else { 2 };
    let length = 2 + parts.topic.len() + id_bytes + properties.len() + parts.payload.len();
    out.push(0x30 | parts.qos << 1);
    push_variable(length, out);
    push_prefixed(parts.topic, out);
    if parts.qos > 0 {
        out.extend_from_slice(&parts.packet_id.to_be_bytes());
    }
    out.extend_from_slice(properties);
    out.extend_from_slice(parts.payload);
}

/// Appends an acknowledgement without a reason code, which means success; `first` selects the type.
#[inline]
pub fn push_ack(first: u8, packet_id: u16, out: &mut Vec<u8>) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

/// Appends two bytes of length and these bytes, which must be 65,535 bytes or fewer.
fn push_prefixed(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).expect("the caller has a field that fits");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a variable byte integer.
pub fn push_variable(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7F).expect("seven bits");
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// Offset of the packet identifier in a PUBLISH of QoS 1 or 2; `None` for any other packet.
pub fn id_at(packet: &[u8]) -> Option<usize> {
    let head = 2 + packet.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count();
    let topic = packet.get(head..)?.first_chunk::<2>()?;
    let at = head + 2 + usize::from(u16::from_be_bytes(*topic));
    (at + 2 <= packet.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_cover_what_the_specification_says() {
        // MQTT 5.0 sections 4.7.1.2, 4.7.1.3 and 4.7.2.
        for (filter, topic, covers) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/+/c", "a/b/c", true),
            ("a/+/c", "a/b/d", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(matches(filter.as_bytes(), topic.as_bytes()), covers, "{filter} {topic}");
        }
    }
}
