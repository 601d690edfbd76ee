#include "lm/options/variants.h"

#include <charconv>

#include "hsattn/base/error.h"
#include "lm/options/lists.h"

namespace hsattn::lm {
namespace {

class TextSetter : public OptionVisitor {
 public:
  TextSetter(const std::string& name, const std::string& text) : name_(name), text_(text) {}

  bool found = false;

  void operator()(const char* name, std::string& value, const char*) override {
    if (matches(name)) value = text_;
  }
  void operator()(const char* name, std::vector<std::string>& value, const char*) override {
    if (matches(name)) value = split_list(text_);
  }
  void operator()(const char* name, std::vector<Index>& value, const char*) override {
    if (matches(name)) value = parse_numbers(name_, text_);
  }
  void operator()(const char* name, Index& value, const char*) override {
    if (matches(name)) value = number<Index>("a whole number");
  }
  void operator()(const char* name, double& value, const char*) override {
    if (matches(name)) value = number<double>("a number");
  }
  void operator()(const char* name, bool& value, const char*) override {
    if (!matches(name)) return;
    check(text_ == "true" || text_ == "false", name_, " is ", text_, "; true or false are right");
    value = text_ == "true";
  }

 private:
  bool matches(const char* name) {
    found = found || name_ == name;
    return name_ == name;
  }

  template <class T>
  T number(const char* kind) const {
    T value{};
    const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    check(error == std::errc() && end == text_.data() + text_.size(), name_, " is ", text_, "; ", kind, " is right");
    return value;
  }

  const std::string &name_, &text_;
};

}  // namespace

void set_option(Options& options, const std::string& name, const std::string& value) {
  TextSetter setter(name, value);
  options.visit(setter);
  check(setter.found, "there is no option ", name);
}

AttentionOptions attention_variant(const std::string& text, const AttentionOptions& base) {
  AttentionOptions options = base;
  std::size_t at = text.find(':');
  options.attention = text.substr(0, at);
  while (at != std::string::npos) {
    const std::size_t end = text.find(':', at + 1), equal = text.find('=', at);
    check(equal < end, "attention is ", text, "; NAME:option=value is right");
    set_option(options, text.substr(at + 1, equal - at - 1), text.substr(equal + 1, end - equal - 1));
    at = end;
  }
  return options;
}

}  // namespace hsattn::lm
