#include "lm/data/prepare.h"

#include <chrono>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"
#include "hsattn/base/error.h"
#include "lm/data/corpus.h"

namespace hsattn::cli {
namespace {

struct CommandOptions : lm::Options {
  lm::PrepareOptions prepare;
  bool json = false;

  void visit(lm::OptionVisitor& option) override {
    prepare.visit(option);
    option("json", json, "print the result as one JSON object");
  }
};

// A bar on a terminal; in a pipe a line now and then.
class Reporter {
 public:
  void operator()(const lm::CorpusProgress& p) {
    if (!p.line.empty()) {
      progress_.line("hsattn prepare: " + p.line);
      return;
    }
    const auto now = Clock::now();
    if (now - drawn_ < std::chrono::milliseconds(200)) return;
    drawn_ = now;
    if (first_ < 0) first_ = p.done;
    const double seconds = std::chrono::duration<double>(now - started_).count();
    const double rate = static_cast<double>(p.done - first_) / seconds;
    const double left = rate > 0 ? static_cast<double>(p.all - p.done) / rate : 0;
    const std::string text = concat(
        "eta ", duration(left), ", ", fixed(1e-6 * rate, 1), " MB/s, ", fixed(1e-6 * static_cast<double>(p.done), 0),
        " of ", fixed(1e-6 * static_cast<double>(p.all), 0), " MB, ", p.documents, " documents, ", p.bad, " left out");
    progress_.bar(p.done, p.all, text);
    if (!progress_.terminal() && now - logged_ >= std::chrono::seconds(10)) {
      logged_ = now;
      progress_.line(text);
    }
  }
  void finish() { progress_.finish(); }

 private:
  using Clock = std::chrono::steady_clock;
  Progress progress_;
  Clock::time_point started_ = Clock::now(), logged_ = started_, drawn_{};
  Index first_ = -1;  // bytes that an earlier run had read
};

void print_json(const lm::PrepareOptions& o, const lm::PrepareResult& r, std::ostream& out) {
  nlohmann::ordered_json json = {{"out", o.out},
                                 {"corpus", r.corpus},
                                 {"split", r.split},
                                 {"vocabulary", r.vocabulary},
                                 {"train", {{"tokens", r.train_tokens}, {"documents", r.train_documents}}},
                                 {"heldout", {{"tokens", r.held_out_tokens}, {"documents", r.held_out_documents}}}};
  if (!r.test_hash.empty()) json["test"] = {{"tokens", r.test_tokens}, {"documents", r.test_documents}};
  json["bad_documents"] = r.bad_documents;
  out << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
}

void print_table(const lm::PrepareOptions& o, const lm::PrepareResult& r, std::ostream& out) {
  out << o.out << "/train.tokens    " << r.train_tokens << " tokens, " << r.train_documents << " documents\n"
      << o.out << "/heldout.tokens  " << r.held_out_tokens << " tokens, " << r.held_out_documents
      << " documents (split: " << r.split << ")\n";
  if (!r.test_hash.empty()) {
    out << o.out << "/test.tokens     " << r.test_tokens << " tokens, " << r.test_documents << " documents\n";
  }
  if (r.bad_documents > 0) out << r.bad_documents << " bad documents were left out; data.json names them\n";
}

lm::PrepareResult prepare_from(lm::PrepareOptions& options) {
  if (options.input.size() != 1 || !lm::is_corpus(options.input.front())) {
    throw UsageError("--from goes with one of wikitext103, openwebtext, bookcorpus");
  }
  if (options.out.empty()) options.out = "runs/" + options.input.front();
  Reporter reporter;
  lm::PrepareResult result =
      lm::prepare_corpus(options, interrupted(), [&](const lm::CorpusProgress& p) { reporter(p); });
  reporter.finish();
  return result;
}

lm::PrepareResult prepare_files(const lm::PrepareOptions& options) {
  if (!options.input.empty() && lm::is_corpus(options.input.front()) &&
      !std::filesystem::exists(options.input.front())) {
    throw UsageError(options.input.front() + ": no --from; name the file or folder that was downloaded");
  }
  lm::PrepareResult result = lm::prepare(options);
  for (const std::string& path : result.skipped) std::cerr << "hsattn prepare: " << path << " is no text; skipped\n";
  for (const std::string& document : result.bad) std::cerr << "hsattn prepare: " << document << "; left out\n";
  return result;
}

int run(const Arguments& arguments, std::ostream& out) {
  CommandOptions options;
  parse_arguments(arguments, options, "input");
  const lm::PrepareResult result =
      options.prepare.from.empty() ? prepare_files(options.prepare) : prepare_from(options.prepare);
  if (result.interrupted) {
    std::cerr << "hsattn prepare: interrupted and saved; the same command goes on\n";
    return kInterrupted;
  }
  if (result.held_out_tokens == 0 && options.prepare.fraction > 0) {
    std::cerr << "hsattn prepare: nothing is held out: there is too little text for it\n";
  }
  if (options.json) {
    print_json(options.prepare, result, out);
  } else {
    print_table(options.prepare, result, out);
  }
  return kSuccess;
}

void print(std::ostream& out) {
  CommandOptions options;
  print_options(options, out);
}

}  // namespace

Command prepare_command() {
  return {"prepare", "text to token files, split into a training and a held-out part",
          "  hsattn prepare books/ --out runs/data\n"
          "  hsattn prepare train.txt.gz notes.jsonl --held-out valid.txt --out runs/data\n"
          "  hsattn prepare wikitext103 --from wikitext-103-v1.zip --tokenizer tokenizer.json\n"
          "  hsattn prepare openwebtext --from openwebtext.tar.xz --fraction 0.005 --out runs/owt\n",
          run, print};
}

}  // namespace hsattn::cli
