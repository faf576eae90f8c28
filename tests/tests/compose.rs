//! The compositions in `deploy/`, held against what `docker compose config` demands, as far as that can be done without it: structure,
//! references, paths, and what becomes of the variables.

use std::{collections::BTreeMap, fs, path::PathBuf};

use router_tests::workspace;
use yaml_rust2::{Yaml, YamlLoader, yaml::Hash};

const FILES: [&str; 2] = ["compose.yaml", "compose.rabbitmq.yaml"];

/// Keys of a service that are used here; of the Compose specification.
const SERVICE_KEYS: [&str; 19] = [
    "build",
    "cap_drop",
    "environment",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "mem_limit",
    "network_mode",
    "pids_limit",
    "ports",
    "read_only",
    "restart",
    "security_opt",
    "stop_grace_period",
    "tmpfs",
    "user",
    "volumes",
    "depends_on",
];

fn directory() -> PathBuf {
    workspace().join("deploy")
}

fn table<'y>(what: &str, yaml: &'y Yaml) -> &'y Hash {
    yaml.as_hash().unwrap_or_else(|| panic!("{what} is no table: {yaml:?}"))
}

fn text<'y>(what: &str, yaml: &'y Yaml) -> &'y str {
    yaml.as_str().unwrap_or_else(|| panic!("{what} is no text: {yaml:?}"))
}

fn texts<'y>(what: &str, yaml: &'y Yaml) -> Vec<&'y str> {
    match yaml {
        Yaml::BadValue => Vec::new(),
        Yaml::Array(items) => items.iter().map(|item| text(what, item)).collect(),
        other => panic!("{what} is no list: {other:?}"),
    }
}

fn read(name: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&fs::read_to_string(directory().join(name)).expect("the file is there")).expect("it is YAML");
    assert_eq!(documents.len(), 1, "{name} is one document");
    documents.remove(0)
}

/// As the files are laid over each other: tables are merged, lists joined, the later file's values count.
fn merged(below: Yaml, above: Yaml) -> Yaml {
    match (below, above) {
        (Yaml::Hash(mut below), Yaml::Hash(above)) => {
            for (key, value) in above {
                let value = match below.remove(&key) {
                    Some(before) => merged(before, value),
                    None => value,
                };
                below.insert(key, value);
            }
            Yaml::Hash(below)
        }
        (Yaml::Array(mut below), Yaml::Array(above)) => {
            below.extend(above);
            Yaml::Array(below)
        }
        (below, Yaml::Null) => below,
        (_, above) => above,
    }
}

/// The compositions that the heads of the files name: the first one alone, and both.
fn compositions() -> Vec<Yaml> {
    vec![read(FILES[0]), merged(read(FILES[0]), read(FILES[1]))]
}

/// What Compose makes of a text: `${NAME}`, `${NAME-default}`, `${NAME:-default}`, `${NAME:?why}`. A default is filled in before anybody
/// looks whether it is needed, as Compose does it.
fn filled(text: &str, variables: &BTreeMap<&str, &str>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let inner = rest[at..].strip_prefix("${").ok_or_else(|| format!("a `$` that is no reference in `{text}`"))?;
        let (mut depth, mut end) = (1, None);
        for (at, c) in inner.char_indices() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 {
                end = Some(at);
                break;
            }
        }
        let end = end.ok_or_else(|| format!("a `${{` without its `}}` in `{text}`"))?;
        let (reference, name_end) = (&inner[..end], inner[..end].find([':', '-', '?']).unwrap_or(end));
        let (name, operator) = reference.split_at(name_end);
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "`{name}` in `{text}`");
        let set = variables.get(name).copied();
        let not_empty = set.filter(|value| !value.is_empty());
        out.push_str(&match (operator.strip_prefix(":-"), operator.strip_prefix('-'), operator.strip_prefix(":?")) {
            (Some(default), _, _) => {
                let default = filled(default, variables)?;
                not_empty.map_or(default, str::to_owned)
            }
            (_, Some(default), _) => {
                let default = filled(default, variables)?;
                set.map_or(default, str::to_owned)
            }
            (_, _, Some(why)) => not_empty.map(str::to_owned).ok_or_else(|| format!("`{name}` is missing: {why}"))?,
            _ if operator.is_empty() => set.unwrap_or_default().to_owned(),
            _ => return Err(format!("`{operator}` in `{text}`")),
        });
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Of `90s`, `1m30s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let Some(unit) = ["ms", "us", "h", "m", "s"].into_iter().find(|unit| digits > 0 && rest[digits..].starts_with(unit)) else { return false };
        rest = &rest[digits + unit.len()..];
    }
    !text.is_empty()
}

/// Of `512m`, `2g`.
fn is_size(text: &str) -> bool {
    text.strip_suffix(['b', 'k', 'm', 'g']).is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn check_service(name: &str, service: &Yaml, volumes: &[String]) {
    for key in table(name, service).keys() {
        let key = text(name, key);
        assert!(SERVICE_KEYS.contains(&key), "{name} has `{key}`, which no service has, or which is not checked here yet");
    }
    assert!(!service["image"].is_badvalue() || !service["build"].is_badvalue(), "{name} has neither an image nor a build");
    if !service["build"].is_badvalue() {
        let context = directory().join(text("the context", &service["build"]["context"]));
        assert!(context.join("Cargo.toml").exists(), "{name} is built from `{}`", context.display());
        assert!(context.join(text("the Dockerfile", &service["build"]["dockerfile"])).exists());
    }
    for volume in texts("volumes", &service["volumes"]) {
        let parts: Vec<&str> = volume.split(':').collect();
        let (Some(&source), Some(&target)) = (parts.first(), parts.get(1)) else { panic!("`{volume}` leads nowhere") };
        assert!(target.starts_with('/') && parts.get(2).is_none_or(|mode| ["ro", "rw"].contains(mode)) && parts.len() <= 3, "`{volume}`");
        if source.starts_with(['.', '/']) {
            // All files' paths begin where the first file is. What is not there would become a directory.
            assert!(directory().join(source).exists(), "`{source}` of {name} is not there");
        } else {
            assert!(volumes.iter().any(|volume| volume == source), "the volume `{source}` of {name} is not declared");
        }
    }
    let targets: Vec<&str> = texts("volumes", &service["volumes"]).into_iter().filter_map(|volume| volume.split(':').nth(1)).collect();
    assert!(targets.iter().all(|target| targets.iter().filter(|other| other == &target).count() == 1), "{name} mounts twice at one place: {targets:?}");
    if service["network_mode"].as_str() == Some("host") {
        assert!(service["ports"].is_badvalue(), "{name} has the host's network and publishes ports, which is refused");
    }
    for port in texts("ports", &service["ports"]) {
        assert!(port.starts_with("127.0.0.1:") && port.split(':').skip(1).all(|port| port.parse::<u16>().is_ok()), "`{port}` of {name}");
    }
    assert!(["always", "unless-stopped", "on-failure", "no"].contains(&text("restart", &service["restart"])), "{name}");
    assert!(is_duration(text("stop_grace_period", &service["stop_grace_period"])), "{name}");
    assert!(is_size(text("mem_limit", &service["mem_limit"])), "{name}");
    let health = &service["healthcheck"];
    if !health.is_badvalue() {
        assert!(texts("the test", &health["test"]).first().is_some_and(|kind| ["CMD", "CMD-SHELL"].contains(kind)), "{health:?}");
        for key in ["interval", "timeout", "start_period"] {
            assert!(is_duration(text(key, &health[key])), "{name}: {key}");
        }
        assert!(health["retries"].as_i64().is_some_and(|retries| retries > 0));
    }
    if let Some(environment) = service["environment"].as_hash() {
        environment.iter().for_each(|(name, value)| assert!(!text("a variable", name).is_empty() && !text("its value", value).is_empty()));
    }
}

#[test]
fn the_compositions_have_the_structure_that_compose_demands_and_refer_to_what_is_there() {
    for composition in compositions() {
        for key in table("the composition", &composition).keys() {
            assert!(["services", "volumes"].contains(&text("a key", key)), "{key:?}");
        }
        let volumes: Vec<String> = table("volumes", &composition["volumes"]).keys().map(|name| text("a volume", name).to_owned()).collect();
        for (name, service) in table("services", &composition["services"]) {
            check_service(text("a service", name), service, &volumes);
        }
    }
}

#[test]
fn the_broker_of_the_composition_has_the_password_that_the_router_uses_and_none_is_shipped() {
    let both = compositions().remove(1);
    let url = |variables: &[(&str, &str)]| {
        filled(text("the URL", &both["services"]["event-router"]["environment"]["RABBIT_URL"]), &variables.iter().copied().collect())
    };
    let broker = &both["services"]["rabbitmq"]["environment"];
    let password = |variables: &[(&str, &str)]| filled(text("the password", &broker["RABBITMQ_DEFAULT_PASS"]), &variables.iter().copied().collect());
    let user = text("the user", &broker["RABBITMQ_DEFAULT_USER"]);

    let chosen = [("RABBIT_PASSWORD", "chosen1")];
    assert_eq!(url(&chosen), Ok(format!("amqp://{user}:chosen1@127.0.0.1:5672/")));
    assert_eq!(password(&chosen), Ok("chosen1".to_owned()));
    assert!(texts("ports", &both["services"]["rabbitmq"]["ports"]).contains(&"127.0.0.1:5672:5672"), "where the URL leads");
    let missing = password(&[]).expect_err("there is no default password");
    assert!(missing.contains("`RABBIT_PASSWORD` is missing"), "{missing}");
    // On another bus nothing is demanded beside its URL.
    assert_eq!(url(&[("RABBIT_URL", "amqps://u:p@bus/")]), Ok("amqps://u:p@bus/".to_owned()));
}

#[test]
fn what_compose_would_refuse_is_noticed() {
    let none = BTreeMap::new();
    for wrong in ["${A", "a $b", "${A:+b}", "${A:?why}", "${A:-${B:?why}}"] {
        assert!(filled(wrong, &none).is_err(), "{wrong}");
    }
    let a = BTreeMap::from([("A", "")]);
    assert_eq!((filled("x${A:-y}z", &a), filled("x${A-y}z", &a)), (Ok("xyz".to_owned()), Ok("xz".to_owned())));
    assert!(is_duration("1m30s") && !is_duration("90") && !is_duration("s") && is_size("512m") && !is_size("m"));
}
