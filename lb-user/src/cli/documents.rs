//! `mqlb documents`: what a package holds beside the program, made from the command line's own
//! definition, so that it is never at odds with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Failure;

#[derive(Args, Debug)]
pub(super) struct Options {
    /// Where `man1/` and `completions/` are made
    directory: PathBuf,
}

/// The shells, and where in a package their completions belong.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "mqlb.bash"),
    (Shell::Zsh, "_mqlb"),
    (Shell::Fish, "mqlb.fish"),
];

pub(super) fn run(options: &Options, command: Command) -> Result<(), Failure> {
    let directory = &options.directory;
    Ok(write(directory, command)
        .with_context(|| format!("cannot write to {}", directory.display()))?)
}

fn write(directory: &Path, mut command: Command) -> io::Result<()> {
    let man = directory.join("man1");
    fs::create_dir_all(&man)?;
    for (name, page) in pages(command.clone())? {
        fs::write(man.join(name + ".1"), page)?;
    }
    let completions = directory.join("completions");
    fs::create_dir_all(&completions)?;
    for (shell, file) in COMPLETIONS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "mqlb", &mut text);
        fs::write(completions.join(file), text)?;
    }
    Ok(())
}

/// Name and text of `mqlb(1)` and of a page for each command that is not hidden.
fn pages(command: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    // Subcommands get their full names, and the global options.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = vec![("mqlb".to_owned(), page(command.clone())?)];
    for subcommand in command.get_subcommands() {
        if subcommand.is_hide_set() {
            continue;
        }
        let name = format!("mqlb-{}", subcommand.get_name());
        let titled = subcommand.clone().display_name(&name);
        pages.push((name, page(titled)?));
    }
    Ok(pages)
}

fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command).manual("mqlb manual").render(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_command_has_a_page_and_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), Cli::command()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let all = read("man1/mqlb.1");
        let scripts: Vec<_> = COMPLETIONS
            .iter()
            .map(|(_, file)| read(&format!("completions/{file}")))
            .collect();
        let command = Cli::command();
        let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
        for name in shown.map(Command::get_name) {
            let page = read(&format!("man1/mqlb-{name}.1"));
            assert!(page.contains(&format!(".TH mqlb-{name} 1")), "{page}");
            assert!(all.contains(&format!("mqlb\\-{name}(1)")), "{all}");
            for script in &scripts {
                assert!(script.contains(name), "{name} in {script}");
            }
        }
        for none in ["documents", "help"] {
            assert!(!dir.path().join(format!("man1/mqlb-{none}.1")).exists());
        }
        assert!(!all.contains("documents"), "{all}");
    }
}
