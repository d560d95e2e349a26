//! The account of a client: who is charged for what several clients make a plugin hold. A user may
//! have many client identifiers, and somebody whom nobody has verified may have any.

use super::address::address_share;

/// The account of a client with this user name, which a plugin has verified or not, at this host.
/// `None` for what is no client, such as a plugin that publishes.
pub(crate) fn account_of(username: Option<&str>, is_verified: bool, host: Option<&str>) -> Option<String> {
    match username.filter(|_| is_verified) {
        Some(name) => Some(format!("user {name}")),
        None => {
            let host = host.filter(|host| !host.is_empty())?;
            Some(format!("address {}", address_share(host)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::account_of;

    #[test]
    fn a_user_name_counts_where_it_is_verified_and_the_address_elsewhere() {
        for (username, is_verified, host, account) in [
            (Some("ann"), true, Some("10.0.0.1"), Some("user ann")),
            (Some("ann"), true, None, Some("user ann")),
            (Some(""), true, Some("10.0.0.1"), Some("user ")),
            (Some("ann"), false, Some("10.0.0.1"), Some("address 10.0.0.1")),
            (None, true, Some("2001:db8::7"), Some("address 2001:db8::")),
            (None, false, Some("::ffff:10.0.0.1"), Some("address 10.0.0.1")),
            // A user whose name is an address is not that address.
            (Some("10.0.0.1"), true, None, Some("user 10.0.0.1")),
            (Some("ann"), false, None, None),
            (None, true, None, None),
            (None, true, Some(""), None),
        ] {
            assert_eq!(account_of(username, is_verified, host).as_deref(), account, "{username:?} {host:?}");
        }
    }
}
