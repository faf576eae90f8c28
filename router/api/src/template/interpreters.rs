//! Programs that read code from their arguments: what event data may never become part of.
//!
//! The rule: from a shell, an interpreter or a program that starts another one, everything up to and including what it will run
//! must be literal. What comes after that is data: `sh build.sh {{ file_path }}` and `sh -c '…"$1"…' build {{ file_path }}` are fine,
//! `sh -c "build {{ file_path }}"` is not.
//!
//! This is a net for mistakes of whoever writes the configuration. It knows the usual programs, not every program there is.

/// A program that runs the code or the file that its arguments name.
struct Interpreter {
    names: &'static [&'static str],
    /// Options whose value is code. A one-letter one also at the end of a cluster: `-lc`.
    code: &'static [&'static str],
    /// Options with a value that is not what runs.
    valued: &'static [&'static str],
    shell: bool,
}

const INTERPRETERS: &[Interpreter] = &[
    Interpreter {
        names: &["sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "csh", "tcsh", "rbash", "elvish", "nu", "xonsh"],
        code: &["-c", "--command"],
        valued: &["-o", "+o", "-O", "+O", "--rcfile", "--init-file"],
        shell: true,
    },
    Interpreter { names: &["python", "pypy", "ipython"], code: &["-c", "-m"], valued: &["-W", "-X", "--check-hash-based-pycs"], shell: false },
    Interpreter { names: &["perl"], code: &["-e", "-E"], valued: &["-I"], shell: false },
    Interpreter { names: &["ruby", "irb"], code: &["-e"], valued: &["-r", "-I"], shell: false },
    Interpreter {
        names: &["node", "nodejs", "bun", "deno"],
        code: &["-e", "--eval", "-p", "--print", "eval"],
        valued: &["-r", "--require", "--import"],
        shell: false,
    },
    Interpreter { names: &["php"], code: &["-r", "-B", "-R", "-E"], valued: &["-d", "-c"], shell: false },
    Interpreter {
        names: &["lua", "luajit", "Rscript", "osascript", "tclsh", "guile", "emacs", "ghc", "julia"],
        code: &["-e", "-E", "--eval", "--evaluate"],
        valued: &["-l"],
        shell: false,
    },
    Interpreter { names: &["pwsh", "powershell"], code: &["-c", "-Command", "-EncodedCommand", "-e", "-ec"], valued: &[], shell: true },
    Interpreter { names: &["awk", "gawk", "mawk", "nawk", "sed", "gsed"], code: &["-e", "-f", "--expression"], valued: &["-v", "-F"], shell: false },
];

/// Programs that start the program named by their own arguments, with their options that take a value.
const WRAPPERS: &[(&str, &[&str])] = &[
    ("env", &["-u", "--unset", "-C", "--chdir"]),
    ("sudo", &["-u", "-g", "-C", "-D", "-h", "-p", "-R", "-T", "-U"]),
    ("doas", &["-u", "-C"]),
    ("nice", &["-n"]),
    ("ionice", &["-c", "-n"]),
    ("chrt", &[]),
    ("nohup", &[]),
    ("setsid", &[]),
    ("stdbuf", &["-i", "-o", "-e"]),
    ("timeout", &["-k", "-s"]),
    ("time", &["-f", "-o"]),
    ("xargs", &["-I", "-n", "-P", "-L", "-d", "-a", "-s"]),
    ("busybox", &[]),
    ("toybox", &[]),
    ("chroot", &[]),
    ("unshare", &[]),
    ("nsenter", &["-t"]),
    ("systemd-run", &["-p", "-u"]),
    ("runuser", &["-u"]),
    ("exec", &[]),
    ("command", &[]),
];

/// Programs whose arguments are joined and read by a shell: nothing of them may come from an event.
const JOINERS: &[&str] = &["ssh", "rsh", "mosh", "su", "eval", "watch", "script", "parallel", "at", "batch"];

/// Why an element may not hold a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Objection {
    /// Its place in the vector.
    pub(super) element: usize,
    pub(super) message: String,
    pub(super) help: &'static str,
}

const AS_ARGUMENT: &str =
    "keep the code literal and hand the value over as an argument after it: `[\"sh\", \"-c\", \"build \\\"$1\\\"\", \"build\", \"{{ file_path }}\"]`";
const LITERAL_PROGRAM: &str = "write the program itself into the configuration; only its arguments can have templates";

/// The first element that would let event data be read as code. `is_template` tells which elements have templates.
pub(super) fn objection(elements: &[String], is_template: impl Fn(usize) -> bool) -> Option<Objection> {
    let first_template = (0..elements.len()).find(|&index| is_template(index))?;
    let mut at = 0;
    // Through `env`, `nice`, `timeout`, … to the program that they start.
    loop {
        let name = program_name(&elements[at]);
        if JOINERS.contains(&name) {
            return Some(Objection {
                element: first_template,
                message: format!("`{name}` hands its arguments to a shell, so no event may fill them in"),
                help: "put what varies on the standard input, or call a script that takes it from there",
            });
        }
        let Some((_, valued)) = WRAPPERS.iter().find(|(wrapper, _)| *wrapper == name) else { break };
        match wrapped(elements, at, name, valued, &is_template) {
            Ok(Some(next)) => at = next,
            Ok(None) => return None,
            Err(objection) => return Some(objection),
        }
    }
    if let Some(interpreter) = interpreter(program_name(&elements[at])) {
        return code_objection(elements, at, interpreter, &is_template);
    }
    // Further in (`docker exec web sh -c "…"`, `find … -exec sh -c "…"`) only a shell with code is beyond doubt.
    (at + 1..elements.len()).filter(|&index| !is_template(index)).find_map(|index| {
        let interpreter = interpreter(program_name(&elements[index])).filter(|interpreter| interpreter.shell)?;
        let has_code = elements[index + 1..].iter().take_while(|element| element.starts_with(['-', '+'])).any(|element| gives_code(interpreter, element));
        if has_code { code_objection(elements, index, interpreter, &is_template) } else { None }
    })
}

/// Where the program is that a wrapper starts; none if the vector ends before.
fn wrapped(elements: &[String], wrapper: usize, name: &str, valued: &[&str], is_template: &impl Fn(usize) -> bool) -> Result<Option<usize>, Objection> {
    let mut index = wrapper + 1;
    while let Some(element) = elements.get(index) {
        let assigns = assigned_variable(element);
        if is_template(index) && !(name == "env" && assigns.is_some()) {
            return Err(Objection { element: index, message: format!("a template stands before the program that `{name}` starts"), help: LITERAL_PROGRAM });
        }
        if name == "env" && (element.starts_with("-S") || element.starts_with("--split-string")) {
            // `env -S` splits a text into arguments.
            let template = (index..elements.len()).find(|&index| is_template(index));
            return match template {
                Some(element) => Err(Objection { element, message: "`env -S` splits texts into arguments".to_owned(), help: LITERAL_PROGRAM }),
                None => Ok(None),
            };
        }
        let number = element.starts_with(|c: char| c.is_ascii_digit()) && matches!(name, "timeout" | "chrt");
        if element.starts_with('-') {
            index += if valued.contains(&element.as_str()) { 2 } else { 1 };
            // The value of an option is checked like the option itself.
            if (index - 1 < elements.len()) && is_template(index - 1) {
                return Err(Objection {
                    element: index - 1,
                    message: format!("a template stands before the program that `{name}` starts"),
                    help: LITERAL_PROGRAM,
                });
            }
        } else if assigns.is_some() || number || (name == "chroot" && index == wrapper + 1) {
            index += 1;
        } else {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// The name in `NAME=value`, where the name is literal.
fn assigned_variable(element: &str) -> Option<&str> {
    let (name, _) = element.split_once('=')?;
    let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.as_bytes()[0].is_ascii_digit();
    valid.then_some(name)
}

fn code_objection(elements: &[String], program: usize, interpreter: &Interpreter, is_template: &impl Fn(usize) -> bool) -> Option<Objection> {
    let name = program_name(&elements[program]);
    let refuse = |element: usize, message: String| Some(Objection { element, message, help: AS_ARGUMENT });
    let mut code_follows = false;
    let mut index = program + 1;
    while let Some(element) = elements.get(index) {
        if is_template(index) {
            return if code_follows || gives_code(interpreter, element) {
                refuse(index, format!("a template stands in the code that `{name}` runs, where event data would be read as code"))
            } else {
                refuse(index, format!("a template stands where `{name}` takes an option or the script that it runs"))
            };
        }
        if element == "--" {
            index += 1;
            continue;
        }
        let is_option = element.starts_with(['-', '+']) && element.len() > 1;
        if !is_option {
            let is_code_word = interpreter.code.contains(&element.as_str());
            if !is_code_word {
                // The script or the code: what follows are its arguments. `sed -e` and `perl -e` can come again.
                return (index + 1..elements.len())
                    .find(|&later| {
                        is_template(later) && (gives_code(interpreter, &elements[later]) || gives_code(interpreter, &elements[later - 1])) && !interpreter.shell
                    })
                    .and_then(|later| refuse(later, format!("a template stands in the code that `{name}` runs, where event data would be read as code")));
            }
            code_follows = true;
        } else if gives_code(interpreter, element) {
            code_follows = true;
        } else if interpreter.valued.contains(&element.as_str()) {
            index += 1;
            if index < elements.len() && is_template(index) {
                return refuse(index, format!("a template stands where `{name}` takes an option or the script that it runs"));
            }
        }
        index += 1;
    }
    None
}

/// Is the element an option whose value is code: `-c`, `-lc`, `--eval`, `--eval=…`?
fn gives_code(interpreter: &Interpreter, element: &str) -> bool {
    let long = element.split('=').next().unwrap_or_default();
    interpreter.code.iter().any(|option| {
        let letter = option.strip_prefix('-').filter(|letter| letter.len() == 1);
        // A template's braces are no letters, so `-{{ x }}` is no cluster.
        let cluster = element.strip_prefix('-').map(|rest| rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default());
        long == *option || matches!((letter, cluster), (Some(letter), Some(cluster)) if !element.starts_with("--") && cluster.contains(letter))
    })
}

/// `/usr/bin/python3.12` is `python`.
fn program_name(element: &str) -> &str {
    let base = element.rsplit('/').next().unwrap_or_default();
    let plain = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    if plain.is_empty() { base } else { plain }
}

fn interpreter(name: &str) -> Option<&'static Interpreter> {
    INTERPRETERS.iter().find(|interpreter| interpreter.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objected(elements: &[&str]) -> Option<usize> {
        let elements: Vec<String> = elements.iter().map(|&element| element.to_owned()).collect();
        objection(&elements, |index| elements[index].contains("{{")).map(|objection| objection.element)
    }

    #[test]
    fn a_template_in_code_is_objected_to() {
        for (elements, element) in [
            (&["sh", "-c", "build {{ x }}"][..], 2),
            (&["bash", "-c", "{{ x }}"], 2),
            (&["/bin/bash", "-lc", "{{ x }}"], 2),
            (&["bash", "-e", "-u", "-o", "pipefail", "-c", "{{ x }}"], 6),
            (&["zsh", "-c", "-e", "{{ x }}"], 3),
            (&["dash", "-ec", "{{ x }}", "a"], 2),
            (&["sh", "{{ x }}"], 1),
            (&["sh", "-{{ x }}", "a"], 1),
            (&["env", "sh", "-c", "{{ x }}"], 3),
            (&["/usr/bin/env", "A=1", "-i", "bash", "-c", "{{ x }}"], 5),
            (&["env", "-S", "{{ x }}"], 2),
            (&["env", "-S", "prog", "{{ x }}"], 3),
            (&["env", "{{ x }}", "sh"], 1),
            (&["env", "-u", "{{ x }}", "prog"], 2),
            (&["nice", "-n", "5", "sh", "-c", "{{ x }}"], 5),
            (&["timeout", "-k", "5", "60s", "bash", "-c", "{{ x }}"], 6),
            (&["timeout", "60", "{{ x }}"], 2),
            (&["sudo", "-u", "ci", "{{ x }}"], 3),
            (&["xargs", "sh", "-c", "{{ x }}"], 3),
            (&["busybox", "sh", "-c", "{{ x }}"], 3),
            (&["python", "-c", "print('{{ x }}')"], 2),
            (&["python3.12", "-I", "-c", "{{ x }}"], 3),
            (&["python3", "-c{{ x }}"], 1),
            (&["python3", "-m", "{{ x }}"], 2),
            (&["python3", "{{ x }}"], 1),
            (&["perl", "-ne", "{{ x }}"], 2),
            (&["perl", "-e", "1", "-e", "{{ x }}"], 4),
            (&["node", "--eval={{ x }}"], 1),
            (&["ruby", "-e", "{{ x }}"], 2),
            (&["awk", "{{ x }}", "file"], 1),
            (&["sed", "-e", "s/a/b/", "-e", "{{ x }}"], 4),
            (&["docker", "exec", "web", "sh", "-c", "{{ x }}"], 5),
            (&["find", ".", "-exec", "/bin/bash", "-ec", "{{ x }}", ";"], 5),
            (&["ssh", "host", "build", "{{ x }}"], 3),
            (&["su", "ci", "-c", "{{ x }}"], 3),
        ] {
            assert_eq!(objected(elements), Some(element), "{elements:?}");
        }
    }

    #[test]
    fn a_template_in_an_argument_is_fine() {
        for elements in [
            &["sh", "-c", "build \"$1\"", "build", "{{ x }}"][..],
            &["bash", "-eu", "-o", "pipefail", "build.sh", "{{ x }}"],
            &["sh", "build.sh", "-c", "{{ x }}"],
            &["env", "BRANCH={{ x }}", "make", "test"],
            &["timeout", "60", "pytest", "{{ x }}"],
            &["python3", "-W", "ignore", "ci.py", "{{ x }}"],
            &["python3", "-m", "pytest", "{{ x }}"],
            &["python3", "-c", "import sys", "{{ x }}"],
            &["awk", "-v", "n=1", "{print n}", "{{ x }}"],
            &["git", "checkout", "{{ x }}"],
            &["cp", "sh", "{{ x }}"],
            &["docker", "exec", "web", "sh", "build.sh", "{{ x }}"],
            &["sh", "-c", "literal"],
            &["env"],
        ] {
            assert_eq!(objected(elements), None, "{elements:?}");
        }
    }
}
