#include "lm/data/corpus.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "hsattn/base/error.h"
#include "lm/data/document_reader.h"
#include "lm/data/documents.h"
#include "lm/data/text_encoder.h"
#include "lm/data/token_file.h"
#include "lm/options/json_options.h"
#include "lm/tokenizer/unicode.h"

namespace hsattn::lm {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Corpus {
  const char* name;
  Cutting cutting;
  bool own_split;       // files are named train, valid and test
  bool rows_are_lines;  // of Parquet
};
constexpr Corpus kCorpora[] = {{"wikitext103", Cutting::kArticles, true, true},
                               {"openwebtext", Cutting::kWhole, false, false},
                               {"bookcorpus", Cutting::kWhole, false, true}};

const Corpus* corpus_named(const std::string& name) {
  const auto* found =
      std::find_if(std::begin(kCorpora), std::end(kCorpora), [&](const Corpus& c) { return c.name == name; });
  return found == std::end(kCorpora) ? nullptr : found;
}

enum Part : std::size_t { kTrain, kHeldOut, kTest, kParts, kNone = kParts };
constexpr const char* kPartNames[kParts] = {"train", "heldout", "test"};
constexpr std::size_t kNamedBad = 1000;  // documents that are named; all are counted

struct Input {
  std::string path;
  Index bytes = 0;
};

std::vector<Input> inputs_of(const std::string& from) {
  std::vector<Input> out;
  std::error_code error;
  const bool folder = fs::is_directory(from, error);
  for (const std::string& path : folder ? files_under(from) : std::vector<std::string>{from}) {
    const std::uintmax_t bytes = fs::file_size(path, error);
    if (error) throw FileError(concat("cannot read ", path, ": ", error.message()));
    out.push_back({path, static_cast<Index>(bytes)});
  }
  return out;
}

// Where reading stands: behind `documents` of the file at `position` inside the input of this number.
struct Place {
  std::size_t input = 0;
  std::string position;
  Index documents = 0;
};

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const std::atomic<bool>& interrupted,
              const std::function<void(const CorpusProgress&)>& report)
      : options_(options),
        corpus_(*corpus_named(options.input.front())),
        interrupted_(interrupted),
        report_(report),
        inputs_(inputs_of(options.from)),
        encoder_(options.tokenizer),
        key_(make_key()) {
    for (const Input& input : inputs_) progress_.all += input.bytes;
  }

  PrepareResult run();

 private:
  std::string path_of(std::size_t part) const { return concat(options_.out, "/", kPartNames[part], ".tokens"); }
  std::string state_file() const { return options_.out + "/prepare.state.json"; }
  bool has(std::size_t part) const { return part != kTest || corpus_.own_split; }
  std::string make_key() const;
  void open_writers();
  bool go_on();
  void save();
  bool read_input();
  bool read_documents(Source& source);
  void add(const StreamedDocument& document, Part part);
  void add_bad(const std::string& what);
  Part part_of(const Source& source, const StreamedDocument& document) const;
  void finish();

  const PrepareOptions& options_;
  const Corpus& corpus_;
  const std::atomic<bool>& interrupted_;
  const std::function<void(const CorpusProgress&)>& report_;
  const std::vector<Input> inputs_;
  TextEncoder encoder_;
  const std::string key_;
  std::array<std::unique_ptr<TokenFileWriter>, kParts> writers_;
  Place place_;
  Index finished_bytes_ = 0;   // of inputs that are read to their end
  Index since_save_ = 0;       // bytes of text
  std::vector<Token> tokens_;  // of the present document
  CorpusProgress progress_;
  PrepareResult result_;
};

// What must be the same for a run to go on.
std::string Preparation::make_key() const {
  const Repeats& repeats = options_.repeats;
  Json key = {corpus_.name,    options_.seed, options_.fraction, options_.field, hex64(encoder_.format().tokenizer),
              repeats.passage, repeats.from,  repeats.to};
  for (const Input& input : inputs_) {
    key.push_back({input.path, input.bytes, fs::last_write_time(input.path).time_since_epoch().count()});
  }
  const std::string text = key.dump(-1, ' ', false, Json::error_handler_t::replace);
  Fnv64 hash;
  hash.add(text.data(), text.size());
  return hex64(hash.value());
}

void Preparation::open_writers() {
  if (go_on()) return;
  place_ = {};
  result_ = {};
  progress_.documents = progress_.bad = 0;
  for (std::size_t part = 0; part < kParts; ++part) {
    if (has(part)) writers_[part] = std::make_unique<TokenFileWriter>(path_of(part), encoder_.format());
  }
}

// True if an earlier run of the same preparation left a state and its files.
bool Preparation::go_on() {
  if (!fs::exists(state_file())) return false;
  try {
    const Json state = read_json(state_file());
    if (state.at("key") != key_) {
      report_({.line = "an unfinished preparation of something else is overwritten"});
      return false;
    }
    place_ = {state.at("input").get<std::size_t>(), state.at("position").get<std::string>(),
              state.at("documents_in_file").get<Index>()};
    progress_.documents = state.at("documents").get<Index>();
    result_.bad_documents = state.at("bad_documents").get<Index>();
    result_.bad = state.at("bad").get<std::vector<std::string>>();
    for (std::size_t part = 0; part < kParts; ++part) {
      if (!has(part)) continue;
      const auto numbers = state.at(kPartNames[part]).get<std::vector<std::uint64_t>>();
      const TokenFileWriter::State written{numbers.at(0), numbers.at(1), numbers.at(2)};
      writers_[part] = std::make_unique<TokenFileWriter>(path_of(part), encoder_.format(), &written);
    }
  } catch (const std::exception&) {  // a file is gone or damaged
    for (auto& writer : writers_) writer.reset();
    report_({.line = "an unfinished preparation cannot go on; starting anew"});
    return false;
  }
  for (std::size_t i = 0; i < place_.input && i < inputs_.size(); ++i) finished_bytes_ += inputs_[i].bytes;
  progress_.bad = result_.bad_documents;
  report_({.line = concat("going on behind ", progress_.documents, " documents of an earlier run")});
  return true;
}

void Preparation::save() {
  Json state = {{"key", key_},
                {"input", place_.input},
                {"position", place_.position},
                {"documents_in_file", place_.documents},
                {"documents", progress_.documents},
                {"bad_documents", result_.bad_documents},
                {"bad", result_.bad}};
  for (std::size_t part = 0; part < kParts; ++part) {
    if (!has(part)) continue;
    const TokenFileWriter::State s = writers_[part]->sync();
    state[kPartNames[part]] = {s.tokens, s.documents, s.hash};
  }
  write_file(state_file(), state.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  for (auto& writer : writers_) {
    if (writer) writer->keep();
  }
  since_save_ = 0;
}

PrepareResult Preparation::run() {
  make_folder(options_.out);
  open_writers();
  save();
  while (place_.input < inputs_.size()) {
    if (!read_input()) {
      save();
      result_.interrupted = true;
      return result_;
    }
  }
  finish();
  return result_;
}

// False: interrupted.
bool Preparation::read_input() {
  const Input& input = inputs_[place_.input];
  std::unique_ptr<Source> source;
  const SourceOptions how{corpus_.rows_are_lines, options_.field};
  source = open_source(input.path, how, place_.position);
  if (!read_documents(*source)) return false;
  finished_bytes_ += input.bytes;
  place_ = {place_.input + 1, "", 0};
  return true;
}

bool Preparation::read_documents(Source& source) {
  DocumentReader reader(source, corpus_.cutting, options_.field);
  const Place start = place_;
  for (StreamedDocument document; reader.next(document);) {
    if (source.position() == start.position && document.number < start.documents) continue;
    if (interrupted_) return false;
    place_.position = source.position();
    place_.documents = document.number + 1;
    if (!document.bad.empty()) {
      add_bad(concat(document.name, ": ", document.bad));
    } else if (const Part part = part_of(source, document); part != kNone) {
      add(document, part);
    }
    progress_.done = finished_bytes_ + source.consumed();
    report_(progress_);
    if (since_save_ >= options_.save_every << 20) save();
  }
  return true;
}

Part Preparation::part_of(const Source& source, const StreamedDocument& document) const {
  if (corpus_.own_split) {
    const std::string name = fs::path(source.name()).filename().string();
    if (name.find("train") != std::string::npos) return kTrain;
    if (name.find("valid") != std::string::npos) return kHeldOut;
    return name.find("test") != std::string::npos ? kTest : kNone;
  }
  Fnv64 hash;
  hash.add(&options_.seed, sizeof options_.seed);
  hash.add(document.text.data(), document.text.size());
  std::uint64_t bits = hash.value();
  bits = (bits ^ bits >> 32) * 0x9e3779b97f4a7c15ull;
  return static_cast<double>(bits >> 11) < options_.fraction * 0x1p53 ? kHeldOut : kTrain;
}

void Preparation::add(const StreamedDocument& document, Part part) {
  const std::string_view text = document.text;
  if (const std::size_t at = invalid_utf8(text); at != std::string_view::npos) {
    return add_bad(concat(document.name, ": byte ", at, " is not UTF-8"));
  }
  if (const std::size_t at = text.find('\0'); at != std::string_view::npos) {
    return add_bad(concat(document.name, ": byte ", at, " is zero; no text"));
  }
  encoder_.encode(with_repeats(text, options_.repeats, options_.seed), tokens_);
  writers_[part]->add(tokens_);
  since_save_ += static_cast<Index>(text.size());
  ++progress_.documents;
}

void Preparation::add_bad(const std::string& what) {
  progress_.bad = ++result_.bad_documents;
  if (result_.bad.size() < kNamedBad) {
    result_.bad.push_back(what);
    report_({.line = what + "; left out"});
  }
}

void Preparation::finish() {
  if (progress_.documents == 0) {
    for (auto& writer : writers_) writer.reset();
    for (std::size_t part = 0; part < kParts; ++part) fs::remove(path_of(part) + ".part");
    for (std::size_t part = 0; part < kParts; ++part) fs::remove(path_of(part) + ".starts.part");
    fs::remove(state_file());
    throw FileError(concat("no text of ", corpus_.name, " in ", options_.from,
                           corpus_.own_split ? "; files with train, valid or test in their names are right" : "",
                           result_.bad.empty() ? "" : concat(" (", result_.bad.front(), ")")));
  }
  struct Sum {
    Index &tokens, &documents;
    std::string& hash;
  } sums[kParts] = {{result_.train_tokens, result_.train_documents, result_.train_hash},
                    {result_.held_out_tokens, result_.held_out_documents, result_.held_out_hash},
                    {result_.test_tokens, result_.test_documents, result_.test_hash}};
  for (std::size_t part = 0; part < kParts; ++part) {
    if (!has(part)) continue;
    writers_[part]->commit();
    const TokenFile file(path_of(part), /*verify=*/false);
    sums[part].tokens = file.tokens();
    sums[part].documents = file.documents();
    sums[part].hash = hex64(file.hash());
  }
  result_.corpus = corpus_.name;
  result_.split = corpus_.own_split ? "own" : "document";
  result_.vocabulary = encoder_.format().vocabulary;
  if (encoder_.tokenizer() != nullptr) write_file(options_.out + "/" + kTokenizerFile, read_file(options_.tokenizer));
  write_summary(options_, result_);
  sync_folder(options_.out);
  fs::remove(state_file());
}

}  // namespace

bool is_corpus(const std::string& name) { return corpus_named(name) != nullptr; }

PrepareResult prepare_corpus(const PrepareOptions& options, const std::atomic<bool>& interrupted,
                             const std::function<void(const CorpusProgress&)>& report) {
  check(options.input.size() == 1 && is_corpus(options.input.front()),
        "with --from one of wikitext103, openwebtext and bookcorpus is right",
        options.input.empty() ? "" : concat("; ", options.input.front(), " was named"));
  check(options.held_out.empty(), "held_out does not go with --from");
  PrepareOptions complete = options;
  if (complete.out.empty()) complete.out = "runs/" + options.input.front();
  check_prepare_options(complete);
  return Preparation(complete, interrupted, report).run();
}

}  // namespace hsattn::lm
