//! The value of `RUN --device`: `vendor.com/class=name[,required]`.
//! Unaware of devices.

use super::csv;
use super::mount::did_you_mean;
use super::number::parse_bool;
use super::suggest::nearest;

/// A device that a RUN asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// CDI name.
    pub name: String,
    /// Its absence is an error.
    pub required: bool,
}

/// Reads the value; nothing in it is expanded.
pub fn parse_device(value: &str) -> Result<Device, String> {
    let mut device = Device::default();
    for field in csv::fields(value).map_err(|error| format!("failed to parse csv devices: {error}"))? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => device.required = parse_bool(value).ok_or_else(|| format!("invalid value for {key}: {value}"))?,
            ("name", Some(_)) if !device.name.is_empty() => return Err(format!("device name already set to {}", device.name)),
            ("name", Some(value)) => device.name = value.to_owned(),
            _ if device.name.is_empty() => device.name = field,
            (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
            _ => return Err(did_you_mean(format!("unexpected key '{key}' in '{field}'"), nearest(&key, ["name", "required"]))),
        }
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_errors() {
        let device = |name: &str, required| Ok(Device { name: name.to_owned(), required });
        assert_eq!(parse_device("vendor.com/class=x"), device("vendor.com/class=x", false));
        assert_eq!(parse_device("name=a/b=c,required"), device("a/b=c", true));
        assert_eq!(parse_device("a/b,required=false"), device("a/b", false));
        assert_eq!(parse_device("a,name=b"), Err("device name already set to a".to_owned()));
        assert_eq!(parse_device("a,b"), Err("invalid field 'b' must be a key=value pair".to_owned()));
        assert_eq!(parse_device("a,requird=1"), Err("unexpected key 'requird' in 'requird=1' (did you mean required?)".to_owned()));
    }
}
