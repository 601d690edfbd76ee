// From text to a data folder: train.tokens, heldout.tokens and data.json, which says what they hold.
#pragma once

#include <string>
#include <vector>

#include "hsattn/base/types.h"
#include "lm/data/repeats.h"
#include "lm/options/option_visitor.h"

namespace hsattn::lm {

struct PrepareOptions : Options {
  std::vector<std::string> input;
  std::string from;
  std::vector<std::string> held_out;
  std::string out;
  std::string split = "auto";
  double fraction = 0.05;
  std::string field = "text";
  std::string tokenizer;
  Repeats repeats;
  Index seed = 1;
  Index save_every = 256;

  void visit(OptionVisitor& option) override {
    option("input", input, "files or folders: plain text, .gz, .jsonl; also without the option's name");
    option("from", from,
           "with wikitext103, openwebtext or bookcorpus as the input: the file or folder that was downloaded");
    option("held_out", held_out, "files or folders for evaluation only; then nothing else is held out");
    option("out", out, "folder to write: train.tokens, heldout.tokens, data.json");
    option("split", split,
           "auto | document | tail: hold out whole documents, or the end of each (auto: from 20 documents)");
    option("fraction", fraction, "share of the bytes that is held out, 0 to 0.5");
    option("field", field, "name of the text in a .jsonl object");
    option("tokenizer", tokenizer, "tokenizer.json of byte-level BPE, copied into the folder; without: bytes");
    option("repeat_passages", repeats.passage,
           "cut texts into passages of about so many bytes, each of which comes twice; 0: texts as they are");
    option("repeat_from", repeats.from, "least bytes between a passage and its second time");
    option("repeat_to", repeats.to,
           "most bytes between them; each doubling of the distance is as likely as the others");
    option("seed", seed, "decides which documents are held out, and where passages come again");
    option("save_every", save_every, "with --from: MiB of text between the points from which a killed run goes on");
  }
};

struct PrepareResult {
  Index train_tokens = 0, train_documents = 0;
  Index held_out_tokens = 0, held_out_documents = 0;
  Index test_tokens = 0, test_documents = 0;  ///< only of a corpus that has a test part
  std::string split;
  std::string corpus;  ///< empty: files of the user
  std::string train_hash, held_out_hash, test_hash;
  Index vocabulary = 256;
  Index bad_documents = 0;
  bool interrupted = false;          ///< prepare_corpus(): the same call goes on
  std::vector<std::string> skipped;  ///< files that are no text
  std::vector<std::string> bad;      ///< documents that are left out, each with the reason
};

/// Throws InvalidArgument, naming the option.
void check_prepare_options(const PrepareOptions& options);

/// Writes data.json.
void write_summary(const PrepareOptions& options, const PrepareResult& result);

/// Documents that a tokenizer cannot take, as they are not UTF-8, are left out and named in the result.
/// Throws InvalidArgument for options that do not fit, FileError for files.
PrepareResult prepare(const PrepareOptions& options);

}  // namespace hsattn::lm
