#include "lm/data/tasks.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "hsattn/base/error.h"
#include "lm/data/dice.h"
#include "lm/data/files.h"
#include "lm/data/token_writer.h"
#include "lm/options/json_options.h"

namespace hsattn::lm {
namespace {

constexpr const char* kLower = "abcdefghijklmnopqrstuvwxyz";
constexpr const char* kUpper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr const char* kDigits = "0123456789";

struct Task {
  const char* name;
  Index facts;         // 0: one for every 32 bytes, at most 64
  Index tag;           // letters of a tag
  Index value;         // bytes of a value
  const char* values;  // letters of a value
};

constexpr Task kTasks[] = {{"passkey", 4, 1, 5, kDigits}, {"recall", 0, 2, 2, kDigits}, {"copy", 4, 1, 16, kLower}};

const Task& task_named(const std::string& name) {
  for (const Task& task : kTasks) {
    if (name == task.name) return task;
  }
  throw InvalidArgument("task is " + name + "; passkey, recall or copy are right");
}

Index facts_of(const Task& task, Index length) {
  return task.facts > 0 ? task.facts : std::clamp<Index>(length / 32, 4, 64);
}

struct Fact {
  std::string tag, value;
};

// The separator that ends a document is the sample's last byte.
std::string sample(const Task& task, Index length, Dice& dice) {
  std::vector<Fact> facts;
  const Index count = facts_of(task, length);
  while (static_cast<Index>(facts.size()) < count) {
    const Fact fact{dice.word(task.tag, kUpper), dice.word(task.value, task.values)};
    const auto same = [&](const Fact& other) { return other.tag == fact.tag; };
    if (std::none_of(facts.begin(), facts.end(), same)) facts.push_back(fact);
  }
  const Index noise = length - 1 - count * (2 * task.tag + 2 * task.value + 5);  // "TAG:VALUE;" and "?TAG>VALUE;"
  std::vector<Index> places(static_cast<std::size_t>(count));
  for (Index& place : places) place = dice.below(noise + 1);
  std::sort(places.begin(), places.end());
  std::string text;
  for (Index i = 0, next = 0; i <= noise; ++i) {
    for (; next < count && places[static_cast<std::size_t>(next)] == i; ++next) {
      const Fact& fact = facts[static_cast<std::size_t>(next)];
      text.append(fact.tag).append(":").append(fact.value).append(";");
    }
    if (i < noise) text += dice.letter(kLower);
  }
  dice.shuffle(facts);
  for (const Fact& fact : facts) text.append("?").append(fact.tag).append(">").append(fact.value).append(";");
  return text;
}

void write_samples(const std::string& path, const Task& task, Index length, Index count, Dice& dice) {
  std::vector<std::string> texts;
  for (Index i = 0; i < count; ++i) texts.push_back(sample(task, length, dice));
  write_byte_tokens(path, std::vector<std::string_view>(texts.begin(), texts.end()));
}

}  // namespace

void write_task(const TaskOptions& given) {
  TaskOptions options = given;
  const Task& task = task_named(options.task);
  const Index questions = facts_of(task, options.length) * (2 * task.tag + 2 * task.value + 5);
  check(options.length >= questions + 64, "length is ", options.length, "; facts and questions of ", options.task,
        " take ", questions, " bytes, so at least ", questions + 64, " is right");
  check(options.length <= 1 << 20, "length is ", options.length, "; at most 1048576 is right");
  check(options.samples >= 2 && options.held_out >= 2, "samples is ", options.samples, ", held_out is ",
        options.held_out, "; at least 2 is right");
  make_folder(options.out);
  Dice dice(static_cast<std::uint64_t>(options.seed));
  write_samples(options.out + "/train.tokens", task, options.length, options.samples, dice);
  write_samples(options.out + "/heldout.tokens", task, options.length, options.held_out, dice);
  write_file(options.out + "/data.json", to_json(options).dump(2) + "\n");
}

std::vector<Answer> answers_in(std::span<const std::int64_t> tokens) {
  const auto size = static_cast<Index>(tokens.size());
  const auto find = [&](Index from, char what) {
    while (from < size && tokens[static_cast<std::size_t>(from)] != what) ++from;
    return from;
  };
  std::vector<Answer> answers;
  for (Index question = find(0, '?'); question < size; question = find(question + 1, '?')) {
    const Index mark = find(question, '>'), end = find(mark, ';'), tag = mark - question - 1;
    if (end >= size) break;
    // The fact: the same tag with a colon behind it.
    const auto same = [&](Index at) {
      return tokens[static_cast<std::size_t>(at + tag)] == ':' &&
             std::equal(tokens.begin() + at, tokens.begin() + at + tag, tokens.begin() + question + 1);
    };
    Index fact = 0;
    while (fact + tag < question && !same(fact)) ++fact;
    answers.push_back({mark + 1, end, question - fact});
  }
  return answers;
}

}  // namespace hsattn::lm
