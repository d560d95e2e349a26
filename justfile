# Everyday commands; CI runs the same ones. `scripts/run` and `scripts/test` work without just.

profile := "checked"

# List the commands
default:
    @just --list --unsorted

# Build and start the broker; arguments after -- go to it
run *args:
    scripts/run {{args}}

# Run every test, or what the arguments of scripts/test say
test *args:
    scripts/test {{args}}

# What takes too long for every change: licences, miri, instruction counts, every scenario in every version on all numbers of shards, mutants
nightly: lint miri bench-instructions
    scripts/test --every --only protocol --only plugins
    scripts/mutants --sample 60 --seed "$(date +%j)"

# Formatting, lints with warnings as errors, scripts, licences and duplicates of dependencies
lint:
    scripts/test --only fmt --only scripts --only clippy
    cargo deny --version >/dev/null || cargo install --locked cargo-deny
    cargo deny --workspace check bans licenses sources

# Random clients, plugins and lanes against the engine, judged by a model: --seed N --ops N, --all for one failure of each rule
simulate *args:
    PROFILE={{profile}} scripts/simulate {{args}}

# Changes of the engine that its tests must notice: --sample N --seed S, --file GLOB; all of them without
mutants *args:
    scripts/mutants {{args}}

# Undefined behaviour in plugin-abi and the engine, which no test can see otherwise
miri:
    rustup toolchain install nightly --profile minimal --component miri
    # Isolation is off because tests read the clock for their seeds. The tables of plugins and of their host stay for ever, and so do
    # the hooks of the engine's tests, which counts as leaked. The header's tests start compilers, which cannot be done under miri.
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" cargo +nightly miri test -p grapnel-plugin-abi \
        --lib --test host --test sdk --test points
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" cargo +nightly miri test -p grapnel-engine --lib
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" cargo +nightly miri test -p grapnel-engine \
        --test engine -- hooks:: a_link_with_filters a_rewritten_topic

# Every scenario with broker and floor in turn: medians, spread, multiples; options of grapnel-bench compare
bench-floor *args:
    scripts/bench-floor {{args}}

# Instructions that the floor takes per message, under callgrind
floor-instructions:
    scripts/floor-instructions

# How long the units of the engine take, on this machine and now (criterion)
bench *args:
    cargo bench -p grapnel-bench --bench time -- {{args}}

# Instructions of the same units beside the committed counts; --write makes the new ones the baseline
bench-instructions *args:
    scripts/bench-instructions {{args}}

# Write anew what is made from the Rust source of the ABI: the C header, the layouts, the hash in plugin-abi/ABI.md
abi:
    GRAPNEL_WRITE_ABI=1 cargo test --profile {{profile}} -p grapnel-plugin-abi --test layout --test header -- the_header_says the_abi_is_the_one the_document_has

# The documentation of all crates, with broken links as errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

# Make a new plugin from the template, build it and run its test
plugin name:
    scripts/new-plugin {{name}}

# Build the plugin of plugins/NAME that is written in C, as plugins/c-journal is
plugin-c name:
    cd plugins/{{name}} && cc -std=c11 -O2 -Wall -Wextra -shared -fPIC -pthread -I ../../plugin-abi/include \
        -o libgrapnel_{{replace(name, "-", "_")}}.so {{replace(name, "-", "_")}}.c

# Build the plugin of plugins/NAME that is written in C++, as plugins/cpp-json-gate is
plugin-cpp name:
    cd plugins/{{name}} && c++ -std=c++17 -O2 -Wall -Wextra -shared -fPIC -pthread -I ../../plugin-abi/include \
        -o libgrapnel_{{replace(name, "-", "_")}}.so {{replace(name, "-", "_")}}.cpp
