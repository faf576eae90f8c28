//! What README.md shows is true: its routes load, its excerpt of the demo is what the demo prints, its files are there.

use std::fs;

use router_tests::{Home, workspace};

fn readme() -> String {
    fs::read_to_string(workspace().join("README.md")).expect("there is a README")
}

/// The fenced blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == format!("```{language}") {
            blocks.push(lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n"));
        }
    }
    blocks
}

#[test]
fn every_route_in_it_loads() {
    let routes = blocks("toml");
    assert!(routes.len() >= 2);
    for route in routes {
        let home = Home::new(&route);
        let _ = home.run_with(&[("RABBIT_URL", "amqps://router:a-password@broker.example/")], &["config", "show"]).code(0);
    }
}

#[test]
fn its_excerpt_of_the_demo_is_what_the_demo_prints() {
    let shown = blocks("text").into_iter().find(|block| block.contains("would run: pytest")).expect("an excerpt of the demo");
    let home = Home::new("");
    let printed = home.run(&["demo"]).code(0).stdout;
    for line in shown.lines().filter(|line| !line.is_empty() && line.trim() != "…") {
        assert!(printed.lines().any(|printed| printed == line), "the demo does not print: {line}\n{printed}");
    }
}

#[test]
fn its_excerpt_of_check_is_what_check_prints() {
    let shown = blocks("text").into_iter().find(|block| block.starts_with("error[")).expect("an excerpt of `check`");
    let home = Home::new("");
    home.write("config/router.toml", "[[route]]\nname = \"a\"\non = [\"b\"]\nenabled = true\n\nhandlr = \"ci\"\n");
    let printed = home.run(&["check"]).code(78);
    let printed = printed.stdout + &printed.stderr;
    assert!(printed.contains(&shown), "{printed}\nis not\n{shown}");
}

#[test]
fn every_file_that_it_links_to_is_there() {
    let text = readme();
    let mut links = 0;
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://")) {
        // Whether its headings are there, `docs.rs` looks.
        let file = link.split('#').next().filter(|file| !file.is_empty()).unwrap_or("README.md");
        assert!(workspace().join(file).exists(), "`{link}` is not there");
        links += 1;
    }
    assert!(links > 5);
}

#[test]
fn every_command_that_the_program_has_is_in_it() {
    let home = Home::new("");
    let help = home.run(&["--help"]).code(0).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next());
    let text = readme();
    for name in names.filter(|name| *name != "help") {
        assert!(text.contains(&format!("`{name}")), "`{name}` is not in the README");
    }
}
