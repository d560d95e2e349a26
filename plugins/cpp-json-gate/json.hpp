// Reads JSON (RFC 8259) without building anything of it: the caller is told of each key and decides what to read. For the
// configuration of the plugin and for every payload that it judges; it allocates nothing but the texts it is asked for.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace json {

/// What is wrong with a text, without the text.
struct Wrong : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Reader {
public:
    explicit Reader(std::string_view text) : text_(text) {}

    /// An object: `key` is called with each key, raw between its quotes, and must read its value.
    template <typename Key>
    void object(Key key) {
        Nested nested(*this);
        expect('{');
        if (take('}')) return;
        do {
            const std::string_view name = raw_string();
            expect(':');
            key(name);
        } while (take(','));
        expect('}');
    }

    /// An array: `element` is called for each and must read it.
    template <typename Element>
    void array(Element element) {
        Nested nested(*this);
        expect('[');
        if (take(']')) return;
        do element();
        while (take(','));
        expect(']');
    }

    /// A text between its quotes, checked and with its escapes as they are.
    std::string_view raw_string() {
        expect('"');
        const std::size_t start = at_;
        while (at_ < text_.size() && text_[at_] != '"') {
            const auto letter = static_cast<unsigned char>(text_[at_]);
            if (letter < 0x20) throw Wrong("a control character in a text");
            if (letter >= 0x80) {
                utf8();
                continue;
            }
            if (text_[at_++] == '\\') escape();
        }
        if (at_ == text_.size()) throw Wrong("a text has no end");
        return text_.substr(start, at_++ - start);
    }

    /// Any value, read over.
    void skip() {
        skip_space();
        if (at_ == text_.size()) throw Wrong("it ends too early");
        switch (text_[at_]) {
        case '{': return object([this](std::string_view) { skip(); });
        case '[': return array([this] { skip(); });
        case '"': raw_string(); return;
        case 't': return word("true");
        case 'f': return word("false");
        case 'n': return word("null");
        default: return number();
        }
    }

    /// That nothing follows.
    void end() {
        skip_space();
        if (at_ != text_.size()) throw Wrong("there is more than one value");
    }

    /// Whether an object comes next.
    bool object_next() {
        skip_space();
        return at_ < text_.size() && text_[at_] == '{';
    }

private:
    /// What is nested too deeply would use up the shard's stack.
    static constexpr int DEPTH_MAX = 128;

    struct Nested {
        explicit Nested(Reader &reader) : reader_(reader) {
            if (++reader_.depth_ > DEPTH_MAX) throw Wrong("it is nested too deeply");
        }
        ~Nested() { --reader_.depth_; }
        Nested(const Nested &) = delete;
        Nested &operator=(const Nested &) = delete;

    private:
        Reader &reader_;
    };

    void skip_space() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
    }

    bool take(char letter) {
        skip_space();
        if (at_ == text_.size() || text_[at_] != letter) return false;
        ++at_;
        return true;
    }

    void expect(char letter) {
        if (!take(letter)) throw Wrong(std::string("a ") + letter + " is missing");
    }

    void word(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) throw Wrong("a word that is none of JSON");
        at_ += word.size();
    }

    bool digits() {
        const std::size_t start = at_;
        while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
        return at_ > start;
    }

    bool at(char letter) { return at_ < text_.size() && text_[at_] == letter; }

    void number() {
        if (at('-')) ++at_;
        const bool zero = at('0');
        const std::size_t start = at_;
        if (!digits() || (zero && at_ - start > 1)) throw Wrong("something that is no value");
        if (at('.')) {
            ++at_;
            if (!digits()) throw Wrong("a number has no digit after its point");
        }
        if (at('e') || at('E')) {
            ++at_;
            if (at('+') || at('-')) ++at_;
            if (!digits()) throw Wrong("a number has no digit in its exponent");
        }
    }

    void escape() {
        if (at_ == text_.size()) throw Wrong("a text has no end");
        const char letter = text_[at_++];
        if (letter != 'u') {
            if (std::string_view("\"\\/bfnrt").find(letter) == std::string_view::npos) throw Wrong("an escape that is none");
            return;
        }
        for (int digit = 0; digit < 4; ++digit, ++at_) {
            if (at_ == text_.size() || std::string_view("0123456789abcdefABCDEF").find(text_[at_]) == std::string_view::npos)
                throw Wrong("an escape that is none");
        }
    }

    /// Reads over one character of more than one byte: the well-formed sequences of Unicode's table 3-7, without overlong forms,
    /// halves of pairs, and what is beyond U+10FFFF.
    void utf8() {
        const auto byte = [this](std::size_t index) {
            return at_ + index < text_.size() ? static_cast<unsigned char>(text_[at_ + index]) : 0u;
        };
        const unsigned first = byte(0);
        std::size_t more = 1;
        unsigned low = 0x80, high = 0xbf;
        if (first >= 0xe0) more = 2;
        if (first >= 0xf0) more = 3;
        if (first == 0xe0) low = 0xa0;
        if (first == 0xed) high = 0x9f;
        if (first == 0xf0) low = 0x90;
        if (first == 0xf4) high = 0x8f;
        bool good = first >= 0xc2 && first <= 0xf4 && byte(1) >= low && byte(1) <= high;
        for (std::size_t index = 2; index <= more; ++index) good = good && byte(index) >= 0x80 && byte(index) <= 0xbf;
        if (!good) throw Wrong("a text is not UTF-8");
        at_ += more + 1;
    }

    std::string_view text_;
    std::size_t at_ = 0;
    int depth_ = 0;
};

}  // namespace json
