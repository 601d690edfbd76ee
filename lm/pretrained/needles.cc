#include "lm/pretrained/needles.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <random>

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

constexpr std::array kColours = {"red",   "green", "blue",   "yellow", "black",  "white",
                                 "brown", "grey",  "purple", "silver", "golden", "orange"};
constexpr std::array kThings = {"boat",  "house", "horse", "garden", "bridge", "tower",
                                "train", "coat",  "river", "wagon",  "mill",   "lantern"};
static_assert(kColours.size() * kThings.size() == kMostNumbers);

struct Needle {
  std::string subject, number;

  std::string fact() const {
    return " The " + subject + " is " + number + ". Remember it. " + number + " is the " + subject + ".";
  }
  std::string question() const { return " What is the " + subject + "? The " + subject + " is"; }
};

// std::uniform_int_distribution and std::shuffle differ between libraries; this does not.
Index below(std::mt19937_64& random, Index count) {
  return static_cast<Index>(random() % static_cast<std::uint64_t>(count));
}

template <class Value>
void shuffle(std::vector<Value>& values, std::mt19937_64& random) {
  for (std::size_t i = values.size(); i > 1; --i) {
    std::swap(values[i - 1], values[static_cast<std::size_t>(below(random, static_cast<Index>(i)))]);
  }
}

std::vector<Needle> draw_needles(Index numbers, std::mt19937_64& random) {
  std::vector<std::string> subjects;
  for (const char* colour : kColours) {
    for (const char* thing : kThings) subjects.push_back(concat("number of the ", colour, " ", thing));
  }
  shuffle(subjects, random);
  if (numbers == 1) subjects[0] = "pass key";
  std::vector<Needle> needles;
  for (Index i = 0; i < numbers; ++i) {
    std::string number;
    for (Index digit = 0; digit < kDigitsOfNumber; ++digit) number += std::to_string(below(random, 10));
    needles.push_back({subjects[static_cast<std::size_t>(i)], number});
  }
  return needles;
}

// Questions and answers, and where the answers' digits are: what follows the tokens that the text with and without its
// digits has in common, such as a space of its own.
NeedleSample questions(const NeedleWords& words, std::vector<Needle> needles, std::mt19937_64& random) {
  shuffle(needles, random);
  NeedleSample sample;
  for (const Needle& needle : needles) {
    const std::vector<Token> open = words.encode(needle.question() + " ");
    const std::vector<Token> answered = words.encode(needle.question() + " " + needle.number);
    const auto first = std::mismatch(open.begin(), open.end(), answered.begin(), answered.end()).second;
    const auto begin = static_cast<Index>(sample.tokens.size());
    for (auto i = first - answered.begin(); i < std::ssize(answered); ++i) sample.asked.push_back(begin + i);
    sample.tokens.insert(sample.tokens.end(), answered.begin(), answered.end());
    const std::vector<Token> stop = words.encode(".");
    sample.tokens.insert(sample.tokens.end(), stop.begin(), stop.end());
  }
  return sample;
}

// `count` different places in the filler, ascending: ends of sentences, if there are enough of them.
std::vector<Index> draw_places(const NeedleWords& words, std::span<const Token> filler, Index count,
                               std::mt19937_64& random) {
  std::vector<Index> places;
  for (Index i = 0; i < std::ssize(filler); ++i) {
    if (words.ends_sentence(filler[static_cast<std::size_t>(i)])) places.push_back(i + 1);
  }
  if (std::ssize(places) < count) {
    places.resize(filler.size());
    std::iota(places.begin(), places.end(), Index{0});
  }
  shuffle(places, random);
  places.resize(static_cast<std::size_t>(count));
  std::sort(places.begin(), places.end());
  return places;
}

}  // namespace

NeedleSample needle_sample(const NeedleWords& words, std::span<const Token> filler, Index tokens, Index numbers,
                           std::uint64_t seed) {
  check(numbers >= 1 && numbers <= kMostNumbers, "needle_sample: numbers is ", numbers, "; 1 to ", kMostNumbers,
        " is right");
  std::mt19937_64 random(seed);
  const std::vector<Needle> needles = draw_needles(numbers, random);
  const NeedleSample end = questions(words, needles, random);
  std::vector<std::vector<Token>> facts;
  Index taken = std::ssize(end.tokens);
  for (const Needle& needle : needles) {
    facts.push_back(words.encode(needle.fact()));
    taken += std::ssize(facts.back());
  }
  const Index left = tokens - taken;
  check(left >= numbers, "needle_sample: ", numbers, " numbers and their questions take ", taken, " of ", tokens,
        " tokens; fewer numbers or more tokens are right");
  check(std::ssize(filler) >= left, "needle_sample: the text has ", filler.size(), " tokens; at least ", left,
        " are right");
  filler = filler.first(static_cast<std::size_t>(left));
  const std::vector<Index> places = draw_places(words, filler, numbers, random);
  NeedleSample sample;
  Index read = 0;
  const auto add_filler = [&](Index to) {
    sample.tokens.insert(sample.tokens.end(), filler.begin() + read, filler.begin() + to);
    read = to;
  };
  for (std::size_t i = 0; i < facts.size(); ++i) {
    add_filler(places[i]);
    sample.tokens.insert(sample.tokens.end(), facts[i].begin(), facts[i].end());
  }
  add_filler(left);
  for (const Index place : end.asked) sample.asked.push_back(std::ssize(sample.tokens) + place);
  sample.tokens.insert(sample.tokens.end(), end.tokens.begin(), end.tokens.end());
  return sample;
}

}  // namespace hsattn::lm
