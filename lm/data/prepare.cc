#include "lm/data/prepare.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string_view>

#include "hsattn/base/error.h"
#include "lm/data/documents.h"
#include "lm/data/files.h"
#include "lm/data/text_encoder.h"
#include "lm/data/token_file.h"
#include "lm/data/token_writer.h"

namespace hsattn::lm {
namespace {

constexpr std::size_t kDocumentsForSplit = 20;  // below, whole documents are too coarse a share

// A document or a part of one; views of what was read.
struct Piece {
  std::string_view name, text;
};

struct Split {
  std::vector<Piece> train, held_out;
};

// Ranks documents by a hash of seed and text and holds out the first ones until they reach the share; order kept.
Split split_by_document(const std::vector<Document>& documents, double fraction, Index seed) {
  std::vector<std::uint64_t> rank;
  Index total = 0;
  for (const Document& document : documents) {
    Fnv64 hash;
    hash.add(&seed, sizeof seed);
    hash.add(document.text.data(), document.text.size());
    rank.push_back(hash.value());
    total += static_cast<Index>(document.text.size());
  }
  std::vector<std::size_t> order(documents.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rank[a] < rank[b]; });
  std::vector<bool> held(documents.size(), false);
  double wanted = fraction * static_cast<double>(total);
  for (std::size_t i = 0; i + 1 < order.size() && wanted > 0; ++i) {
    held[order[i]] = true;
    wanted -= static_cast<double>(documents[order[i]].text.size());
  }
  Split split;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    (held[i] ? split.held_out : split.train).push_back({documents[i].name, documents[i].text});
  }
  return split;
}

// `at`, or the first byte behind it that does not go on with a character of UTF-8.
std::size_t start_of_character(std::string_view text, std::size_t at) {
  const std::size_t last = std::min(text.size(), at + 3);
  while (at < last && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  return at;
}

Split split_tails(const std::vector<Document>& documents, double fraction) {
  Split split;
  for (const Document& document : documents) {
    const std::string_view text = document.text;
    const std::size_t cut =
        start_of_character(text, text.size() - static_cast<std::size_t>(fraction * static_cast<double>(text.size())));
    split.train.push_back({document.name, text.substr(0, cut)});
    if (cut < text.size()) split.held_out.push_back({document.name, text.substr(cut)});
  }
  return split;
}

void write_part(const std::string& path, const std::vector<Piece>& pieces, const PrepareOptions& options,
                TextEncoder& encoder, std::vector<std::string>& bad) {
  TokenFileWriter writer(path, encoder.format());
  std::vector<Token> tokens;
  for (const Piece& piece : pieces) {
    try {
      encoder.encode(with_repeats(piece.text, options.repeats, options.seed), tokens);
    } catch (const InvalidArgument& error) {
      bad.push_back(concat(piece.name, ": ", error.what()));
      continue;
    }
    writer.add(tokens);
  }
  writer.commit();
}

}  // namespace

void check_prepare_options(const PrepareOptions& o) {
  check(!o.input.empty(), "no input; name files or folders");
  check(!o.out.empty(), "no --out; name the folder to write");
  check(o.split == "auto" || o.split == "document" || o.split == "tail", "split is ", o.split,
        "; auto, document or tail are right");
  check(o.fraction >= 0 && o.fraction <= 0.5, "fraction is ", o.fraction, "; 0 to 0.5 is right");
  check(o.save_every >= 1, "save_every is ", o.save_every, "; at least 1 is right");
  check_repeats(o.repeats);
}

void write_summary(const PrepareOptions& o, const PrepareResult& r) {
  nlohmann::ordered_json summary = {
      {"corpus", r.corpus},
      {"input", o.input},
      {"from", o.from},
      {"held_out", o.held_out},
      {"split", r.split},
      {"fraction", o.fraction},
      {"seed", o.seed},
      {"repeats", {{"passage", o.repeats.passage}, {"from", o.repeats.from}, {"to", o.repeats.to}}},
      {"token", o.tokenizer.empty() ? "bytes; 0 ends a document" : o.tokenizer},
      {"vocabulary", r.vocabulary},
      {"train", {{"tokens", r.train_tokens}, {"documents", r.train_documents}, {"hash", r.train_hash}}},
      {"heldout", {{"tokens", r.held_out_tokens}, {"documents", r.held_out_documents}, {"hash", r.held_out_hash}}}};
  if (!r.test_hash.empty()) {
    summary["test"] = {{"tokens", r.test_tokens}, {"documents", r.test_documents}, {"hash", r.test_hash}};
  }
  summary["skipped"] = r.skipped;
  summary["bad_documents"] = r.bad_documents;
  summary["bad"] = r.bad;
  write_file(o.out + "/data.json", summary.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

PrepareResult prepare(const PrepareOptions& options) {
  check_prepare_options(options);
  TextEncoder encoder(options.tokenizer);
  const Documents documents = read_documents(options.input, options.field);
  const Documents apart = read_documents(options.held_out, options.field);
  PrepareResult result;
  result.skipped = documents.skipped;
  result.skipped.insert(result.skipped.end(), apart.skipped.begin(), apart.skipped.end());

  Split split;
  if (!apart.items.empty()) {
    result.split = "given";
    for (const Document& document : documents.items) split.train.push_back({document.name, document.text});
    for (const Document& document : apart.items) split.held_out.push_back({document.name, document.text});
  } else {
    const bool many = documents.items.size() >= kDocumentsForSplit;
    result.split = options.split == "auto" ? (many ? "document" : "tail") : options.split;
    split = result.split == "document" ? split_by_document(documents.items, options.fraction, options.seed)
                                       : split_tails(documents.items, options.fraction);
  }

  make_folder(options.out);
  const std::string train_path = options.out + "/train.tokens", held_out_path = options.out + "/heldout.tokens";
  write_part(train_path, split.train, options, encoder, result.bad);
  write_part(held_out_path, split.held_out, options, encoder, result.bad);
  result.bad_documents = static_cast<Index>(result.bad.size());
  if (encoder.tokenizer() != nullptr) write_file(options.out + "/" + kTokenizerFile, read_file(options.tokenizer));
  result.vocabulary = encoder.format().vocabulary;
  const TokenFile train(train_path), held_out(held_out_path);  // read back: the files are whole
  result.train_tokens = train.tokens();
  result.train_documents = train.documents();
  result.train_hash = hex64(train.hash());
  result.held_out_tokens = held_out.tokens();
  result.held_out_documents = held_out.documents();
  result.held_out_hash = hex64(held_out.hash());
  write_summary(options, result);
  return result;
}

}  // namespace hsattn::lm
