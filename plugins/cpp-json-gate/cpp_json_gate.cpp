// cpp-json-gate: refuses messages of some topics whose payload is not JSON, or lacks keys. A plugin in C++: the shared part and
// the instances are classes that clean up after themselves, and exceptions end at the border to the broker.
//
//     c++ -std=c++17 -O2 -shared -fPIC -I ../../plugin-abi/include -o libgrapnel_cpp_json_gate.so cpp_json_gate.cpp
#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "grapnel_plugin.h"
#include "json.hpp"

namespace {

constexpr std::uint8_t PAYLOAD_FORMAT_INVALID = 0x99;

std::string_view view(grapnel_slice slice) { return {reinterpret_cast<const char *>(slice.ptr), slice.len}; }

grapnel_slice slice(std::string_view text) { return grapnel_bytes(text.data(), text.size()); }

/// What the operator configures.
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

/// The shared part: read by all shards, changed by none.
class Gate {
public:
    Gate(const grapnel_host_api &host, std::string_view config) : host(host), settings_(config) {}

    /// What is wrong with a payload; empty where nothing is.
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

    bool judges(std::string_view topic) const {
        return std::any_of(settings_.filters.begin(), settings_.filters.end(),
                           [&](const std::string &filter) { return matches(filter, topic); });
    }

    const grapnel_host_api &host;

private:
    /// Whether a topic filter matches a topic name (MQTT 5.0, section 4.7).
    static bool matches(std::string_view filter, std::string_view topic) {
        if (!topic.empty() && topic[0] == '$' && (filter[0] == '+' || filter[0] == '#')) return false;
        for (;;) {
            const auto filter_end = filter.find('/'), topic_end = topic.find('/');
            const auto level = filter.substr(0, filter_end);
            if (level == "#") return true;
            if (level != "+" && level != topic.substr(0, topic_end)) return false;
            const bool filter_done = filter_end == filter.npos, topic_done = topic_end == topic.npos;
            if (topic_done) return filter_done || filter.substr(filter_end + 1) == "#";
            if (filter_done) return false;
            filter.remove_prefix(filter_end + 1);
            topic.remove_prefix(topic_end + 1);
        }
    }

    Settings settings_;
};

/// The instance of a shard. Its destructor says what it did.
class Shard {
public:
    explicit Shard(const Gate &gate, std::uint32_t number) : gate_(gate), number_(number) {}

    ~Shard() {
        if (refused_ == 0) return;
        try {
            const std::string line = "shard " + std::to_string(number_) + " refused " + std::to_string(refused_) + " messages";
            grapnel_log(&gate_.host, GRAPNEL_LOG_LEVEL_INFO, line.c_str());
        } catch (const std::bad_alloc &) {
            // A line of the log is not worth more.
        }
    }

    Shard(const Shard &) = delete;
    Shard &operator=(const Shard &) = delete;

    grapnel_flow publish(const grapnel_event &event) {
        if (!gate_.judges(view(event.topic))) return GRAPNEL_FLOW_CONTINUE;
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

/// Runs what may throw at the border to the broker, which no exception may cross.
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

// The C side. These have C linkage through the types of the table; a lambda without captures would do as well.
extern "C" {

grapnel_status gate_manifest(grapnel_manifest *out) {
    out->size = sizeof(*out);
    out->name = grapnel_text("cpp-json-gate");
    out->version = grapnel_text("1.0.0");
    out->description = grapnel_text("Refuses messages whose payload is not the JSON it should be");
    out->sdk = grapnel_text("grapnel_plugin.h 1.0");
    return GRAPNEL_STATUS_OK;
}

grapnel_status gate_check_config(grapnel_slice config, grapnel_error_text *error) {
    return guarded(error, [&] { Settings{view(config)}; });
}

grapnel_status gate_load(const grapnel_host_api *host, grapnel_slice config, void **out, grapnel_error_text *error) {
    return guarded(error, [&] { *out = std::make_unique<Gate>(*host, view(config)).release(); });
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

grapnel_status gate_mount(std::uint32_t index, grapnel_mount *out) {
    if (index != 0) return GRAPNEL_STATUS_ABSENT;
    out->size = sizeof(*out);
    out->point = GRAPNEL_POINT_MESSAGE_PUBLISH;
    // Before those that work on what they get.
    out->priority = 100;
    out->hook = gate_publish;
    out->name = grapnel_text("publish");
    return GRAPNEL_STATUS_OK;
}

}  // extern "C"

}  // namespace

const grapnel_plugin_module *grapnel_plugin_v1() {
    static const grapnel_plugin_module module = [] {
        grapnel_plugin_module module = grapnel_module();
        module.manifest = gate_manifest;
        module.mount = gate_mount;
        module.check_config = gate_check_config;
        module.load = gate_load;
        module.unload = gate_unload;
        module.init_shard = gate_init_shard;
        module.drop_shard = gate_drop_shard;
        return module;
    }();
    return &module;
}
