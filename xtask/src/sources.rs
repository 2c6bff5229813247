//! Source packages of Debian, of which tests read files that the binary packages leave out.
//!
//! They are fetched with lists beside the system's, made of the system's own: nothing of the system changes, and root is not needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools;
use crate::workspace::run;

/// Unpacks the upstream sources of a package into `dir`; made once.
pub(crate) fn unpacked(package: &str, dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if !tools::has("apt-get") {
        bail!("this is not Debian: unpack the sources of {package} into {}", dir.display());
    }
    let work = dir.with_extension("fetched");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let (parts, new) = (work.join("parts"), work.join("new"));
    for dir in [&parts, &new, &work.join("lists/partial"), &work.join("cache/archives/partial")] {
        fs::create_dir_all(dir)?;
    }
    write_lists(Path::new("/etc/apt"), &parts)?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "Dir::Etc::sourcelist=/dev/null", "-o"]);
        command.arg(format!("Dir::Etc::sourceparts={}", parts.display()));
        command.arg("-o").arg(format!("Dir::State::lists={}", work.join("lists").display()));
        command.arg("-o").arg(format!("Dir::Cache={}", work.join("cache").display()));
        // Folders of ours are not for the user that apt becomes.
        command.args(["-o", "APT::Sandbox::User=root"]).args(args).current_dir(&work);
        run(&mut command)
    };
    // Not every place of packages has sources; what counts is whether these are there.
    let updated = apt(&["update"]);
    apt(&["source", "--download-only", "--tar-only", package])
        .with_context(|| format!("fetch the sources of {package} ({updated:?})"))?;
    let archive = fs::read_dir(&work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().contains(".orig.tar."))
        .with_context(|| format!("the sources of {package} hold no archive"))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("--strip-components=1").arg("-C").arg(&new))?;
    fs::rename(&new, dir)?;
    Ok(fs::remove_dir_all(&work)?)
}

/// The system's lists of packages, as lists of sources.
fn write_lists(apt: &Path, parts: &Path) -> Result<()> {
    let mut lists: Vec<PathBuf> = vec![apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(apt.join("sources.list.d")) {
        lists.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    for list in lists {
        let Some((name, ending)) = list.file_name().zip(list.extension()) else { continue };
        let turn = match ending.to_str() {
            Some("list") => turned_lines,
            Some("sources") => turned_stanzas,
            _ => continue,
        };
        // The file may be absent, as sources.list is on newer systems.
        let Ok(text) = fs::read_to_string(&list) else { continue };
        fs::write(parts.join(name), turn(&text))?;
    }
    Ok(())
}

/// Lines `deb ...` as `deb-src ...`.
fn turned_lines(text: &str) -> String {
    let packages = text.lines().filter_map(|line| line.trim_start().strip_prefix("deb "));
    packages.fold(String::new(), |lists, rest| lists + "deb-src " + rest + "\n")
}

/// Stanzas with `Types: deb-src`.
fn turned_stanzas(text: &str) -> String {
    let types = |line: &str| line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case("types"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.fold(String::new(), |lists, line| lists + if types(line) { "Types: deb-src" } else { line } + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_packages_become_lists_of_sources() {
        let dir = tempfile::tempdir().unwrap();
        let (apt, parts) = (dir.path().join("apt"), dir.path().join("parts"));
        fs::create_dir_all(apt.join("sources.list.d")).unwrap();
        fs::create_dir_all(&parts).unwrap();
        fs::write(
            apt.join("sources.list"),
            "# deb no\ndeb [arch=x] http://a.example d main\ndeb-src http://b\n",
        )
        .unwrap();
        let stanza = "Types: deb deb-src\n# a comment\nURIs: http://a.example\nSuites: d\nComponents: main\n";
        fs::write(apt.join("sources.list.d/a.sources"), stanza).unwrap();
        fs::write(apt.join("sources.list.d/a.list.off"), "deb http://c d main\n").unwrap();
        write_lists(&apt, &parts).unwrap();
        let read = |name: &str| fs::read_to_string(parts.join(name)).unwrap();
        assert_eq!(read("sources.list"), "deb-src [arch=x] http://a.example d main\n");
        assert_eq!(
            read("a.sources"),
            "Types: deb-src\nURIs: http://a.example\nSuites: d\nComponents: main\n"
        );
        assert_eq!(fs::read_dir(&parts).unwrap().count(), 2);
    }
}
