//! Which distribution this is, from `/etc/os-release` (os-release(5)).

/// How packages are installed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and what derives from them: the set-up installs by itself.
    Debian,
    Fedora,
    Arch,
    Alpine,
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Distro {
    pub family: Family,
    /// For messages: "Debian GNU/Linux 12 (bookworm)".
    pub name: String,
    /// The suite that apt.llvm.org names its repositories after: "bookworm", "noble".
    pub codename: Option<String>,
}

impl Distro {
    pub fn detect() -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|file| std::fs::read_to_string(file).ok());
        Self::parse(&text.unwrap_or_default())
    }

    /// `text` is the content of os-release.
    pub fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let assigned = text
                .lines()
                .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
            Some(assigned.trim().trim_matches(['"', '\'']).to_owned())
                .filter(|value| !value.is_empty())
        };
        let id = value("ID").unwrap_or_default();
        let like = value("ID_LIKE").unwrap_or_default();
        let family = std::iter::once(id.as_str())
            .chain(like.split_whitespace())
            .find_map(|name| match name {
                "debian" | "ubuntu" => Some(Family::Debian),
                "fedora" | "rhel" | "centos" => Some(Family::Fedora),
                "arch" => Some(Family::Arch),
                "alpine" => Some(Family::Alpine),
                _ => None,
            })
            .unwrap_or(Family::Unknown);
        Self {
            family,
            name: value("PRETTY_NAME")
                .or(value("NAME"))
                .unwrap_or_else(|| "this system".to_owned()),
            // Derivatives of Ubuntu have code names of their own; theirs is not the archive's.
            codename: value("UBUNTU_CODENAME").or(value("VERSION_CODENAME")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(text: &str) -> Family {
        Distro::parse(text).family
    }

    #[test]
    fn debian() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
                    VERSION_CODENAME=bookworm\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n";
        assert_eq!(
            Distro::parse(text),
            Distro {
                family: Family::Debian,
                name: "Debian GNU/Linux 12 (bookworm)".to_owned(),
                codename: Some("bookworm".to_owned()),
            }
        );
    }

    #[test]
    fn derivatives_follow_id_like() {
        let mint = Distro::parse(
            "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_CODENAME=xia\nUBUNTU_CODENAME=noble\n",
        );
        assert_eq!(
            (mint.family, mint.codename.as_deref()),
            (Family::Debian, Some("noble"))
        );
        assert_eq!(
            family("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\""),
            Family::Fedora
        );
        assert_eq!(family("ID=manjaro\nID_LIKE=arch"), Family::Arch);
        assert_eq!(family("ID=alpine"), Family::Alpine);
    }

    #[test]
    fn unknown_or_broken() {
        assert_eq!(family("ID=nixos"), Family::Unknown);
        assert_eq!(
            family("VARIANT_ID=debian"),
            Family::Unknown,
            "only the whole key counts"
        );
        let empty = Distro::parse("");
        assert_eq!(
            (empty.family, empty.name.as_str(), empty.codename),
            (Family::Unknown, "this system", None)
        );
    }
}
