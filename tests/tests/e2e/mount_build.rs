//! Projects that are built on a mount, in C and in Rust, beside the same on the local disk: the same files come out, what is up to date is
//! not built again, and what is not is.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::mounted::{LISTING, Mounted, can_mount, has, shell};
use crate::program::Cluster;

/// Modules of the project in C.
const MODULES: usize = 48;

const MAKEFILE: &str = "OBJECTS := $(patsubst src/%.c,build/%.o,$(wildcard src/*.c))
build/program: build/main.o build/libmodules.a
\tcc -o $@ $^
build/libmodules.a: $(filter-out build/main.o,$(OBJECTS))
\tar rcs $@ $^
build/%.o: src/%.c | build
\tcc -O1 -Wall -Werror -Iinclude -MMD -c -o $@ $<
build:
\tmkdir -p build
-include $(OBJECTS:.o=.d)
";

/// Writes the same sources into each folder.
fn write(folders: &[&Path], name: &str, text: &str) {
    for folder in folders {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("make a directory");
        fs::write(path, text).expect("write a source");
    }
}

fn c_project(folders: &[&Path]) {
    write(folders, "Makefile", MAKEFILE);
    write(folders, "include/common.h", "#define STEP 3\n");
    let (mut declared, mut called) = (String::new(), String::new());
    for module in 0..MODULES {
        writeln!(declared, "long module_{module}(long);").expect("a string");
        writeln!(called, "  sum = module_{module}(sum);").expect("a string");
        let source = format!(
            "#include \"common.h\"\n#include \"modules.h\"\nstatic const char text[] = \"module {module}\";\n\
             long module_{module}(long sum) {{ for (unsigned i = 0; i < sizeof text; i++) sum = sum * STEP + text[i]; return sum; }}\n"
        );
        write(folders, &format!("src/module_{module}.c"), &source);
    }
    write(folders, "include/modules.h", &declared);
    let main = format!(
        "#include <stdio.h>\n#include \"modules.h\"\nint main(void) {{\n  unsigned long sum = 1;\n{called}  \
         printf(\"%lx\\n\", sum);\n  return 0;\n}}\n"
    );
    write(folders, "src/main.c", &main);
}

#[test]
fn a_project_in_c_is_built_as_on_a_local_disk() {
    if !can_mount() || !has("make") || !has("cc") {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let folder = work.path().join("mnt");
    let mounted = Mounted::on(&cluster, folder.clone(), &[]);
    let (mine, local) = (folder.join("project"), work.path().join("project"));
    c_project(&[&mine, &local]);
    let build = "make -j4 | sort && ./build/program";
    let expected = shell(&local, build);
    assert_eq!(expected.lines().count(), MODULES + 5, "{expected}");
    assert_eq!(shell(&mine, build), expected);
    assert_eq!(shell(&mine, LISTING), shell(&local, LISTING));
    let nothing = "make: 'build/program' is up to date.\n";
    assert_eq!(shell(&mine, "make -j4"), nothing);
    // One source, which the kernel has in its cache; and a header that all include.
    for change in [
        "echo '/* more */' >> src/module_7.c",
        "sed -i s/3/5/ include/common.h",
        "touch include/modules.h && rm build/module_9.o",
    ] {
        let line = format!("{change} && make -j4 | sort && ./build/program && make");
        assert_eq!(shell(&mine, &line), shell(&local, &line), "{change}");
    }
    mounted.unmount();
    // Times are what they were.
    let again = Mounted::on(&cluster, folder, &[]);
    assert_eq!(shell(&mine, "make -j4"), nothing);
    assert_eq!(shell(&mine, LISTING), shell(&local, LISTING));
    let clean = "make -j4 -B >/dev/null && ./build/program && rm -r build && ls";
    assert_eq!(shell(&mine, clean), shell(&local, clean));
    assert_eq!(again.log(), "");
    again.unmount();
}

/// Of the project in Rust: a library, one that needs it, and a program.
const CRATES: [(&str, &str, &str); 3] = [
    (
        "base",
        "lib.rs",
        "//! Below.\npub fn twice(n: u64) -> u64 { n * 2 }\n\
        #[test]\nfn two() { assert_eq!(twice(1), 2); }\n",
    ),
    (
        "middle",
        "lib.rs",
        "//! Between.\npub fn sum(all: &[u64]) -> u64 { all.iter().map(|n| base::twice(*n)).sum() }\n",
    ),
    (
        "program",
        "main.rs",
        "fn main() { println!(\"{}\", middle::sum(&[1, 2, 3])); }\n",
    ),
];

fn rust_project(folders: &[&Path]) {
    let manifest = "[workspace]\nresolver = \"2\"\nmembers = [\"base\", \"middle\", \"program\"]\n";
    write(folders, "Cargo.toml", manifest);
    let mut below = None;
    for (name, file, source) in CRATES {
        let needed = below.map(|below| format!("{below} = {{ path = \"../{below}\" }}\n"));
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n{}",
            needed.unwrap_or_default()
        );
        write(folders, &format!("{name}/Cargo.toml"), &manifest);
        write(folders, &format!("{name}/src/{file}"), source);
        below = Some(name);
    }
}

#[test]
fn a_project_in_rust_is_built_as_on_a_local_disk() {
    if !can_mount() || !has("cargo") {
        return;
    }
    let work = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::up(&work, &[]);
    let folder = work.path().join("mnt");
    let mounted = Mounted::on(&cluster, folder.clone(), &[]);
    let (mine, local) = (folder.join("project"), work.path().join("project"));
    rust_project(&[&mine, &local]);
    // Not with the settings of this project's own build. What is compiled, without where and how long it took.
    let cargo = "c() { env -u CARGO_TARGET_DIR -u RUSTFLAGS -u RUSTC_WRAPPER cargo \"$@\" --offline 2>&1; }; \
        b() { c build | grep -o 'Compiling [a-z]*\\|error.*' | sort; ./target/debug/program; }";
    for (step, expected) in [
        (
            "b",
            "Compiling base\nCompiling middle\nCompiling program\n12\n",
        ),
        ("b", "12\n"),
        (
            "sed -i 's/n \\* 2/n * 3/' base/src/lib.rs; b",
            "Compiling base\nCompiling middle\nCompiling program\n18\n",
        ),
        (
            "echo '// more' >> program/src/main.rs; b",
            "Compiling program\n18\n",
        ),
        (
            "sed -i 's/n \\* 3/n * 2/' base/src/lib.rs; c test -q | grep -c 'test result: ok. 1 passed'",
            "1\n",
        ),
        (
            "c build -q; ls; rm -r target; ls -A",
            "Cargo.lock\nCargo.toml\nbase\nmiddle\nprogram\ntarget\nCargo.lock\nCargo.toml\nbase\nmiddle\nprogram\n",
        ),
    ] {
        for place in [&local, &mine] {
            let line = format!("set +e; {cargo}; {step}");
            assert_eq!(
                shell(place, &line),
                expected,
                "{step} in {}",
                place.display()
            );
        }
    }
    assert_eq!(shell(&mine, LISTING), shell(&local, LISTING));
    assert_eq!(mounted.log(), "");
    mounted.unmount();
}
