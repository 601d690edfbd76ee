#include "lm/tokenizer/tokenizer.h"

#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"
#include "hsattn/base/error.h"
#include "lm/data/documents.h"
#include "lm/data/files.h"
#include "lm/data/train_tokenizer.h"

namespace hsattn::cli {
namespace {

struct TokenizerOptions : lm::Options {
  std::vector<std::string> input;
  std::string tokenizer;
  std::string out;
  Index vocabulary = 8192;
  std::string split = "gpt2";
  std::string field = "text";
  bool skip_special = false;

  void visit(lm::OptionVisitor& option) override {
    option("input", input,
           "what to do and to which files: train | encode | decode | show | bench; without the option's name");
    option("tokenizer", tokenizer, "a tokenizer.json of byte-level BPE");
    option("out", out, "train: the tokenizer.json to write");
    option("vocabulary", vocabulary, "train: tokens, all bytes and <|endoftext|> among them");
    option("split", split, "train: where texts are cut: gpt2 | llama3 | qwen2");
    option("field", field, "name of the text in a .jsonl object");
    option("skip_special", skip_special, "decode: leave special tokens out");
  }
};

lm::Tokenizer read_tokenizer(const TokenizerOptions& o) {
  if (o.tokenizer.empty()) throw UsageError("no --tokenizer; name a tokenizer.json");
  return lm::Tokenizer::read(o.tokenizer);
}

// Begins the file and gives it up again: a place that cannot be written is refused before hours of work.
void check_writable(const std::string& path) { const lm::AtomicFile file(path); }

// Trained by the `tokenizers` package, then read back.
void train(const TokenizerOptions& o, std::ostream& out) {
  if (o.out.empty()) throw UsageError("train: no --out; name the tokenizer.json to write");
  if (o.vocabulary < 257 || o.vocabulary > 1 << 20) {
    throw UsageError(concat("--vocabulary is ", o.vocabulary, "; 257 to 1048576 is right"));
  }
  if (o.split != "gpt2" && o.split != "llama3" && o.split != "qwen2") {
    throw UsageError("--split is " + o.split + "; gpt2, llama3 or qwen2 are right");
  }
  check_writable(o.out);
  Index documents = 0, bad = 0;
  lm::train_tokenizer(o.input, o.field, {o.vocabulary, o.split, o.out}, documents, bad);
  if (bad > 0) std::cerr << "hsattn tokenizer: " << bad << " bad documents were left out\n";
  const lm::Tokenizer tokenizer = lm::Tokenizer::read(o.out);
  out << o.out << ": " << tokenizer.vocabulary() << " tokens, from " << documents << " documents\n";
}

// A JSON list of ids for each document.
void encode(const TokenizerOptions& o, std::ostream& out) {
  const lm::Tokenizer tokenizer = read_tokenizer(o);
  lm::Encoder encoder(tokenizer);
  for (const lm::Document& document : lm::read_documents(o.input, o.field).items) {
    std::vector<lm::Token> tokens;
    try {
      encoder.append(document.text, tokens);
    } catch (const InvalidArgument& error) {
      throw lm::FileError(document.name + ": " + error.what());
    }
    out << nlohmann::json(tokens).dump() << "\n";
  }
}

// The bytes of the lists of ids in the files, one after another.
void decode(const TokenizerOptions& o, std::ostream& out) {
  const lm::Tokenizer tokenizer = read_tokenizer(o);
  for (const lm::Document& document : lm::read_documents(o.input, o.field).items) {
    std::istringstream lines(document.text);
    for (std::string line; std::getline(lines, line);) {
      try {
        const auto tokens = nlohmann::json::parse(line).get<std::vector<lm::Token>>();
        out << tokenizer.decode(tokens, o.skip_special);
      } catch (const nlohmann::json::exception&) {
        throw lm::FileError(document.name + ": a line is no list of token ids");
      }
    }
  }
}

void show(const TokenizerOptions& o, std::ostream& out) {
  const lm::Tokenizer tokenizer = read_tokenizer(o);
  const lm::Token end = tokenizer.end_of_text();
  out << nlohmann::ordered_json{{"tokenizer", o.tokenizer},
                                {"vocabulary", tokenizer.vocabulary()},
                                {"fingerprint", lm::hex64(tokenizer.fingerprint())},
                                {"end_of_text", end == lm::kNoToken ? nlohmann::json() : nlohmann::json(end)}}
             .dump()
      << "\n";
}

// The best of several rounds over all the text, on one core; the first one, with nothing remembered yet, apart.
void bench(const TokenizerOptions& o, std::ostream& out) {
  constexpr int kRounds = 5;
  const lm::Tokenizer tokenizer = read_tokenizer(o);
  const lm::Documents documents = lm::read_documents(o.input, o.field);
  lm::Encoder encoder(tokenizer);
  std::vector<lm::Token> tokens;
  double bytes = 0, first = 0, best = 0;
  for (const lm::Document& document : documents.items) bytes += static_cast<double>(document.text.size());
  for (int round = 0; round < kRounds; ++round) {
    tokens.clear();
    const auto start = std::chrono::steady_clock::now();
    for (const lm::Document& document : documents.items) encoder.append(document.text, tokens);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double rate = 1e-6 * bytes / seconds;
    if (round == 0) first = rate;
    best = std::max(best, rate);
  }
  out << fixed(1e-6 * bytes, 2) << " MB, " << tokens.size() << " tokens, "
      << fixed(bytes / static_cast<double>(tokens.size()), 2) << " bytes per token: " << fixed(first, 1)
      << " MB/s at first, " << fixed(best, 1) << " MB/s at best\n";
}

int run(const Arguments& arguments, std::ostream& out) {
  static constexpr struct {
    const char* name;
    void (*run)(const TokenizerOptions&, std::ostream&);
    bool needs_input;
  } kActions[] = {{"train", train, true},
                  {"encode", encode, true},
                  {"decode", decode, true},
                  {"show", show, false},
                  {"bench", bench, true}};
  TokenizerOptions options;
  parse_arguments(arguments, options, "input");
  if (options.input.empty()) throw UsageError("no action; train, encode, decode, show or bench are right");
  const std::string action = options.input.front();
  options.input.erase(options.input.begin());
  for (const auto& known : kActions) {
    if (action != known.name) continue;
    if (known.needs_input && options.input.empty()) throw UsageError(action + ": no input; name files or folders");
    known.run(options, out);
    return kSuccess;
  }
  throw UsageError("unknown action " + action + "; train, encode, decode, show or bench are right");
}

void print(std::ostream& out) {
  TokenizerOptions options;
  print_options(options, out);
}

}  // namespace

Command tokenizer_command() {
  return {"tokenizer", "byte-level BPE: trained on texts, texts to tokens and back, how fast",
          "  hsattn tokenizer train data/train --vocabulary 8192 --out tokenizer.json\n"
          "  hsattn tokenizer show --tokenizer tokenizer.json\n"
          "  hsattn tokenizer encode notes.jsonl --tokenizer tokenizer.json\n"
          "  hsattn tokenizer bench data/train --tokenizer tokenizer.json\n",
          run, print};
}

}  // namespace hsattn::cli
