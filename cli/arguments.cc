#include "cli/arguments.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iomanip>
#include <numeric>
#include <optional>
#include <sstream>
#include <type_traits>

#include "lm/options/lists.h"

namespace hsattn::cli {
namespace {

std::string with_dashes(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

// Sets the one option called `name`; the value comes with the argument (--name=value) or is the next one.
class Setter : public lm::OptionVisitor {
 public:
  Setter(std::string name, std::optional<std::string> value, const std::string* next)
      : name_(std::move(name)), value_(std::move(value)), next_(next) {}

  bool found = false;
  bool used_next = false;

  void operator()(const char* name, std::string& value, const char*) override {
    if (matches(name)) value = text();
  }
  void operator()(const char* name, std::vector<std::string>& value, const char*) override {
    if (matches(name)) value.push_back(text());
  }
  void operator()(const char* name, std::vector<Index>& value, const char*) override {
    if (!matches(name)) return;
    try {
      value = lm::parse_numbers(concat("--", name_), text());
    } catch (const InvalidArgument& error) {
      throw UsageError(error.what());
    }
  }
  void operator()(const char* name, Index& value, const char*) override {
    if (matches(name)) value = number<Index>("a whole number");
  }
  void operator()(const char* name, double& value, const char*) override {
    if (matches(name)) value = number<double>("a number");
  }
  void operator()(const char* name, bool& value, const char*) override {
    const bool negated = name_ == "no-" + with_dashes(name);
    if (!negated && !matches(name)) return;
    found = true;
    if (value_ && (negated || (*value_ != "true" && *value_ != "false"))) {
      throw UsageError("--" + name_ + " takes no value, or true or false; " + *value_ + " was given");
    }
    value = !negated && value_ != "false";
  }

 private:
  bool matches(const char* name) {
    const bool same = with_dashes(name) == name_;
    found = found || same;
    return same;
  }

  std::string text() {
    if (value_) return *value_;
    if (next_ == nullptr) throw UsageError("--" + name_ + " needs a value");
    used_next = true;
    return *next_;
  }

  template <class T>
  T number(const char* kind) {
    const std::string word = text();
    T value{};
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    bool right = error == std::errc() && end == word.data() + word.size();
    if constexpr (std::is_floating_point_v<T>) right = right && std::isfinite(value);
    if (!right) {
      throw UsageError("--" + name_ + " is " + word + "; " + kind + " is right");
    }
    return value;
  }

  std::string name_;
  std::optional<std::string> value_;
  const std::string* next_;
};

// Appends one word to the list option `name`.
class WordSetter : public Setter {
 public:
  WordSetter(const char* name, const std::string& word) : Setter(with_dashes(name), word, nullptr) {}
};

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t change = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, change});
    }
  }
  return row.back();
}

struct Row {
  std::string name, value, help;
};

// Lists options as text.
class Lister : public lm::OptionVisitor {
 public:
  std::vector<Row> rows;

  void operator()(const char* name, std::string& value, const char* help) override { add(name, value, help); }
  void operator()(const char* name, std::vector<std::string>&, const char* help) override { add(name, "", help); }
  void operator()(const char* name, std::vector<Index>& value, const char* help) override {
    std::ostringstream text;
    for (std::size_t i = 0; i < value.size(); ++i) text << (i == 0 ? "" : ",") << value[i];
    add(name, text.str(), help);
  }
  void operator()(const char* name, Index& value, const char* help) override { add(name, std::to_string(value), help); }
  void operator()(const char* name, double& value, const char* help) override {
    std::ostringstream text;
    text << value;
    add(name, text.str(), help);
  }
  void operator()(const char* name, bool& value, const char* help) override { add(name, value ? "on" : "off", help); }

 private:
  void add(const char* name, const std::string& value, const char* help) {
    rows.push_back({with_dashes(name), value, help});
  }
};

[[noreturn]] void unknown_option(const std::string& name, lm::Options& options) {
  Lister lister;
  options.visit(lister);
  std::string best;
  std::size_t best_distance = 4;  // farther names are no help
  for (const Row& row : lister.rows) {
    const std::size_t distance = edit_distance(name, row.name);
    if (distance < best_distance) best_distance = distance, best = row.name;
  }
  throw UsageError("unknown option --" + name +
                   (best.empty() ? "; --help lists them" : "; did you mean --" + best + "?"));
}

void set_options(const Arguments& arguments, lm::Options& options, const char* words) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!argument.starts_with("--")) {
      if (words == nullptr) throw UsageError("unexpected word " + argument + "; options start with --");
      WordSetter setter(words, argument);
      options.visit(setter);
      continue;
    }
    const std::size_t equal = argument.find('=');
    const std::string name = with_dashes(argument.substr(2, equal == std::string::npos ? equal : equal - 2));
    std::optional<std::string> value;
    if (equal != std::string::npos) value = argument.substr(equal + 1);
    Setter setter(name, value, i + 1 < arguments.size() ? &arguments[i + 1] : nullptr);
    options.visit(setter);
    if (!setter.found) unknown_option(name, options);
    if (setter.used_next) ++i;
  }
}

// Empties lists, which the second reading fills again.
class ListClearer : public lm::OptionVisitor {
 public:
  void operator()(const char*, std::string&, const char*) override {}
  void operator()(const char*, std::vector<std::string>& value, const char*) override { value.clear(); }
  void operator()(const char*, std::vector<Index>&, const char*) override {}  // set as a whole
  void operator()(const char*, Index&, const char*) override {}
  void operator()(const char*, double&, const char*) override {}
  void operator()(const char*, bool&, const char*) override {}
};

}  // namespace

void parse_arguments(const Arguments& arguments, lm::Options& options, const char* words) {
  set_options(arguments, options, words);
  options.apply_preset();  // the preset may stand anywhere; what is named wins over it
  ListClearer clearer;
  options.visit(clearer);
  set_options(arguments, options, words);
}

bool asks_for_help(const Arguments& arguments) {
  return std::any_of(arguments.begin(), arguments.end(),
                     [](const std::string& a) { return a == "--help" || a == "-h"; });
}

void print_options(lm::Options& options, std::ostream& out) {
  Lister lister;
  options.visit(lister);
  std::size_t width = 0;
  for (const Row& row : lister.rows) width = std::max(width, row.name.size());
  for (const Row& row : lister.rows) {
    out << "  --" << std::left << std::setw(static_cast<int>(width)) << row.name << "  " << row.help;
    if (!row.value.empty()) out << " [" << row.value << "]";
    out << "\n";
  }
}

}  // namespace hsattn::cli
