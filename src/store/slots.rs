//! Which server of a Redis Cluster has a key: 16,384 slots, and who owns which (Redis Cluster specification).

use ::redis::{FromRedisValue, Value};

/// Slots of a cluster; never more, never fewer.
pub const SLOTS: u16 = 16_384;

/// A cluster of more masters is a mistake: Redis itself recommends at most 1,000 servers.
const MASTERS_MAX: usize = 1_024;

/// The slot of a key: CRC16 (XMODEM) of what stands in its first `{…}`, or of all of it if there is none
/// or nothing in it.
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = || {
        let open = memchr::memchr(b'{', key)?;
        let length = memchr::memchr(b'}', &key[open + 1..])?;
        (length > 0).then(|| &key[open + 1..open + 1 + length])
    };
    crc16(tag().unwrap_or(key)) % SLOTS
}

/// Polynomial 0x1021, begins with 0, nothing reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let next = crc << 1;
            if crc & 0x8000 == 0 {
                next
            } else {
                next ^ 0x1021
            }
        })
    })
}

/// Slots that follow each other and have one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub first: u16,
    pub last: u16,
    /// Host and port.
    pub owner: (String, u16),
}

/// What `CLUSTER SLOTS` says, in the order of slots. `asked` is the host that said it: one that does not know
/// its own name leaves it out. None if it makes no sense.
pub fn read(answer: &Value, asked: &str) -> Option<Vec<Range>> {
    let rows = list(answer)?;
    let mut ranges = Vec::with_capacity(rows.len());
    for row in rows {
        // First and last slot, the master, its replicas.
        let [first, last, master, ..] = list(row)? else {
            return None;
        };
        let [host, port, ..] = list(master)? else {
            return None;
        };
        let host = Option::<String>::from_redis_value_ref(host).ok()?;
        let host = host.filter(|host| !host.is_empty() && host != "?");
        ranges.push(Range {
            first: number(first)?,
            last: number(last)?,
            owner: (host.unwrap_or_else(|| asked.to_owned()), number(port)?),
        });
    }
    ranges.sort_by_key(|range| range.first);
    let owners = ranges.iter().map(|range| &range.owner);
    let owners: std::collections::HashSet<_> = owners.collect();
    (owners.len() <= MASTERS_MAX).then_some(ranges)
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

/// The library would cut off what is too large.
fn number(value: &Value) -> Option<u16> {
    match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}

/// Host and port of where an answer points to: `MOVED 42 10.0.0.1:6379`. `asked` as in [`read`].
pub fn pointed_to(address: &str, asked: &str) -> Option<(String, u16)> {
    // The last colon: addresses of IPv6 come without brackets.
    let (host, port) = address.rsplit_once(':')?;
    let host = if host.is_empty() { asked } else { host };
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [
            ("", 0),
            ("foo", 12_182),
            ("somekey", 11_058),
            ("foo{hash_tag}", 2_515),
            ("{user1000}.following", slot_of(b"user1000")),
            ("foo{}{bar}", crc16(b"foo{}{bar}") % SLOTS),
            ("foo{{bar}}zap", slot_of(b"{bar")),
            ("foo{bar}{zap}", slot_of(b"bar")),
            ("foo{bar", crc16(b"foo{bar") % SLOTS),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn row(first: i64, last: i64, host: Value, port: i64) -> Value {
        let server = Value::Array(vec![host, Value::Int(port), text("id")]);
        let replica = Value::Array(vec![text("replica"), Value::Int(1), text("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), server, replica])
    }

    #[test]
    fn the_owners_of_slots_are_read() {
        let answer = Value::Array(vec![
            row(8_000, 16_383, text(""), 2),
            row(0, 4_000, text("a"), 1),
            row(4_001, 7_999, Value::Nil, 3),
        ]);
        let range = |first, last, host: &str, port| Range {
            first,
            last,
            owner: (host.to_owned(), port),
        };
        let expected = [
            range(0, 4_000, "a", 1),
            range(4_001, 7_999, "seed", 3),
            range(8_000, 16_383, "seed", 2),
        ];
        assert_eq!(read(&answer, "seed").unwrap(), expected);
        for nonsense in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![row(0, 70_000, text("a"), 1)]),
            Value::Array(vec![row(0, 1, text("a"), 70_000)]),
        ] {
            assert_eq!(read(&nonsense, "seed"), None, "{nonsense:?}");
        }
    }

    #[test]
    fn what_an_answer_points_to_is_read() {
        for (address, host, port) in [
            ("10.0.0.1:7000", "10.0.0.1", 7_000),
            ("::1:7000", "::1", 7_000),
            (":7000", "seed", 7_000),
        ] {
            let expected = Some((host.to_owned(), port));
            assert_eq!(pointed_to(address, "seed"), expected, "{address}");
        }
        assert_eq!(pointed_to("a", "seed"), None);
        assert_eq!(pointed_to("a:b", "seed"), None);
    }
}
