// The data sets of the literature, in the forms in which they are distributed, into a data folder. Documents stream
// through: memory does not grow with the corpus. A run that was killed goes on with the same bits.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "lm/data/prepare.h"

namespace hsattn::lm {

/// wikitext103, openwebtext or bookcorpus.
bool is_corpus(const std::string& name);

struct CorpusProgress {
  Index done = 0, all = 0;  ///< bytes of the input
  Index documents = 0, bad = 0;
  std::string line;  ///< something to say once; empty: nothing
};

/// Prepares the corpus that is the only input of `options` from `options.from`. WikiText has a split of its own:
/// valid becomes heldout.tokens, test becomes test.tokens. Of the others `options.fraction` of the documents, by a hash
/// of each, are held out. Throws InvalidArgument, FileError, Unsupported.
PrepareResult prepare_corpus(const PrepareOptions& options, const std::atomic<bool>& interrupted,
                             const std::function<void(const CorpusProgress&)>& report);

}  // namespace hsattn::lm
