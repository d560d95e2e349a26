# Names for everyday commands. CI runs `scripts/test`. `scripts/run` and `scripts/test` work without
# just.

profile := "checked"

# List the commands
default:
    @just --list --unsorted

# Build the broker and start it; arguments after -- go to the broker
run *args:
    scripts/run {{args}}

# Run all layers of tests, or those that are named; arguments go to scripts/test
test *args:
    scripts/test {{args}}

# What takes too long for every change: licences, miri, instruction counts, documents, all scenarios, mutants
nightly: lint miri bench-instructions documents reloads
    scripts/test --every --only protocol --only plugins
    GRAPNEL_TESTS_IO=epoll GRAPNEL_RUNTIME_IO=epoll scripts/test --only unit --only protocol --only clients --only broker --only hooks --only plugins --only load --only leak
    scripts/mutants --sample 60 --seed "$(date +%j)"

# Reload the configuration 1,000 times under load, with 200 changes of certificates
reloads:
    scripts/test --every --only transports -- a_thousand_reloads

# Run protocol, hooks, leak and load over each transport, with each driver, on 1, 2 and 8 shards: --layer, --transport, --driver, --shards
transports-product *args:
    scripts/transports-product {{args}}

# Check formatting, shell scripts, lints, and licences and duplicates of dependencies
lint:
    scripts/test --only fmt --only scripts --only clippy
    cargo deny --version >/dev/null || cargo install --locked cargo-deny
    cargo deny --workspace check bans licenses sources

# Run random clients and plugins against the engine and a model: --seed N --ops N, --all
simulate *args:
    PROFILE={{profile}} scripts/simulate {{args}}

# Change the engine and check that its tests notice: --sample N --seed S, --file GLOB
mutants *args:
    scripts/mutants {{args}}

# Look for undefined behaviour in plugin-abi and parts of the engine
miri:
    rustup toolchain install nightly --profile minimal --component miri
    # Isolation is off because tests read the clock for their seeds. Tables of plugins, host tables
    # and the hooks of the engine's tests are never freed, which miri would report as leaks. The
    # tests of the header start compilers, which miri cannot do.
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" cargo +nightly miri test -p grapnel-plugin-abi \
        --lib --test host --test sdk --test points
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" cargo +nightly miri test -p grapnel-engine --lib
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" cargo +nightly miri test -p grapnel-engine \
        --test engine -- hooks:: a_link_with_filters a_rewritten_topic

# Measure the broker beside the baseline relay (floor); options of grapnel-bench compare
bench-floor *args:
    scripts/bench-floor {{args}}

# Count the instructions of the baseline relay per message, under callgrind
floor-instructions:
    scripts/floor-instructions

# Time units of the engine with criterion
bench *args:
    cargo bench -p grapnel-bench --bench time -- {{args}}

# Count instructions of the same units and compare; --write makes the counts the new baseline
bench-instructions *args:
    scripts/bench-instructions {{args}}

# Write what is generated from the ABI's source: C header, layout list, hash in plugin-abi/ABI.md, and
# what documents and SDKs have of the list of hook points
abi:
    GRAPNEL_WRITE_ABI=1 cargo test --profile {{profile}} -p grapnel-plugin-abi --test layout --test header -- the_header_says the_abi_is_the_one the_document_has
    GRAPNEL_WRITE_ABI=1 cargo test --profile {{profile}} -p grapnel-tests --test documents -- points::the_

# Run the commands of the documents as a new user would, from a fresh clone: --page FILE
documents *args:
    scripts/documents {{args}}

# Make the book of docs/ for a browser, into docs/book
book:
    mdbook --version >/dev/null 2>&1 || cargo install --locked mdbook
    mdbook build docs
    python3 tests/reader/links.py docs/book

# Build the API documentation of all crates; broken links are errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

# Make plugins/NAME from the template, build it and run its test
plugin name:
    scripts/new-plugin {{name}}

# Build the C plugin in plugins/NAME, such as c-journal
plugin-c name:
    cd plugins/{{name}} && cc -std=c11 -O2 -Wall -Wextra -shared -fPIC -pthread -I ../../plugin-abi/include \
        -o libgrapnel_{{replace(name, "-", "_")}}.so {{replace(name, "-", "_")}}.c

# Build the C++ plugin in plugins/NAME, such as cpp-json-gate
plugin-cpp name:
    cd plugins/{{name}} && c++ -std=c++17 -O2 -Wall -Wextra -shared -fPIC -pthread -I ../../plugin-abi/include \
        -o libgrapnel_{{replace(name, "-", "_")}}.so {{replace(name, "-", "_")}}.cpp
