// Values of a template: what Jinja takes from Python, as far as chat templates need it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace hsattn::lm::jinja {

/// Limits of what a template may make; far above what a conversation needs, so more is damage or ill will.
constexpr std::size_t kMostBytes = std::size_t{1} << 26;
constexpr int kDeepest = 100;  ///< lists and objects in each other

class Value;
using List = std::vector<Value>;

/// Members in the order in which they were set.
struct Object {
  std::vector<std::pair<std::string, Value>> members;
  bool is_namespace = false;  ///< made by namespace(): its members may be set

  const Value* find(const std::string& name) const;
  /// Throws as Value(Object).
  void set(const std::string& name, Value value);
};

/// Throws FileError if a text is longer than kMostBytes.
void check_length(std::size_t bytes);

struct Undefined {
  std::string name;  ///< what was looked for
};
struct None {};

class Value {
 public:
  using Content = std::variant<Undefined, None, bool, std::int64_t, double, std::string, std::shared_ptr<const List>,
                               std::shared_ptr<Object>>;

  Value() : content_(None()) {}
  template <class T>
    requires std::is_constructible_v<Content, T&&>
  Value(T&& content) : content_(std::forward<T>(content)) {}  // a value of each kind is a Value
  Value(const char* text) : content_(std::string(text)) {}
  /// Throw FileError if lists and objects lie too deep in each other; Unsupported for a namespace inside, which could
  /// come to hold itself.
  Value(List list);
  Value(Object object);

  template <class T>
  const T* get() const {
    return std::get_if<T>(&content_);
  }
  bool undefined() const { return get<Undefined>() != nullptr; }
  bool none() const { return get<None>() != nullptr; }
  bool number() const { return get<std::int64_t>() != nullptr || get<double>() != nullptr || get<bool>() != nullptr; }
  const std::string* text() const { return get<std::string>(); }
  const List* list() const;
  const Object* object() const;
  Object* mutable_object() const;

  /// As Python's bool().
  bool truth() const;
  int depth() const { return depth_; }
  /// As Python's ==; values of different kinds are not equal, numbers of different kinds may be. Throws Unsupported for
  /// two lists or objects that are not empty.
  bool operator==(const Value& other) const;
  /// "a text", "a list", ... for messages.
  std::string kind() const;
  /// What {{ value }} prints. Throws Unsupported for lists and objects, of which Python prints a form of its own.
  std::string printed() const;
  /// As Python's json.dumps(ensure_ascii=False, indent=indent); negative: on one line. Throws FileError for what is no
  /// JSON.
  std::string to_json(int indent) const;

 private:
  void append_json(std::string& out, int indent, int depth) const;

  Content content_;
  int depth_ = 0;  // of lists and objects
};

}  // namespace hsattn::lm::jinja
