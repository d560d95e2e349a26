// cpp-json-gate: refuses messages of some topics if their payload is not JSON or lacks keys. A
// plugin in C++: the shared part and the instances are classes with destructors, and no exception
// passes to the broker.
//
//     c++ -std=c++17 -O2 -shared -fPIC -I ../../plugin-abi/include -o libgrapnel_cpp_json_gate.so cpp_json_gate.cpp
#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "grapnel_plugin.h"
#include "json.hpp"

namespace {

constexpr std::uint8_t PAYLOAD_FORMAT_INVALID = 0x99;

std::string_view view(grapnel_slice slice) { return {reinterpret_cast<const char *>(slice.ptr), slice.len}; }

grapnel_slice slice(std::string_view text) { return grapnel_bytes(text.data(), text.size()); }

/// The configuration.
struct Settings {
    std::vector<std::string> filters;
    std::vector<std::string> required;

    explicit Settings(std::string_view config) {
        if (!config.empty()) {
            json::Reader reader(config);
            reader.object([&](std::string_view key) {
                if (key == "filters") filters = texts(reader);
                else if (key == "required") required = texts(reader);
                else throw json::Wrong("the key " + std::string(key) + " is not known; the keys are filters, required");
            });
        }
        if (filters.empty()) throw json::Wrong("the key filters is missing: topic filters of the messages to judge");
    }

private:
    static std::vector<std::string> texts(json::Reader &reader) {
        std::vector<std::string> list;
        reader.array([&] {
            const std::string_view text = reader.raw_string();
            if (text.empty() || text.find('\\') != std::string_view::npos) {
                throw json::Wrong("a text of the configuration is empty or has a \\ in it, which nothing here needs");
            }
            list.emplace_back(text);
        });
        return list;
    }
};

/// The shared part: immutable, and read by all shards.
class Gate {
public:
    Gate(const grapnel_host_api &host, std::string_view config) : host(host), settings_(config) {}

    /// Mounts the hook for the configured topics, which are known only now.
    void mount(grapnel_flow (*hook)(void *, const grapnel_event *)) const {
        std::vector<grapnel_slice> filters;
        for (const std::string &filter : settings_.filters) filters.push_back(slice(filter));
        grapnel_mount mount{};
        mount.size = sizeof(mount);
        mount.point = GRAPNEL_POINT_MESSAGE_PUBLISH;
        // Before plugins that process the payload.
        mount.priority = 100;
        mount.hook = hook;
        mount.name = grapnel_text("publish");
        mount.topics = filters.data();
        mount.topics_len = filters.size();
        std::uint64_t handle;
        if (host.hook(host.plugin, &mount, &handle) != GRAPNEL_STATUS_OK) {
            throw std::runtime_error("filters: the broker does not take them; is each a topic filter?");
        }
    }

    /// The error in a payload; empty if there is none.
    std::string problem(std::string_view payload) const {
        try {
            json::Reader reader(payload);
            std::size_t found = 0;
            if (!settings_.required.empty() && !reader.object_next()) return "the payload is not a JSON object";
            if (settings_.required.empty()) {
                reader.skip();
            } else {
                std::vector<bool> seen(settings_.required.size());
                reader.object([&](std::string_view key) {
                    const auto wanted = std::find(settings_.required.begin(), settings_.required.end(), key);
                    if (wanted != settings_.required.end()) {
                        auto flag = seen[static_cast<std::size_t>(wanted - settings_.required.begin())];
                        if (!flag) ++found;
                        flag = true;
                    }
                    reader.skip();
                });
                if (found < seen.size()) {
                    const auto missing = std::find(seen.begin(), seen.end(), false) - seen.begin();
                    return "the key " + settings_.required[static_cast<std::size_t>(missing)] + " is missing";
                }
            }
            reader.end();
            return {};
        } catch (const json::Wrong &wrong) {
            return std::string("the payload is not JSON: ") + wrong.what();
        }
    }

    const grapnel_host_api &host;

private:
    Settings settings_;
};

/// The instance of a shard. Its destructor logs what it did.
class Shard {
public:
    explicit Shard(const Gate &gate, std::uint32_t number) : gate_(gate), number_(number) {}

    ~Shard() {
        if (refused_ == 0) return;
        try {
            const std::string line = "shard " + std::to_string(number_) + " refused " + std::to_string(refused_) + " messages";
            grapnel_log(&gate_.host, GRAPNEL_LOG_LEVEL_INFO, line.c_str());
        } catch (const std::bad_alloc &) {
            // An error while logging is ignored.
        }
    }

    Shard(const Shard &) = delete;
    Shard &operator=(const Shard &) = delete;

    grapnel_flow publish(const grapnel_event &event) {
        const std::string problem = gate_.problem(view(event.payload));
        if (problem.empty()) return GRAPNEL_FLOW_CONTINUE;
        ++refused_;
        const grapnel_status status = grapnel_reject(&gate_.host, &event, PAYLOAD_FORMAT_INVALID, slice(problem));
        return status == GRAPNEL_STATUS_OK ? GRAPNEL_FLOW_STOP : GRAPNEL_FLOW_FAULT;
    }

private:
    const Gate &gate_;
    std::uint32_t number_;
    std::uint64_t refused_ = 0;
};

/// Runs a body that may throw. No exception may pass to the broker.
template <typename Body>
grapnel_status guarded(grapnel_error_text *error, Body body) noexcept {
    try {
        body();
        return GRAPNEL_STATUS_OK;
    } catch (const std::exception &exception) {
        return grapnel_fail(error, exception.what());
    } catch (...) {
        return grapnel_fail(error, "something was thrown that is no exception");
    }
}

// The C functions. The types of the table give them C linkage; a lambda without captures would also
// work.
extern "C" {

grapnel_status gate_manifest(grapnel_manifest *out) {
    out->size = sizeof(*out);
    out->name = grapnel_text("cpp-json-gate");
    out->version = grapnel_text("1.0.0");
    out->description = grapnel_text("Refuses messages whose payload is not the JSON it should be");
    out->sdk = grapnel_text("grapnel_plugin.h 1.0");
    out->flags = GRAPNEL_MANIFEST_IN_PLACE;
    return GRAPNEL_STATUS_OK;
}

grapnel_status gate_check_config(grapnel_slice config, grapnel_error_text *error) {
    return guarded(error, [&] { Settings{view(config)}; });
}

void gate_unload(void *plugin) { delete static_cast<Gate *>(plugin); }

grapnel_status gate_init_shard(void *plugin, std::uint32_t number, void **out, grapnel_error_text *error) {
    return guarded(error, [&] { *out = std::make_unique<Shard>(*static_cast<Gate *>(plugin), number).release(); });
}

void gate_drop_shard(void *instance) { delete static_cast<Shard *>(instance); }

grapnel_flow gate_publish(void *instance, const grapnel_event *event) {
    try {
        return static_cast<Shard *>(instance)->publish(*event);
    } catch (...) {
        return GRAPNEL_FLOW_FAULT;
    }
}

grapnel_status gate_load(const grapnel_host_api *host, grapnel_slice config, void **out, grapnel_error_text *error) {
    return guarded(error, [&] {
        auto gate = std::make_unique<Gate>(*host, view(config));
        gate->mount(gate_publish);
        *out = gate.release();
    });
}

// No mounts in the table: the gate mounts its hook when it has its topics.
grapnel_status gate_mounts(std::uint32_t, grapnel_mount *) { return GRAPNEL_STATUS_ABSENT; }

}  // extern "C"

}  // namespace

const grapnel_plugin_module *grapnel_plugin_v1() {
    static const grapnel_plugin_module module = [] {
        grapnel_plugin_module module = grapnel_module();
        module.manifest = gate_manifest;
        module.mount = gate_mounts;
        module.check_config = gate_check_config;
        module.load = gate_load;
        module.unload = gate_unload;
        module.init_shard = gate_init_shard;
        module.drop_shard = gate_drop_shard;
        return module;
    }();
    return &module;
}
